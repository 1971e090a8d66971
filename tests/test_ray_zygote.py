"""Workers that are copies of a zygote, under the real Ray: nobody can tell them from those that started by
themselves, they are as far apart, and where one couldn't be right it isn't made."""

import contextlib
import ctypes
import errno
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile

import pytest

from conftest import PLAIN_UID
from daemon_support import Daemon, wait_until
from ray_support import children_of, command_of, ended, our_node, ray_daemon, ray_programs  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='only root can choose pids, so only root has zygotes')

DRIVER = '''
import glob
PIP = {'pip': ['idna==3.7']}

def listening():
    folder = ray._private.worker.global_worker.node.get_sockets_dir_path() + '/z'
    return [line.split()[-1] for line in open('/proc/net/unix') if folder in line and line.split()[3] == '00010000']

def parents(pid):
    """Of a worker, as seen from outside."""
    while pid > 1:
        stat = open(f'/proc/{pid}/stat').read()
        pid = int(stat[stat.rindex(')') + 2:].split()[1])
        if pid:
            yield open(f'/proc/{pid}/cmdline').read()

def copied(pid):
    return any('rtlaunch-zygote.py' in words for words in parents(pid))

def zygotes():
    """Of this job, and this node: others count theirs alike."""
    own = {f'RAY_JOB_ID={ray.get_runtime_context().get_job_id()}', f"NODE_ADDRESS={os.environ['NODE_ADDRESS']}"}
    def is_one(pid):
        try:
            return ('rtlaunch-zygote.py' in open(f'/proc/{pid}/cmdline').read()
                    and own <= set(open(f'/proc/{pid}/environ').read().split('\\0')))
        except OSError:
            return False
    return [pid for pid in filter(str.isdigit, os.listdir('/proc')) if is_one(pid)]

@ray.remote(num_cpus=0)
class Actor:
    def pid(self):
        return os.getpid()
    def run(self, code):
        found = {}
        exec(code, found)
        return found['value']

def actor(env=PIP):
    """One that has started, and whether it is a copy."""
    one = Actor.options(runtime_env=env).remote()
    return one, copied(ray.get(one.pid.remote()))

def a_copy(env=PIP):
    """The same, asked for again where Ray had one ready that it had started before there was a zygote."""
    for _ in range(3):
        one, copy = actor(env)
        if copy:
            break
    return one, copy

def zygote(env=PIP):
    """Until there is one for that kind of environment."""
    before = set(listening())   # of other jobs
    first, is_copy = actor(env)
    assert not is_copy
    [first.place] = until(lambda: set(listening()) - before, 60)
    return first
'''

SHUT_IN = '''
import ctypes, os, resource
def layers():
    """Of Landlock, by how many more a child may take: 16 is the most."""
    libc, count = ctypes.CDLL(None), 0
    child = os.fork()
    if child == 0:
        rules = libc.syscall(444, (ctypes.c_uint64 * 1)(1), ctypes.c_size_t(8), 0)
        while rules >= 0 and count < 20 and libc.syscall(446, rules, 0) == 0:
            count += 1
        os._exit(count)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
shut_in = {
    'rights': [status[name] for name in status if name.startswith(('Cap', 'Seccomp')) or name == 'NoNewPrivs'],
    'limits': [resource.getrlimit(number) for number in range(16)], 'landlock': layers(),
    'has our key': any('rtlaunch-test' in line for line in open('/proc/keys')),
}
'''

LOOK = SHUT_IN + '''
import locale, multiprocessing, random, resource, socket, sys, os, uuid, threading, json, signal, time
import ray, ray._raylet
def text(name):
    return open('/proc/self/' + name).read()
argv = [word for word in sys.argv if not word.startswith(('--worker-id=', '--worker-launch-time-ms='))]
context = ray.get_runtime_context()
main = sys.modules['__main__']
pid = str(os.getpid())
def kind(fd):
    try:
        link = os.readlink('/proc/self/fd/' + fd)
    except OSError:
        return ''
    return link.split(':')[0] if ':' in link else os.path.dirname(link)
same = {
    'argv': argv, 'orig_argv': [word for word in sys.orig_argv if '=' not in word], 'more words': len(sys.orig_argv) - len(sys.argv),
    'environ': dict(os.environ), 'order of environ': list(os.environ), 'environ of /proc': text('environ').split('\\0'),
    'path': sys.path, 'flags': str(sys.flags), 'warnings': sys.warnoptions, 'prefix': [sys.prefix, sys.base_prefix, sys.executable],
    'cwd': os.getcwd(), 'umask': status['Umask'], 'ids': [status['Uid'], status['Gid'], status['Groups']],
    'signals': [status[name] for name in ('SigBlk', 'SigIgn', 'SigCgt')],
    'handlers': {str(number): str(signal.getsignal(number)).split(' at ')[0] for number in signal.valid_signals()},
    'shut in': shut_in, 'nice': os.nice(0), 'cpus': sorted(os.sched_getaffinity(0)),
    'oom': text('oom_score_adj'), 'title': [text('cmdline').rstrip('\\0'), text('comm')], 'title room': len(text('cmdline')) - len(pid),
    'threads': sorted({open('/proc/self/task/' + task + '/comm').read() for task in os.listdir('/proc/self/task')}),
    'python threads': sorted(one.name for one in threading.enumerate()), 'fds': sorted({kind(fd) for fd in os.listdir('/proc/self/fd')} - {''}),
    'locale': [locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(), sys.stdout.encoding, sys.getfilesystemencoding()],
    'own group and session': [os.getpgid(0) == os.getpid(), os.getsid(0) == os.getpid()],
    'processes': sorted(name if name != pid else 'me' for name in os.listdir('/proc') if name.isdigit()), 'parent': os.getppid(),
    'shared': [os.readlink('/proc/self/ns/' + name) for name in ('ipc', 'uts', 'net', 'user', 'cgroup')],
    'main': sorted(vars(main)), 'main file': main.__file__, 'main is': [type(main.__loader__).__name__, str(main.__spec__), main.__name__],
    'context': [context.get_node_id(), context.get_job_id(), context.get_runtime_env_string(), context.worker.mode],
    'modules of Ray': sorted(name for name in sys.modules if name.partition('.')[0] == 'ray'),
    'hash is random': sys.flags.hash_randomization, 'buffering': [sys.stdin.fileno(), sys.stdout.line_buffering, sys.stderr.line_buffering],
    'recursion': sys.getrecursionlimit(), 'switch': sys.getswitchinterval(), 'dumpable': os.stat('/proc/self/environ').st_uid,
    'main thread': [threading.main_thread() is threading.enumerate()[0], threading.main_thread().native_id == os.getpid()],
}
own = {
    'random': random.random(), 'uuid4': str(uuid.uuid4()), 'uuid1': str(uuid.uuid1()), 'urandom': os.urandom(8).hex(),
    'authkey': bytes(multiprocessing.current_process().authkey).hex(), 'worker': context.get_worker_id(), 'pid': os.getpid(),
    'id': ray._raylet.UniqueID.from_random().hex(), 'put': ray.put(1).hex(), 'mounts': os.readlink('/proc/self/ns/mnt'),
    'processes': os.readlink('/proc/self/ns/pid'),
}
print('said by', os.getpid(), flush=True)
value = json.dumps({'same': same, 'own': own, 'log': os.readlink('/proc/self/fd/1')})
'''


def with_zygote(script, environment='PIP'):
    return DRIVER + f'connect()\nfirst = zygote({environment})\n' + script


def put_key():
    """Into our session's keyring: /proc/keys shows it to those alone who still have that."""
    libc = ctypes.CDLL(None)
    assert libc.syscall(250, 1, None) > 0
    key = libc.syscall(248, b'user', b'rtlaunch-test', b'x', ctypes.c_size_t(1), ctypes.c_long(-3))
    assert key > 0 and libc.syscall(250, 5, key, ctypes.c_ulong(0x3f000000)) == 0


@pytest.fixture(scope='module')
def node(ray_programs, ray_daemon):  # noqa: F811
    put_key()
    with our_node(ray_programs, ray_daemon, env={'RTLAUNCH_RAY_ZYGOTES': 'explain'}) as one:
        yield with_packages(one)


def with_packages(node):
    """They are there: a job's zygote comes behind its first worker, and isn't asked for before."""
    node.drive(DRIVER + 'connect()\nactor()\nanswer(True)')
    return node


# Of a worker in no sandbox: bash's order of variables; what a raylet leaves open; its session and parent, which
# are the raylet's own.
NOT_WITHOUT_SANDBOX = ('order of environ', 'environ of /proc', 'fds', 'own group and session', 'parent', 'processes')


def looked(node, environment):
    return node.drive(with_zygote(f'''
env = {environment}
look = {LOOK!r}
copies = [a_copy(env) for _ in range(2)]
assert [copy for _, copy in copies] == [True, True]
answer([json.loads(ray.get(one.run.remote(look))) for one in (first, *(one for one, _ in copies))])''', environment))


@pytest.mark.parametrize('environment', ["{'pip': ['idna==3.7']}", "{'pip': ['idna==3.7'], 'env_vars': {'B': '${HOME}', 'PYTHONPATH': '/srv'}}",
                                         "{'env_vars': {'B': '${HOME}'}}"])
def test_it_is_as_if_it_had_started_by_itself(node, environment):
    first, *copies = looked(node, environment)
    for copy in copies:
        for name, value in first['same'].items():
            if 'pip' not in environment and name in NOT_WITHOUT_SANDBOX:
                continue
            assert copy['same'][name] == value, name
    for name in first['own']:
        if name in ('mounts', 'processes') and 'pip' not in environment:
            continue
        assert len({str(one['own'][name]) for one in (first, *copies)}) == 3, name
    for one in (first, *copies):
        name = pathlib.Path(one['log']).name
        assert name.startswith(f'worker-{one["own"]["worker"]}-') and name.endswith(f'-{one["own"]["pid"]}.out')
        assert f'said by {one["own"]["pid"]}' in node.log(name)
    assert first['same']['shut in']['has our key'] == ('pip' not in environment), 'in no sandbox one has what the raylet has'
    if 'pip' in environment:
        no_new_privs, seccomp = first['same']['shut in']['rights'][-3:-1]
        assert (no_new_privs, seccomp) == ('1', '2'), 'there is something to be the same'


def test_without_a_daemon_it_is_shut_in_as_others_are(ray_programs, tmp_path):  # noqa: F811
    put_key()
    with our_node(ray_programs, store=tmp_path / 'store') as one:
        first, *copies = looked(with_packages(one), "{'pip': ['idna==3.7']}")
    assert first['same']['shut in']['rights'][-3:-1] == ['1', '2'] and not first['same']['shut in']['has our key']
    assert [copy['same']['shut in'] for copy in copies] == [first['same']['shut in']] * 2


LIMITS = SHUT_IN + '''
libc = ctypes.CDLL(None, use_errno=True)
byte = ctypes.create_string_buffer(1)
part = (ctypes.c_uint64 * 2)(ctypes.addressof(byte), 1)
debugs = libc.process_vm_readv(os.getpid(), part, 1, part, 1, 0) == 1
value = {**shut_in, 'debugs': debugs, 'scopes': libc.syscall(444, None, ctypes.c_size_t(0), 1) >= 6, 'core': resource.getrlimit(resource.RLIMIT_CORE)[1], 'effective': int(status['CapEff'], 16)}
'''
# What the policy takes of profile ray; whether a zygote has that to give.
TIGHTER = [({}, True), ({'no_debug': 'require', 'rlimits': {'core': 4096}, 'no_outside_signals': 'prefer'}, True), ({'no_capabilities': 'require'}, False),
           ({'pids': {'at_most': 5000, 'want': 'prefer'}}, False), ({'own_clock': 'prefer'}, False), ({'own_user': 'prefer'}, False)]


@pytest.fixture(scope='module')
def held_node(ray_programs):  # noqa: F811
    with contextlib.ExitStack() as ends:
        folder = pathlib.Path(tempfile.mkdtemp(prefix='ray-node-'))
        folder.chmod(0o755)
        (folder / 'policy.json').write_text('{"version": 1}')
        daemon = Daemon(ray_programs, folder, options=['--policy', str(folder / 'policy.json')]).start()
        ends.callback(daemon.stop)
        yield with_packages(ends.enter_context(our_node(ray_programs, daemon)))


@pytest.fixture
def held(held_node):
    """A daemon that can be given another policy; each test begins with none, whatever the last one left."""
    put_in_force(held_node.daemon, {})
    return held_node


def put_in_force(daemon, ceiling, rules=()):
    before = len(daemon.events('policy'))
    (daemon.folder / 'policy.json').write_text(json.dumps({'version': 1, 'ceiling': ceiling, 'rules': list(rules)}))
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(daemon.events('policy')) > before)


def test_the_policy_holds_copies_as_it_holds_others(held):
    """In one job, whose zygote is there before the policy is another one. Beside each a worker that can be no copy."""
    driver = held.spawn(with_zygote(f'''
steps = os.environ['NODE_ANSWER'] + '.steps'
for step in range({len(TIGHTER)}):
    until(lambda: os.path.exists(steps + str(step)), 60)
    one, copy = a_copy()
    other, other_copy = actor({{**PIP, 'env_vars': {{'PYTHONHASHSEED': str(step)}}}})
    assert not other_copy
    found = [copy, ray.get(other.run.remote({LIMITS!r})), ray.get(one.run.remote({LIMITS!r}))]
    open(steps + str(step) + '.done', 'w').write(json.dumps(found))
    until(lambda: os.path.exists(steps + str(step) + '.read'), 60)
answer(True)'''))
    found = []
    for step, (ceiling, _) in enumerate(TIGHTER):
        put_in_force(held.daemon, ceiling)
        path = pathlib.Path(f'{driver.answer}.steps{step}')
        path.touch()
        done = pathlib.Path(f'{path}.done')
        wait_until(lambda done=done: (done.exists() and done.read_text()) or driver.poll() is not None, 120)
        found.append(json.loads(done.read_text()))
        pathlib.Path(f'{path}.read').touch()
    assert held.finish(driver, 60) is True
    assert [copy for copy, *_ in found] == [copy for _, copy in TIGHTER], found
    for _, plain, has in found:
        assert has == plain
    open_, no_debug, no_capabilities, *_ = (has for *_, has in found)
    assert open_['debugs'] and open_['effective'] and open_['core'] != 4096, 'the control run'
    assert no_debug['landlock'] == open_['landlock'] - open_['scopes'], 'a layer more, where the kernel has one for signals'
    assert not no_debug['debugs'] and no_debug['core'] == 4096 and no_debug['effective']
    assert no_capabilities['effective'] == 0


def test_a_rule_binds_the_job_that_it_names(held, tmp_path):
    """And no other, whether its workers are copies or not."""
    core = "import resource; value = resource.getrlimit(resource.RLIMIT_CORE)[1]"
    drivers = []
    for number in range(2):
        drivers.append(held.spawn(with_zygote(f'''
open({str(tmp_path)!r} + '/{number}.new', 'w').write(ray.get_runtime_context().get_job_id())
os.rename({str(tmp_path)!r} + '/{number}.new', {str(tmp_path)!r} + '/{number}')
until(lambda: os.path.exists({str(tmp_path)!r} + '/go'), 120)
one, copy = a_copy()
other, other_copy = actor({{**PIP, 'env_vars': {{'PYTHONHASHSEED': '1'}}}})
answer([copy, other_copy, ray.get(one.run.remote({core!r})), ray.get(other.run.remote({core!r}))])''')))
        wait_until(lambda at=tmp_path / str(number), one=drivers[-1]: at.exists() or one.poll() is not None, 120)
    named = (tmp_path / '0').read_text()
    rule = {'name': 'that-job', 'if': {'job': [f'ray-{named}-{held.session.name}']}, 'ceiling': {'rlimits': {'core': 4096}}}
    put_in_force(held.daemon, {}, [rule])
    (tmp_path / 'go').touch()
    bound, free = map(held.finish, drivers)
    assert bound == [True, False, 4096, 4096]
    assert free[:2] == [True, False] and 4096 not in free


def test_what_a_copy_is_given_is_said_to_root_alone_and_refused_as_a_start_is(held):
    asked = {'op': 'grant', 'keys': [], 'name': 'x', 'profile': 'ray'}
    put_in_force(held.daemon, {'no_bpf': 'require'})
    mine, others = held.daemon.client(0), held.daemon.client(PLAIN_UID)
    given = mine.ask(**asked)
    assert given['ok'] and given['profile'] == 'ray' and given['shield']
    assert others.ask(**asked)['error']['errno'] == errno.EPERM
    for refused in ({'profile': 'nope'}, {'controls': {'no_bpf': 'off'}}, {'shape': 'another'}, {'keys': ['ab' * 32]}):
        assert not mine.ask(**{**asked, **refused})['ok'], refused


def test_each_has_its_own_working_dir(node, tmp_path):
    (tmp_path / 'seen.txt').write_text('original')
    seen = node.drive(DRIVER + f'''
connect(runtime_env={{'working_dir': {str(tmp_path)!r}}})
first = zygote(None)
write = "old = open('seen.txt').read(); open('seen.txt', 'w').write(str(__import__('os').getpid())); value = old"
read = "value = [open('seen.txt').read(), __import__('os').getpid()]"
copies = [a_copy(None) for _ in range(2)]
assert all(copy for _, copy in copies)
everybody = [first, *(one for one, _ in copies)]
answer([[ray.get(one.run.remote(write)) for one in everybody], [ray.get(one.run.remote(read)) for one in everybody]])''')
    assert seen[0] == ['original'] * 3
    assert all(text == str(pid) for text, pid in seen[1])


def test_jobs_have_zygotes_of_their_own(node):
    others = node.drive(DRIVER + '''
connect()
first = zygote()
import subprocess
script = open('/proc/self/cmdline').read().split('\\0')[2].replace('import sub' + 'process', 'is_second = True')
if 'is_second' in globals():
    answer([[first.place], a_copy()[1]])
else:
    mine = [first.place]
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs, copied_there = json.load(open(os.environ['NODE_ANSWER']))
    answer([mine, theirs, copied_there])''')
    mine, theirs, copied_there = others
    assert copied_there and theirs != mine


@pytest.mark.parametrize('what, environment', [
    ('another version of what Ray imports', {'pip': ['filelock==3.18.0']}),
    ('another version of what a worker imports later', {'pip': ['pydantic==2.10.6']}),
    ('what Ray would have used', {'pip': ['tqdm==4.66.4']}),
    ('a variable that is read at the start', {'pip': ['idna==3.7'], 'env_vars': {'PYTHONHASHSEED': '5'}}),
    ('a variable that Ray reads', {'pip': ['idna==3.7'], 'env_vars': {'RAY_DEDUP_LOGS': '1'}}),
])
def test_where_a_copy_would_be_wrong_there_is_none(node, what, environment):
    versions, copies = node.drive(with_zygote(f'''
one, copy = actor({environment!r})
version = "import importlib, sys; value = [getattr(importlib.import_module(name), '__version__', '') for name in ('filelock', 'pydantic')]"
answer([ray.get(one.run.remote(version)), [copy, a_copy()[1]]])'''))
    assert copies == [False, True]
    for index, asked in enumerate(('filelock==3.18.0', 'pydantic==2.10.6')):
        assert asked not in environment['pip'] or versions[index] == asked.partition('==')[2]
    assert 'no worker from a zygote' in node.log('raylet.err')


def test_what_each_worker_imports_is_shared_by_copies(node):
    """What the zygote had is frozen, and the collector knows nothing of it."""
    own = "import gc, sys; live = set(map(id, gc.get_objects())); value = [name for name in ('ray', 'pydantic.main') if id(vars(sys.modules[name])) in live]"
    assert node.drive(with_zygote(f'''
one, copy = a_copy()
other, other_copy = actor({{**PIP, 'env_vars': {{'PYTHONHASHSEED': '1'}}}})
answer([copy, other_copy, ray.get(one.run.remote({own!r})), ray.get(other.run.remote({own!r}))])''')) == [True, False, [], ['ray', 'pydantic.main']]


def test_a_module_of_the_working_dir_that_is_called_like_one_of_rays(node, tmp_path):
    (tmp_path / 'filelock.py').write_text('class FileLock: pass\nclass Timeout(Exception): pass\nmine = True\n')
    assert node.drive(with_zygote(f'''
env = {{'working_dir': {('file://' + str(tmp_path) + '.zip')!r}}}
import shutil
shutil.make_archive({str(tmp_path)!r}, 'zip', {str(tmp_path)!r})
one, copy = a_copy(env)
answer([copy, ray.get(one.run.remote('import filelock; value = filelock.mine'))])''')) == [False, True]


def test_twenty_at_once(node):
    pids, copies, ids = node.drive(with_zygote('''
crowd = [Actor.options(runtime_env=PIP).remote() for _ in range(20)]
pids = ray.get([one.pid.remote() for one in crowd])
ids = ray.get([one.run.remote('import ray; value = ray._raylet.UniqueID.from_random().hex()') for one in crowd])
answer([pids, [copied(pid) for pid in pids], ids])'''), timeout=300)
    assert len(set(pids)) == len(set(ids)) == 20 and sum(copies) >= 15, copies


def test_its_end_reaches_ray(node):
    ends = node.drive(with_zygote('''
def end(how):
    one, copy = a_copy()
    assert copy
    pid = ray.get(one.pid.remote())
    how(one, pid)
    def death():
        try:
            ray.get(one.pid.remote())
        except ray.exceptions.ActorDiedError as error:
            return str(error)
        except ray.exceptions.ActorUnavailableError:
            return None
    said = until(death)
    until(lambda: not os.path.exists(f'/proc/{pid}'))
    return said
import signal
answer([end(lambda one, pid: one.run.remote('import os; os._exit(7)')), end(lambda one, pid: ray.kill(one)),
        end(lambda one, pid: os.kill(pid, signal.SIGKILL)), end(lambda one, pid: one.__ray_terminate__.remote())])'''))
    assert all(ends)


def test_without_its_zygote_a_worker_lives_on_and_the_next_starts_by_itself(node):
    answered = node.drive(with_zygote('''
import signal, subprocess
one, copy = a_copy()
place = first.place
owner = [int(pid) for pid in os.listdir('/proc') if pid.isdigit() and 'rtlaunch-zygote.py' in open(f'/proc/{pid}/cmdline').read()
         and open(f'/proc/{pid}/environ').read().count('RAY_JOB_ID=' + ray.get_runtime_context().get_job_id())]
[os.kill(pid, signal.SIGKILL) for pid in owner]
until(lambda: place not in listening())
pid = ray.get(one.pid.remote())
other = actor()
until(lambda: place in listening(), 60)
answer([copy, len(owner), ray.get(one.pid.remote()) == pid, other[1], a_copy()[1]])'''))
    assert answered == [True, 1, True, False, True]


def request(place):
    """What the zygote there answers to somebody with handles of his own namespaces, and no document."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.connect(place)
        text = b'rtlaunch zygote 1'
        fds = [os.open('/proc/self/ns/mnt', os.O_RDONLY), os.open('/proc/self/ns/pid', os.O_RDONLY)]
        fds += [os.open('/dev/null', os.O_RDWR)] * 5
        socket.send_fds(asking, [len(text).to_bytes(4, 'little') + text + bytes(10)], fds)
        return asking.recv(1000).decode()


def test_nobody_in_a_sandbox_is_served(node):
    import inspect
    ask = 'import os, socket\n' + inspect.getsource(request)
    inside, outside = node.drive(with_zygote(f'''
ask = {ask!r}
place = first.place
one, _ = actor()
exec(ask)
answer([ray.get(one.run.remote(ask + f'\\nvalue = request({{place!r}})')), request(place)])'''))
    assert 'inside a sandbox' in inside
    assert 'document' in outside, 'from outside it is looked at'


SEARCH = '''
count = 0   # by the backwards of it, which is no trace of it
for line in open('/proc/self/maps'):
    place, rights, *_ = line.split()
    if not rights.startswith('rw') or '[v' in line:
        continue
    begin, end = (int(number, 16) for number in place.split('-'))
    with open('/proc/self/mem', 'rb', 0) as memory:
        memory.seek(begin)
        try:
            count += memory.read(min(end - begin, 1 << 28))[::-1].count(backwards)
        except OSError:
            pass
value = count
'''


def test_no_value_of_one_is_in_the_memory_of_the_next(node):
    secret = 'a value that belongs to one worker alone'
    look = f'backwards = {secret[::-1].encode()!r}\n{SEARCH}'
    own, next_one, copies = node.drive(with_zygote(f'''
look = {look!r}
one, copied_one = a_copy(SECRET)
other, copied_other = a_copy()
answer([ray.get(one.run.remote(look)), ray.get(other.run.remote(look)), [copied_one, copied_other]])''', 'SECRET').replace(
        'connect()', f"SECRET = {{**PIP, 'env_vars': {{'A': {secret!r}}}}}\nconnect()", 1))
    assert copies == [True, True]
    assert own > 0 and next_one == 0


def test_the_daemon_knows_them(node):
    before = {one['id'] for one in node.daemon.workers()}
    driver = node.spawn(with_zygote('''
one, copy = a_copy()
open(os.environ['NODE_ANSWER'], 'w').write(json.dumps(ray.get(one.pid.remote())))
time.sleep(60)'''))
    wait_until(lambda: driver.answer.read_text() or driver.poll() is not None, 60)
    pid = int(driver.answer.read_text())
    def records():
        return [one for one in node.daemon.workers() if pid in children_of(one['pid'])]
    wait_until(records, 20)
    [record] = records()
    assert record['profile'] == 'ray' and record['not_applied'] == '' and record['id'] not in before
    entered = subprocess.run([node.daemon.programs / 'rtlaunch', 'enter', record['id'], '--', 'cat', '/proc/self/status'],
                             env={**os.environ, 'RTLAUNCH_SOCKET': node.daemon.socket}, capture_output=True, text=True)
    assert 'Seccomp:\t2' in entered.stdout, entered
    driver.kill()
    driver.wait()
    wait_until(lambda: not {one['id'] for one in node.daemon.workers()} - before, 30)


def zygotes(node):
    """By what they hold on to: their parent is none of the node's."""
    return [int(pid) for pid in filter(str.isdigit, os.listdir('/proc'))
            if 'rtlaunch-zygote.py' in command_of(pid) and f'{node.folder}/' in pathlib.Path(f'/proc/{pid}/environ').read_text()]


def test_an_idle_one_ends_and_all_end_with_the_node(ray_programs, ray_daemon):  # noqa: F811
    with our_node(ray_programs, ray_daemon, env={'RTLAUNCH_RAY_ZYGOTE_SECONDS': '2'}) as one:
        one.drive(with_zygote('until(lambda: not listening())\nanswer(True)'))
        assert ended(zygotes(one))
    with our_node(ray_programs, ray_daemon) as one:
        one.drive(with_zygote('answer(True)'))
        left = zygotes(one)
        assert left and ended(left, 0.1) is False
    assert ended(left)


def test_while_packages_are_fetched_it_starts_already(node):
    born, worker, number, copy = node.drive(DRIVER + '''
connect()
def born(pid):
    stat = open(f'/proc/{pid}/stat').read()
    return int(stat[stat.rindex(')') + 2:].split()[19])
first, _ = actor({'pip': ['toolz==1.0.0']})
worker = born(ray.get(first.pid.remote()))
until(listening)
_, copy = actor({'pip': ['toolz==1.0.0']})
answer([born(zygotes()[0]), worker, len(zygotes()), copy])''')
    assert born < worker and number == 1 and copy


def test_where_the_policy_limits_workers_none_is_started_ahead(held):
    """It couldn't give them that; the control: without the limit it is there before the first worker is."""
    script = DRIVER + '''
connect()
first, _ = actor({'pip': [os.environ['WANTED']]})
ray.get(first.pid.remote())
answer(zygotes() != [])'''
    put_in_force(held.daemon, {'pids': {'at_most': 5000, 'want': 'prefer'}})
    assert held.drive(script, env={'WANTED': 'toolz==0.12.0'}) is False
    put_in_force(held.daemon, {})
    assert held.drive(script, env={'WANTED': 'toolz==0.12.1'}) is True


def test_switched_off_there_are_none(ray_programs, ray_daemon):  # noqa: F811
    with our_node(ray_programs, ray_daemon, env={'RTLAUNCH_RAY_ZYGOTES': '0'}) as one:
        assert one.drive(DRIVER + '''
connect()
first = [actor()[1], actor({'env_vars': {'A': '1'}})[1]]
time.sleep(2)
answer([first, listening(), actor()[1]])''') == [[False, False], [], False]
        assert zygotes(one) == []
