"""`--profile ray`: what a raylet expects of a process it has started, with the files of the environment at
their places, and nothing of other processes in sight. Each promise has a control that can do without."""

import json
import os
import pathlib
import signal
import subprocess
import time
import zipfile

import pytest

from conftest import PLAIN_UID, become, make_launcher
from daemon_support import own_daemon, through, wait_until  # noqa: F401
from test_command import processes_with, wait_for

RAY = ('--profile', 'ray')


@pytest.fixture(scope='module')
def node(programs, tmp_path_factory):
    daemon = own_daemon(programs, tmp_path_factory.mktemp('node')) if os.geteuid() == 0 else None
    yield daemon
    if daemon:
        daemon.stop()


@pytest.fixture(params=['embedded root', 'embedded user', 'daemon root', 'daemon user'])
def rt(request, programs, tmp_path, node):
    if 'root' in request.param and os.geteuid() != 0 or 'daemon' in request.param and node is None:
        pytest.skip('needs root')
    uid = PLAIN_UID if 'user' in request.param and os.geteuid() == 0 else 0
    if 'daemon' in request.param:
        rt = through(node, tmp_path, uid)
        rt.store = str(node.store)
        return rt
    return make_launcher(programs, tmp_path, uid)


def make(rt, *more):
    project = rt.make_files('project', {'main.py': 'import sys; print("main", sys.argv[1:])'})
    return rt.ok('env', 'create', '--working-dir', project, *more, verb='env').strip()


def execute(rt, made, *args, **more):
    return rt.run('exec', made, *args, verb='exec', **more)


class Running:
    """A command that has said its pid and waits; ended at the latest by `with`."""

    def __init__(self, rt, *options, script='echo $$; read line', env=None, preexec=None, **more):
        def prepare():
            if preexec:
                preexec()
            if rt.uid:
                become(rt.uid)()
        self.process = subprocess.Popen(rt.command(*options, '--', 'sh', '-c', script), env={**rt.env, **(env or {})}, cwd=rt.home,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=prepare, **more)
        self.pid = int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def status(self, name):
        for line in pathlib.Path(f'/proc/{self.pid}/status').read_text().splitlines():
            if line.startswith(name + ':'):
                return line.split()[1:]


def test_its_pid_is_the_same_inside_and_outside(rt):
    for _ in range(5):
        with Running(rt, *RAY) as worker:
            assert worker.status('NSpid') == [str(worker.pid)] * 2
            assert pathlib.Path(f'/proc/{worker.pid}/cmdline').read_bytes().startswith(b'sh\0-c\0echo')
    with Running(rt) as control:
        assert control.pid == 2


def test_it_leads_a_group_that_is_not_its_clients(rt):
    with Running(rt, *RAY, script='sleep 1000 & echo $$; wait') as worker:
        assert os.getpgid(worker.pid) == os.getsid(worker.pid) == worker.pid
        os.killpg(os.getpgid(worker.pid), signal.SIGTERM)
        assert worker.process.wait(10) == 128 + signal.SIGTERM


@pytest.mark.parametrize('name', ['KILL', 'TERM'])
def test_a_signal_to_its_pid_ends_it(rt, name):
    with Running(rt, *RAY, script='setsid sleep 1000 & echo $$; wait') as worker:
        number = getattr(signal, 'SIG' + name)
        os.kill(worker.pid, number)
        assert worker.process.wait(10) == 128 + number
        wait_for(lambda: not os.path.exists(f'/proc/{worker.pid}'))


def test_exit_statuses_are_the_commands(rt):
    assert rt.run(*RAY, '--', 'sh', '-c', 'exit 7').returncode == 7
    assert rt.run(*RAY, '--', 'sh', '-c', 'kill -SEGV $$').returncode == 128 + signal.SIGSEGV
    rt.fails(*RAY, '--', 'no-such-command', code=127)


def test_of_the_host_only_processes_are_out_of_sight(rt):
    shared = rt.make_dir('shared')
    of_the_host = pathlib.Path(f'/tmp/of-the-host-{os.getpid()}')
    of_the_host.touch()
    script = f'''echo written 2>/dev/null > {shared}/file; for n in mnt pid ipc uts net; do readlink /proc/self/ns/$n; done
                 ls /proc | grep -c "^[0-9]"; ls /tmp | grep -c "^{of_the_host.name}$"; ls -A /dev | wc -l; hostname'''
    outside = [subprocess.Popen(['sleep', '600']) for _ in range(8)]
    try:
        lines = rt.ok(*RAY, '--', 'sh', '-c', script).split()
    finally:
        for process in outside:
            process.kill()
            process.wait()
    host = [os.readlink(f'/proc/self/ns/{name}') for name in ('mnt', 'pid', 'ipc', 'uts', 'net')]
    assert [a == b for a, b in zip(lines, host)] == [False, False, True, True, True]
    assert int(lines[5]) < len(outside)
    assert int(lines[6]) == 1
    assert lines[8] == os.uname().nodename
    assert int(lines[7]) == len(os.listdir('/dev'))
    assert (shared / 'file').read_text() == 'written\n'
    (shared / 'file').unlink()
    control = rt.ok('--', 'sh', '-c', script, cwd='/').split()
    assert control[2] != host[2] and int(control[6]) == 0 and not (shared / 'file').exists()
    of_the_host.unlink()


def test_shared_memory_is_the_hosts(rt):
    path = f'/dev/shm/rtlaunch-test-{os.getpid()}-{rt.uid}'
    try:
        rt.ok(*RAY, '--', 'sh', '-c', f'echo shared > {path}')
        assert pathlib.Path(path).read_text() == 'shared\n'
    finally:
        pathlib.Path(path).unlink(missing_ok=True)
    rt.ok('--', 'sh', '-c', f'echo private > {path}')
    assert not os.path.exists(path)


def test_it_has_no_more_rights_than_with_another_profile(rt):
    script = 'grep -E "^(NoNewPrivs|Cap...|Uid|Gid)" /proc/self/status'
    lines = rt.ok(*RAY, '--', 'sh', '-c', script)
    assert lines == rt.ok('--', 'sh', '-c', script) and 'NoNewPrivs:\t1' in lines
    if rt.uid:
        assert 'CapBnd:\t0000000000000000' in lines
    assert rt.run(*RAY, '--', 'sh', '-c', f'umount /proc || mount -t tmpfs none {rt.home}').returncode != 0


def test_proc_is_whole(rt):
    script = ('import os\nfor name in ("stat", "meminfo", "cpuinfo", "uptime", "net/dev", "self/smaps_rollup", "self/io", "1/stat"):\n'
              '  assert open("/proc/" + name).read(), name\n'
              'os.kill(os.getppid() or 1, 0) if os.getuid() == 0 else None\nprint(os.statvfs("/proc/sys").f_flag & os.ST_RDONLY)')
    assert rt.ok(*RAY, '--', 'python3', '-c', script) == '0\n'
    assert rt.ok('--', 'python3', '-c', script) == '1\n'


def test_pid_1_stands_for_the_raylet(rt):
    script = 'echo ${RAY_RAYLET_PID:-none}'
    assert rt.ok(*RAY, '--', 'sh', '-c', script, env={'RAY_RAYLET_PID': '4711'}) == '1\n'
    assert rt.ok(*RAY, '--', 'sh', '-c', script) == 'none\n'
    assert rt.ok('--', 'sh', '-c', script, env={'RAY_RAYLET_PID': '4711'}) == '4711\n'


def test_the_layers_are_at_the_places_that_were_named(rt):
    modules = [rt.make_files(f'modules/m{i}', {f'm{i}/__init__.py': f'NUMBER = {i}'}) for i in (0, 1)]
    places = [rt.make_dir(f'session/{name}') for name in ('wd', 'm0', 'm1')]
    runtime_env = {'py_modules': [str(m / m.name) for m in modules]}
    env = make(rt, '--runtime-env', json.dumps(runtime_env))
    options = [*RAY, '--working-dir-at', places[0], '--py-module-at', places[1], '--py-module-at', places[2]]
    script = ('import os, main, m0, m1\nopen("new", "w").write("x")\nopen("main.py", "a").write("#")\n'
              'print(os.getcwd(), sorted(os.listdir()), m0.NUMBER, m1.NUMBER, os.environ["PYTHONPATH"])')
    in_order = ':'.join(map(str, places))
    for given, wanted in (('', in_order), ('/x', in_order + ':/x'), (in_order, in_order), (f'/x:{in_order}:/y', f'/x:{in_order}:/y')):
        done = execute(rt, env, *options, '--', 'python3', '-B', '-c', script, env={'PYTHONPATH': given} if given else {})
        assert done.stdout.splitlines()[-1] == f"{places[0]} ['main.py', 'new'] 0 1 {wanted}", done.stderr
        assert done.stderr == '', 'a raylet has many workers, and one log'
    assert all(not os.listdir(place) for place in places), 'the host has seen nothing of it'
    assert 'dropped' in execute(rt, env, '--', 'touch', 'new').stderr
    assert execute(rt, env, *options, '--keep', rt.make_dir('kept'), '--', 'touch', 'new').returncode == 0
    assert os.listdir(rt.folder / 'kept') == ['new']
    assert (rt.folder / 'project/main.py').read_text().endswith(')')


def test_what_has_no_place_on_the_host_gets_one(rt):
    archive = rt.make_dir('archives') / 'app.zip'
    with zipfile.ZipFile(archive, 'w') as zip:
        zip.writestr('app/tool.py', 'print("tool")')
        zip.writestr('run.py', 'import app.tool, greet; print(greet.WORD)')
    rt.own(archive)
    module = rt.make_files('mods/greet', {'__init__.py': 'WORD = "hello"'})
    runtime_env = json.dumps({'working_dir': str(archive), 'py_modules': [str(module)]})
    assert rt.ok('--runtime-env', runtime_env, *RAY, '--', 'sh', '-c', 'echo > new && python3 -B run.py') == 'tool\nhello\n'
    listed = rt.ok('--runtime-env', runtime_env, *RAY, '--', 'ls', rt.store).split()
    assert listed == ['py_modules', 'working_dir'], 'nothing else of the store'


def test_the_store_is_hidden(rt):
    env = make(rt)
    assert execute(rt, env, *RAY, '--', 'ls', '-A', rt.store).stdout == ''
    assert os.listdir(rt.store)


def test_packages_are_over_the_interpreters_own(rt, empty_base):
    env = rt.ok('env', 'create', '--python', empty_base / 'bin/python', '--pip', 'idna==3.7', verb='env').strip()
    script = 'import idna, sys; print(idna.__version__, sys.prefix)'
    done = execute(rt, env, *RAY, '--', empty_base / 'bin/python', '-c', script)
    assert done.stdout == f'3.7 {empty_base}\n', done.stderr
    assert subprocess.run([empty_base / 'bin/python', '-c', script], capture_output=True).returncode != 0


def test_places_that_cant_be_are_errors(rt):
    env = make(rt)
    assert 'py_modules' in execute(rt, env, *RAY, '--py-module-at', rt.home, '--', 'true').stderr
    missing = execute(rt, env, *RAY, '--working-dir-at', rt.folder / 'no-such-folder', '--', 'true')
    assert missing.returncode == 125 and 'no-such-folder' in missing.stderr
    assert execute(rt, env, *RAY, '--working-dir-at', 'relative', '--', 'true').returncode == 125
    assert execute(rt, env, '--profile', 'no-such', '--', 'true').returncode == 125
    assert rt.run(*RAY, '--working-dir-at', rt.home, '--', 'true').returncode == 125, 'there is no working_dir'
    assert execute(rt, env, *RAY, '--working-dir-at', rt.home, '--', 'true').returncode == 0


def test_a_place_that_is_closed_to_the_caller_is_refused(rt):
    if not rt.uid:
        return   # nothing is closed to root
    closed = rt.folder / 'closed'
    (closed / 'there').mkdir(parents=True)
    closed.chmod(0o700)
    env = make(rt)
    texts = {execute(rt, env, *RAY, '--working-dir-at', closed / name, '--', 'true').stderr.replace(name, '')
             for name in ('there', 'gone')}
    assert len(texts) == 1, 'what is in a closed directory is not told'
    texts = {execute(rt, env, *RAY, '--hide', closed / name, '--', 'true').stderr.replace(name, '') for name in ('there', 'gone')}
    assert len(texts) == 1


def test_folders_can_be_hidden(rt):
    other = rt.make_files('session_other', {'secret': 'x'})
    own = rt.make_dir('session_own')
    look = ['--', 'sh', '-c', f'ls -A {other} | wc -l; ls -A {rt.folder} | wc -l']
    assert rt.ok(*RAY, *look).split()[0] == '1'
    hidden = rt.ok(*RAY, '--hide', other, '--hide', rt.folder / 'not-there', *look).split()
    assert hidden[0] == '0' and int(hidden[1]) > 0
    env = make(rt)
    done = execute(rt, env, *RAY, '--hide', own.parent, '--working-dir-at', own, '--', 'sh', '-c', f'ls {own.parent} {own}')
    assert 'main.py' in done.stdout and 'session_other' not in done.stdout, 'a place in a hidden folder is there'
    rt.fails(*RAY, '--hide', '/proc', '--', 'true')


def test_other_sessions_are_out_of_sight(rt):
    other = rt.make_files('session_other', {'secret': 'x'})
    own = rt.make_files('session_own', {'mine': 'x'})
    (rt.folder / 'session_latest').symlink_to(own)
    look = ['--', 'sh', '-c', f'ls -A {other} {own} {rt.folder}/session_latest/ | grep -cE "secret|mine"']
    assert rt.ok(*RAY, *look).split() == ['3']
    assert rt.ok(*RAY, '--session', own, *look).split() == ['2']
    assert execute(rt, make(rt), *RAY, '--session', own, *look).stdout.split() == ['2']


@pytest.mark.parametrize('profile', ['ml', 'ray'])
def test_it_ends_with_its_parent(rt, profile):
    word = f'sleep 91{os.getpid()}{rt.uid}'
    def start(*options):
        command = rt.command(*options, '--', 'sh', '-c', f'{word}; exit 1')
        parent = subprocess.Popen(['sh', '-c', '"$@" & wait', 'sh', *command], env=rt.env, cwd=rt.home, preexec_fn=become(rt.uid))
        wait_for(lambda: processes_with(word.replace(' ', '\0')))
        client = int(pathlib.Path(f'/proc/{parent.pid}/task/{parent.pid}/children').read_text().split()[0])
        parent.kill()
        parent.wait()
        return client
    start('--profile', profile, '--die-with-parent')
    wait_for(lambda: not processes_with(word.replace(' ', '\0')) and not processes_with(word))
    client = start('--profile', profile)
    time.sleep(0.3)
    assert processes_with(word.replace(' ', '\0')), 'without the option it goes on'
    os.kill(client, signal.SIGKILL)
    wait_for(lambda: not processes_with(word.replace(' ', '\0')))


def test_inherited_descriptors_live_as_long_as_the_client_and_no_longer(rt):
    """A raylet takes the end of file of such a pipe for the end of its worker."""
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    with Running(rt, *RAY, script='ls -l /proc/self/fd >&2; echo $$; read line', close_fds=False, stderr=subprocess.PIPE) as worker:
        os.close(theirs)
        os.set_blocking(ours, False)
        with pytest.raises(BlockingIOError):
            os.read(ours, 1)
        holders = [pid for pid in filter(str.isdigit, os.listdir('/proc')) if holds(pid, os.fstat(ours).st_ino)]
        assert sorted(holders) == sorted([str(worker.process.pid), str(os.getpid())])
        os.kill(worker.pid, signal.SIGKILL)
        worker.process.wait()
        assert os.read(ours, 1) == b''
        assert b'pipe:[%d]' % os.fstat(ours).st_ino not in worker.process.stderr.read()
    os.close(ours)


def holds(pid, inode):
    try:
        return any(os.readlink(f'/proc/{pid}/fd/{fd}') == f'pipe:[{inode}]' for fd in os.listdir(f'/proc/{pid}/fd'))
    except OSError:
        return False


def test_the_clients_own_words_are_the_commands(rt):
    env = make(rt)
    words = ['sh', '-c', 'echo; read line', '-m', 'ray.util.client.server']
    process = subprocess.Popen([rt.program, 'exec', env, *RAY, '--', *words], env=rt.env, cwd=rt.home, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, preexec_fn=become(rt.uid))
    assert process.stdout.readline() == b'\n'
    assert '\0'.join(words).encode() in pathlib.Path(f'/proc/{process.pid}/cmdline').read_bytes()
    process.kill()
    process.wait()


@pytest.mark.parametrize('profile', ['ml', 'ray'])
def test_what_the_oom_killer_thinks_of_it_is_the_callers_choice(rt, profile):
    choose = lambda: pathlib.Path('/proc/self/oom_score_adj').write_text('777')
    script = 'read score < /proc/self/oom_score_adj; echo $score; read line'
    with Running(rt, '--profile', profile, script=script, preexec=choose) as worker:
        assert worker.pid == 777
    with Running(rt, '--profile', profile, script=script) as control:
        assert control.pid == int(pathlib.Path('/proc/self/oom_score_adj').read_text())


def test_a_daemon_in_another_pid_namespace_is_refused(rt):
    if not hasattr(rt, 'daemon') or rt.uid:
        return
    nested = ['unshare', '--pid', '--fork', '--mount-proc', *rt.command(*RAY, '--', 'echo', 'ran')]
    done = subprocess.run(nested, env=rt.env, cwd=rt.home, capture_output=True, text=True)
    assert done.returncode == 125 and 'pid namespace' in done.stderr and not done.stdout, done.stderr
    without = subprocess.run([word for word in nested if word not in RAY], env=rt.env, cwd=rt.home, capture_output=True, text=True)
    assert without.stdout == 'ran\n', without.stderr


def test_a_visit_sees_what_the_command_sees(rt):
    if not hasattr(rt, 'daemon'):
        return
    with Running(rt, *RAY) as worker:
        running = lambda: [w['id'] for w in json.loads(rt.ok('ps', '--json', verb='ps')) if w['state'] == 'running']
        ident = wait_until(running)[-1]   # the command may be sooner than the daemon's note of it
        seen = rt.ok('enter', ident, '--', 'sh', '-c', f'readlink /proc/{worker.pid}/ns/pid /proc/self/ns/pid; ls -A /tmp | wc -l', verb='enter').split()
        assert seen[0] == seen[1] and int(seen[2]) == len(os.listdir('/tmp'))


def test_nothing_is_left(rt):
    mounts = open('/proc/self/mountinfo').read()
    word = f'sleep 92{os.getpid()}'
    env = make(rt)
    place = rt.make_dir('place')
    done = execute(rt, env, *RAY, '--working-dir-at', place, '--', 'sh', '-c', f'setsid {word} >/dev/null 2>&1 & echo > x; exit 4')
    assert done.returncode == 4
    assert not processes_with(word.replace(' ', '\0')) and not os.listdir(place)
    assert open('/proc/self/mountinfo').read() == mounts
