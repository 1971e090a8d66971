"""rtlaunchd, its spawner and its starts while they are killed, starved and crowded: no worker is lost, nothing
is left, and whoever asked has either what he asked for or is told to try again. `make soak` runs the same
at full length. What one kill at a known moment does is tested in test_daemon_server.py and
test_daemon_run.py; jumps of the clock in tools/clock-jump (`make test-vm`), since a clock can't be one process's
own."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import SYSTEM_PYTHON
from daemon_support import Client, wait_until, workers_of
from faults_support import (SECONDS, SOAK, Marks, Node, Stepper, Supervisor, amount, children_of, fill, memory_files, node,
                            small_disk, turns)

USER, OTHER = 12345, 12346
HERE = pathlib.Path(__file__).parent


def project_of(node, uid, name='project', **files):
    """A folder of that user's, for --working-dir."""
    return node.launcher(uid).make_files(name, files or {'told': name})


# --- nothing is left ---------------------------------------------------------------------------------------------

def leave(process, how, node):
    """One of the ways in which a start or a worker ends."""
    if how == 'by itself':
        process.stdin.close()
        assert process.wait(20) == 4, process.stderr.read()
    elif how == 'client killed':
        process.kill()
    elif how == 'client killed while it starts':
        time.sleep(random.random() * 0.008)
        process.kill()
    elif how == 'signalled':
        process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    else:
        process.stdout.readline()
        # Those of earlier turns may still be ending.
        wait_until(lambda: [w['state'] for w in node.workers()] == ['running'])
        os.kill(node.workers()[0]['pid'], signal.SIGKILL)
        assert process.wait(20) == 128 + signal.SIGKILL, process.stderr.read()
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


# Attacks: F9; control: test_what_is_left_would_be_seen
def test_nothing_is_left_of_starts_and_kills(node):
    ways = ['by itself', 'client killed', 'client killed while it starts', 'client killed while it starts',
            'signalled', 'pid 1 killed']
    launchers = [node.launcher(uid) for uid in (0, USER)]
    options = [[], ['--working-dir', project_of(node, 0)], ['--working-dir', project_of(node, USER)]]

    def cycle(i):
        kind = i % 3
        process = launchers[kind == 2].popen(*options[kind], '--', 'sh', '-c', 'echo ready; read line; exit 4',
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        leave(process, ways[i // 3 % len(ways)], node)
    for i in range(18):
        cycle(i)
    node.settle()
    memory = memory_files()
    for i in turns(300, 10_000):
        cycle(i)
    node.expect_settled()
    if SOAK:   # other programs of the machine have memory files as well
        assert memory_files() - memory < 64 << 20
    assert node.memory() < 30 << 20 or SECONDS   # a sanitizer's shadow counts
    assert not [line for line in node.all_logs().splitlines() if 'Sanitizer' in line or 'runtime error' in line]


def test_what_is_left_would_be_seen(node):
    """The control of all tests here: each kind of leak alone makes a difference."""
    node.settle()
    subprocess.run(['mount', '-t', 'tmpfs', 'leak', '/mnt'], check=True)
    assert set(node.difference()) >= {'mounts of the host'}
    subprocess.run(['umount', '/mnt'], check=True)
    (node.runtime / 'workers/0123456789ab').touch()
    assert set(node.difference()) == {'runtime folder'}
    (node.runtime / 'workers/0123456789ab').unlink()
    leak = subprocess.Popen(['unshare', '--mount', 'sleep', '100'])
    wait_until(lambda: set(node.difference()) == {'processes', 'mount namespaces'})
    leak.kill()
    leak.wait()
    client = node.client()
    wait_until(lambda: set(node.difference()) == {'descriptors of the daemon'})
    client.close()
    if node.cgroup():
        (node.cgroup() / 'w-leak').mkdir()
        assert set(node.difference()) == {'cgroup leaves'}
        (node.cgroup() / 'w-leak').rmdir()
    (node.store / 'tmp/leak').mkdir(parents=True)
    assert set(node.difference()) == {'store'}
    (node.store / 'tmp/leak').rmdir()
    node.expect_settled()


# --- killed at every system call ------------------------------------------------------------------------------------

@pytest.fixture(scope='session')
def stepper(tmp_path_factory):
    built = pathlib.Path(os.environ.get('RTLAUNCH_GUESTS', '/nonexistent')) / 'stepper'
    if not built.exists():
        built = tmp_path_factory.mktemp('stepper') / 'stepper'
        subprocess.run(['gcc', '-O1', '-static', HERE / 'guests/stepper.c', '-o', built], check=True)
    return built


def start_under(node, stepper, marks, nth, victims, options):
    """A start at whose nth system call the victims are killed. How many calls it took, when they were fewer."""
    daemon, spawner = node.process.pid, node.spawner()
    pids = {'daemon': daemon, 'spawner': spawner, 'itself': 0}
    path, command = marks.command(options=options)
    made_ahead = set(children_of(spawner)) - {w['pid'] for w in node.workers()}
    step = Stepper(stepper, nth, [pids[name] for name in victims], [daemon, spawner, *made_ahead])
    client = marks.launcher.popen(*command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    counted = step.killed(client)
    if counted is None and 'daemon' in victims:
        node.process.wait()
        node.start()
    if 'itself' in victims:   # that may have been one of the daemon's threads
        node.start_if_dead()
    client.wait(40)
    error = client.stderr.read()
    client.stderr.close()
    marks.judge(path, client, error, killed='itself' in victims)
    return counted


# Attacks: J5; control: test_what_is_left_would_be_seen
@pytest.mark.parametrize('victims', [['spawner'], ['daemon'], ['spawner', 'daemon'], ['itself']], ids='+'.join)
def test_killed_at_every_system_call_of_a_start(node, stepper, victims):
    options = ['--working-dir', project_of(node, USER)]
    node.add_worker(*options, uid=USER)
    layers = node.layers()
    marks = Marks(node.launcher(USER))
    marks.run(*options)
    node.settle()
    calls = start_under(node, stepper, marks, 0, victims, options)
    assert calls > 100   # it is a start that is watched
    node.expect_settled()
    step = amount(max(1, calls // 24), 1)
    for turn, nth in enumerate(range(1 + calls % step, calls + 1, step)):
        start_under(node, stepper, marks, nth, victims, options)
        node.expect_alive()
        node.expect_settled()
        if victims == ['spawner'] and turn % 3 == 2:   # which comes later and later when it dies again and again
            node.restart()
            node.expect_settled()
    assert marks.ran > (0 if 'itself' in victims else marks.count // 2)
    node.collect_all()
    assert node.layers() == layers and len(layers) == 1
    node.expect_alive('there project')
    node.end_workers()
    node.expect_collectable()   # nobody else leases it, dead or alive


# --- killed all the time ----------------------------------------------------------------------------------------------

def test_starts_while_the_daemon_is_killed_every_50_ms(node):
    options = {uid: ['--working-dir', project_of(node, uid, f'project-{uid}')] for uid in (0, USER)}
    for uid in (0, USER, USER):
        node.add_worker(*options[uid], uid=uid)
    layers = node.layers()
    assert len(layers) == 2
    marks = [Marks(node.launcher(uid)) for uid in (0, USER)]
    for one, uid in zip(marks, (0, USER)):
        one.run(*options[uid])
    node.settle()
    over = threading.Event()

    def collect():
        while not over.wait(0.2):
            node.collect_all()
            assert node.layers() == layers
    with Supervisor(node) as supervisor, ThreadPoolExecutor(5) as pool:
        collector = pool.submit(collect)
        try:
            while sum(one.count for one in marks) < amount(60, 1000) or supervisor.kills < 10:
                runs = [pool.submit(marks[i % 2].run, *options[(0, USER)[i % 2]]) for i in range(20)]
                for run in runs:
                    run.result()
        finally:
            over.set()
            collector.result()
    assert sum(one.ran for one in marks) > sum(one.refused for one in marks), [vars(one) for one in marks]
    node.expect_alive('there project')
    node.expect_workers()
    node.expect_settled()
    node.collect_all()
    assert node.layers() == layers
    node.end_workers()


# --- adopted ------------------------------------------------------------------------------------------------------------

def kill_both(node):
    spawner = node.spawner()
    os.kill(node.process.pid, signal.SIGSTOP)   # it shall not start another one
    os.kill(spawner, signal.SIGKILL)
    node.restart()


def upgrade(node):
    newer = node.folder / f'newer-{node.runs}'
    shutil.copytree(node.programs, newer)
    node.programs = newer
    node.restart()
    assert os.readlink(f'/proc/{node.process.pid}/exe') == str(newer / 'rtlaunchd')
    assert os.path.samefile(f'/proc/{node.spawner()}/exe', newer / 'rtlaunch-spawner')   # on a mount of its own


def drained(node):
    assert node.stop() == 0
    node.start()


@pytest.mark.parametrize('restart', [Node.restart, kill_both, upgrade, drained], ids=lambda f: f.__name__)
def test_workers_are_adopted(node, restart):
    options = ['--working-dir', project_of(node, USER)]
    launcher = node.launcher(USER)
    ask = lambda *args: launcher.run(*args, verb=args[0], timeout=30)
    first, second, third = (node.add_worker(*options, uid=USER) for _ in range(3))
    pids = {w['id']: w['pid'] for w in node.workers()}
    for _ in range(2):
        restart(node)
        shown = {w['id']: w for w in json.loads(ask('ps', '--json').stdout)}
        assert {ident: w['pid'] for ident, w in shown.items()} == pids
        assert all(w['state'] == 'running' and w['uid'] == USER for w in shown.values())
        node.expect_alive('there project')
        done = ask('enter', first.worker, '--', 'sh', '-c', 'cat told; id -u; exit 9')
        assert (done.returncode, done.stdout) == (9, f'project{USER}\n'), done.stderr
    node.collect_all()
    assert len(node.layers()) == 1
    assert ask('kill', first.worker, 'SIGTERM').returncode == 0
    assert first.wait(10) == 128 + signal.SIGTERM
    assert ask('kill', second.worker, 'SIGKILL').returncode == 0
    assert second.wait(10) == 128 + signal.SIGKILL
    third.stdin.close()
    assert third.wait(10) == 7
    node.alive.clear()
    wait_until(lambda: node.workers() == [])
    history = {w['id']: w['status'] for w in node.workers(all=True)}
    # Whose pid 1 was killed could leave no status.
    assert {i: history[i] for i in pids} == {first.worker: signal.SIGTERM, second.worker: None, third.worker: 7 << 8}
    assert workers_of(node.runtime) == []
    node.expect_collectable()


def test_starts_under_way_are_finished_before_an_end_by_sigterm(node):
    marks = Marks(node.launcher(USER))
    marks.run()
    node.settle()
    for _ in range(amount(3, 100)):
        with ThreadPoolExecutor(8) as pool:
            runs = [pool.submit(marks.run) for _ in range(8)]
            time.sleep(random.random() * 0.05)
            assert node.stop() == 0
            node.start()
            for run in runs:
                run.result()
    assert marks.refused == 0   # whoever was refused has tried again
    node.expect_settled()


def test_a_second_daemon_refuses_while_the_first_works(node):
    marks = Marks(node.launcher(0))
    for options in ([], ['--socket', node.folder / 'other.sock']):
        second = node.spawn(*options)
        marks.run()
        assert second.wait(10) == 125 and 'another rtlaunchd lives here' in node.log()
    assert not os.path.exists(node.folder / 'other.sock')
    node.kill()   # its lock goes with it, its socket stays, and is taken over
    assert os.path.exists(node.socket)
    node.start()
    marks.run()


ACTIVATOR = '''import os, select, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
listener.listen(100)
while True:   # as systemd does: the daemon comes with the first connection, and again after its death
    select.select([listener], [], [])
    pid = os.fork()
    if pid == 0:
        os.dup2(os.dup(listener.fileno()), 3)
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
        os.execv(sys.argv[2], sys.argv[2:])
    print(pid, flush=True)
    os.waitpid(pid, 0)
'''


def test_started_by_its_socket_and_again_when_it_is_killed(node, tmp_path):
    node.stop()
    os.unlink(node.socket)
    path = str(tmp_path / 'activated.sock')
    launcher = node.launcher(USER)
    launcher.env['RTLAUNCH_SOCKET'] = path
    with open(tmp_path / 'log', 'w') as log:
        activator = subprocess.Popen([SYSTEM_PYTHON, '-c', ACTIVATOR, path, node.programs / 'rtlaunchd', '--store', node.store,
                                      '--runtime', node.runtime, '--metrics', 'off'], stdout=subprocess.PIPE, stderr=log, text=True)
    wait_until(lambda: os.path.exists(path))
    marks = Marks(launcher)
    try:
        for _ in range(amount(4, 50)):
            runs = [threading.Thread(target=marks.run) for _ in range(4)]
            for run in runs:
                run.start()
            pid = int(activator.stdout.readline())
            for run in runs:
                run.join()
            assert Client(path).hello['pid'] == pid
            os.kill(pid, signal.SIGKILL)
        assert marks.ran == marks.count
        assert not os.path.exists(node.socket)
    finally:
        activator.kill()
        activator.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- no room, no folder ----------------------------------------------------------------------------------------------------

@pytest.fixture
def crowded(node, tmp_path):
    """A daemon whose store is on a disk of 32 MB."""
    node.stop()
    with small_disk(tmp_path / 'disk', 32) as disk:
        node.store = disk / 'store'
        node.start()
        yield node
        node.finish()


def expect_no_space(done):
    assert done.returncode == 125, (done.returncode, done.stderr)
    errors = [line for line in done.stderr.splitlines() if 'error: ' in line]
    assert len(errors) == 1 and 'space' in errors[0].lower() or 'full' in errors[0].lower(), done.stderr
    assert 'cure: ' in done.stderr


def staging(node):
    return sorted(path.name for part in ('tmp', 'trash') for path in (node.store / part).glob('*'))


def test_a_disk_that_is_full_during_a_build(crowded):
    launcher = crowded.launcher(USER)
    big = launcher.make_dir('big')
    (big / 'file').write_bytes(os.urandom(40 << 20))
    many = launcher.make_files('many', {f'{i // 100}/{i}': str(i) for i in range(25_000)})
    small = project_of(crowded, USER, 'small')
    for project in (big, many):
        expect_no_space(launcher.run('--working-dir', project, '--', 'true'))
        assert staging(crowded) == [] and crowded.layers() == []
        assert launcher.ok('--working-dir', small, '--', 'cat', 'told') == 'small'
        crowded.expect_collectable()
    crowded.settle()


def test_a_disk_that_is_full_at_any_moment_of_a_publish(crowded):
    """It is fuller each time: at first all goes well, in the end nothing does."""
    launcher, seen = crowded.launcher(USER), set()
    launcher.run('--working-dir', project_of(crowded, USER, 'first'), '--', 'true')
    crowded.collect_all()
    room = [*range(9 << 20, 1 << 20, -(1 << 20)), *range(1 << 20, -1, -(1 << 20) // amount(16, 256))]
    for number, leave_bytes in enumerate(room):
        project = project_of(crowded, USER, f'project-{number}', data='x' * 100_000, told=str(number), deep='y')
        fill(crowded.store.parent, leave_bytes)
        done = launcher.run('--working-dir', project, '--', 'cat', 'told')
        seen.add(done.returncode)
        (crowded.store.parent / 'filler').unlink()
        if done.returncode == 0:
            assert done.stdout == str(number)
        else:
            expect_no_space(done)
        assert staging(crowded) == []
        crowded.expect_collectable()
    assert seen == {0, 125}
    assert launcher.ok('--working-dir', project, '--', 'cat', 'told') == str(number)


# Attacks: C9
def test_a_worker_that_fills_its_private_copy_hurts_nobody(node):
    launcher = node.launcher(USER)
    project = project_of(node, USER)
    launcher.ok('--working-dir', project, '--', 'true')
    node.settle()
    script = 'cat told; dd if=/dev/zero of=big bs=64k 2>/dev/null; echo $?; rm big; echo y > small && cat small'
    done = launcher.run('--upper-size', '2M', '--working-dir', project, '--', 'sh', '-c', script)
    assert done.stdout == 'project1\ny\n', done
    done = launcher.run('--upper-size', '16M', '--working-dir', project, '--', 'sh', '-c', script.replace('bs=64k', 'bs=64k count=64'))
    assert done.stdout == 'project0\ny\n', 'the control run: twice as much, where there is room'
    node.expect_settled()


def test_a_runtime_folder_without_room(node, tmp_path):
    node.stop()
    with small_disk(tmp_path / 'run', 1) as folder:
        node.runtime, node.socket = folder, str(folder / 'rtlaunchd.sock')
        launcher = node.launcher(USER)
        launcher.env['RTLAUNCH_SOCKET'] = node.socket
        node.start()
        marks = Marks(launcher)
        node.add_worker(uid=USER)
        fill(folder, 0)
        done = launcher.run('--', 'true', timeout=30)
        assert done.returncode in (0, 125), done
        if done.returncode == 125:
            expect_no_space(done)
        node.expect_alive()
        (folder / 'filler').unlink()
        marks.run()
        node.expect_workers()
        node.restart()
        node.expect_workers()
        node.end_workers()
        node.finish()


def test_a_store_that_is_removed_underneath(node):
    launcher = node.launcher(USER)
    project = project_of(node, USER)
    node.add_worker(uid=USER)
    launcher.ok('--working-dir', project, '--', 'true')
    shutil.rmtree(node.store)
    for _ in range(3):
        done = launcher.run('--working-dir', project, '--', 'true', timeout=30)
        assert done.returncode == 125 and 'is gone' in done.stderr and 'cure: ' in done.stderr, done.stderr
    node.expect_alive()
    node.restart()
    assert launcher.ok('--working-dir', project, '--', 'cat', 'told') == 'project'
    node.expect_alive()
    node.expect_workers()
    node.end_workers()


def test_a_runtime_folder_that_is_removed_while_workers_start(node):
    marks = Marks(node.launcher(USER))
    node.add_worker(uid=USER)
    node.settle()
    for _ in range(amount(2, 20)):
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(marks.run) for _ in range(12)]
            time.sleep(0.02)
            shutil.rmtree(node.runtime, ignore_errors=True)
            for run in runs:
                with contextlib.suppress(AssertionError):   # no socket: told so at once, not to try again
                    run.result()
        wait_until(lambda: os.path.exists(node.socket))
        node.expect_alive()
    kill_both(node)
    node.expect_workers()
    marks.run()
    node.end_workers()
    wait_until(lambda: node.workers() == [] and workers_of(node.runtime) == [])


# --- numbers that come round -------------------------------------------------------------------------------------------------

# Attacks: F7; control: the_wrong_process_is_left_alone
def test_numbers_of_processes_that_come_round(programs, node, tmp_path):
    """In a pid namespace of 1,000 numbers; below is what runs there."""
    node.stop()
    folder = tmp_path / 'small'
    folder.mkdir(mode=0o755)
    script = 'echo 1000 > /proc/sys/kernel/pid_max && exec "$@"'
    done = subprocess.run(['unshare', '--pid', '--fork', '--kill-child', '--mount', '--mount-proc', 'sh', '-c', script, 'sh',
                           sys.executable, __file__, 'numbers', programs, folder, str(amount(400, 3000))],
                          capture_output=True, text=True, timeout=amount(600, 1200), env={**os.environ, 'PYTHONPATH': str(HERE)})
    if 'pid_max: ' in done.stderr:
        pytest.skip(f'this kernel has one pid_max for all: {done.stderr}')   # before Linux 6.14
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def take_number(wanted):
    """A process with that number: one starts after the other until it comes."""
    pathlib.Path('/proc/sys/kernel/ns_last_pid').write_text(str(wanted - 1))
    process = subprocess.Popen(['sleep', '1000'])
    assert process.pid == wanted
    return process


def numbers_come_round(node, count):
    alive = node.add_worker()
    pid = {w['id']: w['pid'] for w in node.workers()}[alive.worker]
    marks, seen, rounds = Marks(node.launcher(0)), 0, 0
    for i in range(count):
        marks.run()
        rounds += (now := int(pathlib.Path('/proc/sys/kernel/ns_last_pid').read_text())) < seen
        seen = now
        if i % 50 == 25:
            (Node.restart, kill_both)[i // 50 % 2](node)
        if i % 10 == 0:
            node.expect_alive()
            assert node.expect_workers() == {alive.worker: pid}
    assert rounds >= 1 and marks.refused == 0, (rounds, marks.refused)
    node.end_workers()


def is_gone(pid):
    with contextlib.suppress(ChildProcessError):   # until its spawner has gone as well, it isn't ours
        os.waitpid(pid, os.WNOHANG)
    return not os.path.exists(f'/proc/{pid}')


def the_wrong_process_is_left_alone(node):
    """It ends while no daemon lives, and somebody else has its number when one comes."""
    ended = node.add_worker()
    pid = {w['id']: w['pid'] for w in node.workers()}[ended.worker]
    node.kill()
    ended.stdin.close()
    assert ended.wait(10) == 7
    node.alive.clear()
    wait_until(lambda: is_gone(pid))
    stranger = take_number(pid)   # the control run: who goes by the number alone would kill it
    node.start()
    assert node.workers() == []
    launcher = node.launcher(0)
    assert launcher.run('kill', ended.worker, verb='kill').returncode == 125
    assert stranger.poll() is None
    assert [(w['id'], w['status']) for w in node.workers(all=True)] == [(ended.worker, 7 << 8)]
    stranger.kill()
    stranger.wait()


# --- many at once ---------------------------------------------------------------------------------------------------------------

def test_64_clients_at_once(node):
    launchers = [node.launcher(uid) for uid in (0, USER)]
    options = [['--working-dir', project_of(node, uid)] for uid in (0, USER)]
    for launcher, option in zip(launchers, options):
        launcher.ok(*option, '--', 'true')
    node.settle()
    for _ in range(amount(3, 50)):
        clients = [launchers[i % 2].popen(*options[i % 2], '--', 'sh', '-c', 'cat told; echo; read line; exit 5', stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for i in range(64)]
        for client in clients:
            assert client.stdout.readline() == 'project\n', client.stderr.read()
        shown = node.workers()
        assert len(shown) == 64 and len({w['pid'] for w in shown}) == 64
        for client in clients:
            client.stdin.close()
        for client in clients:
            assert client.wait(20) == 5
            client.stdout.close()
            client.stderr.close()
        node.expect_settled()


# --- users apart ----------------------------------------------------------------------------------------------------------------

def test_two_users_at_once_do_not_see_each_other(node):
    launchers = {uid: node.launcher(uid) for uid in (USER, OTHER)}
    options = {uid: ['--working-dir', project_of(node, uid, told=str(uid))] for uid in launchers}

    def live(uid):
        """Starts, looks around and tries what it may not."""
        launcher, other = launchers[uid], USER + OTHER - uid
        for _ in range(amount(5, 100)):
            process = launcher.popen(*options[uid], '--', 'sh', '-c', 'id -u; cat told; echo; read line; exit 5',
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert [process.stdout.readline() for _ in range(2)] == [f'{uid}\n'] * 2
            shown = json.loads(launcher.run('ps', '--all', '--json', verb='ps').stdout)
            assert shown and {w['uid'] for w in shown} == {uid}
            told = launcher.run('logs', '--json', verb='logs').stdout
            assert {json.loads(line).get('uid') for line in told.splitlines()} == {uid}
            for theirs in [w['id'] for w in node.workers() if w['uid'] == other]:
                for args in (['kill', theirs, 'SIGKILL'], ['enter', theirs, '--', 'true'], ['logs', theirs]):
                    done = launcher.run(*args, verb=args[0])
                    assert done.returncode == 125 and str(other) not in done.stdout + done.stderr, done
                tried.append(theirs)
            process.stdin.close()
            assert process.wait(20) == 5
            process.stdout.close()
    tried = []
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(live, uid) for uid in launchers]:
            done.result()
    assert tried


def test_a_worker_is_its_caller_and_no_more(node):
    launcher = node.launcher(USER)
    command = ['setpriv', '--reuid', str(USER), '--regid', '777', '--groups', '888,999', launcher.program, 'run', '--',
               'cat', '/proc/self/status']
    done = subprocess.run(command, env=launcher.env, cwd=launcher.home, capture_output=True, text=True)
    status = dict(line.split(':\t', 1) for line in done.stdout.splitlines())
    assert status['Uid'].split() == [str(USER)] * 4 and status['Gid'].split() == ['777'] * 4, done.stderr
    assert set(status['Groups'].split()) == {'888', '999'}
    assert all(int(status[f'Cap{name}'], 16) == 0 for name in ('Inh', 'Prm', 'Eff', 'Bnd', 'Amb')), status
    assert status['NoNewPrivs'] == '1'


@pytest.fixture
def private(node, tmp_path):
    """A folder that only OTHER can look into."""
    folder = node.launcher(OTHER).make_files('private', {'key': 'TOP-SECRET', 'mod/__init__.py': 'key = "TOP-SECRET"'})
    folder.chmod(0o700)
    return folder


def ways_in(private, mine):
    """Options and command with which somebody might get at `private`, by name."""
    link = mine / 'link'
    show = ['--', 'sh', '-c', 'cat key link/key private/key $HOME/key $D/key 2>&1; cat */key; ls -la . link/']
    env = lambda **fields: ['--runtime-env', json.dumps(fields)]
    return {'working_dir': ['--working-dir', private, *show], 'local': [*env(working_dir=f'local://{private}'), *show],
            'link': ['--working-dir', link, *show], 'link in it': ['--working-dir', mine, *show],
            'local link': [*env(working_dir=f'local://{link}'), *show],
            'beyond it': ['--working-dir', f'{mine}/../../user{OTHER}/private', *show],
            'py_modules': [*env(py_modules=[str(private / 'mod')]), '--', 'python3', '-c', 'import mod; print(mod.key)'],
            'py_modules local': [*env(py_modules=[f'local://{private}']), '--', 'python3', '-c', 'import mod; print(mod.key)'],
            'py_modules link': [*env(py_modules=[str(link / 'mod')]), '--', 'python3', '-c', 'import mod; print(mod.key)'],
            'requirements': ['--pip', f'-r {private}/key', *show], 'runtime_env file': ['--runtime-env', private / 'key', *show],
            'home': ['--env', f'HOME={private}', *show], 'env': ['--env', f'D={private}', *show],
            'python': ['--python', private / 'key', '--pip', 'idna', *show], 'keep': ['--keep', private / 'kept', *show]}


WAYS = list(ways_in(pathlib.Path('/'), pathlib.Path('/')))


# Attacks: J6
@pytest.mark.parametrize('way', WAYS)
def test_a_private_folder_stays_private(node, private, way):
    mine = node.launcher(USER).make_files('mine', {'own': 'x'})
    (mine / 'link').symlink_to(private)
    command = ways_in(private, mine)[way]
    for variables in ({}, {'HOME': str(private)}):
        done = node.launcher(USER).run(*command, env=variables, timeout=60)
        assert 'TOP-SECRET' not in done.stdout + done.stderr, done
    for layer in (node.store / 'layers').rglob('*'):
        assert not layer.is_file() or b'TOP-SECRET' not in layer.read_bytes(), layer
    assert not (private / 'kept').exists()
    if way in ('working_dir', 'local', 'py_modules', 'py_modules local', 'env'):   # the control: whose it is gets in
        variables = {'HOME': str(private)} if way == 'env' else {}
        assert 'TOP-SECRET' in node.launcher(OTHER).run(*command, env=variables, timeout=60).stdout


if __name__ == '__main__':   # in a pid namespace of its own
    small = Node(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])).start()
    numbers_come_round(small, int(sys.argv[4]))
    for _ in range(3):
        the_wrong_process_is_left_alone(small)
    small.finish()
