"""Where a node (RTLAUNCH_RAY_SANDBOX_ALL=1) or the policy says that every worker is shut in, those without a runtime env
are, too, in every language and in Ray's own business: spilling, jobs, retries."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from daemon_support import Daemon, wait_until
from ray_support import PLUGINS, VENV, install_plugin, node, our_node, ray_daemon, ray_programs  # noqa: F401 (fixtures)

ALL = {'RTLAUNCH_RAY_SANDBOX_ALL': '1'}
LOOK = '''
@ray.remote(num_cpus=0)
class Actor:
    def look(self):
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        others = [pid for pid in filter(str.isdigit, os.listdir('/proc')) if int(pid) not in (1, os.getpid())]
        return [status['Seccomp'].strip(), len(others) > 5, os.environ['RAY_RAYLET_PID']]
    def pid(self):
        return os.getpid()
'''
SHUT_IN, PLAIN = ['2', False, '1'], '0'


@pytest.fixture(scope='module', params=['daemon', 'embedded'])
def shut_in(request, ray_programs, tmp_path_factory):  # noqa: F811
    if request.param == 'daemon':
        with our_node(ray_programs, request.getfixturevalue('ray_daemon'), env=ALL) as one:
            yield one
        return
    with our_node(ray_programs, store=tmp_path_factory.mktemp('every') / 'store', env=ALL) as one:
        yield one


def test_one_without_a_runtime_env(shut_in):
    seen, variables, same = shut_in.drive(LOOK + '''
connect()
one, other = Actor.remote(), Actor.options(runtime_env={'env_vars': {'A': '1'}}).remote()
pid = ray.get(one.pid.remote())
same = 'ray::Actor' in open(f'/proc/{pid}/cmdline').read()   # what the raylet knows it by
answer([ray.get(one.look.remote()), ray.get(other.look.remote()), same])''')
    assert seen == SHUT_IN and variables == SHUT_IN and same


def test_elsewhere_it_is_a_plain_one(ray_programs, ray_daemon):  # noqa: F811
    with our_node(ray_programs, ray_daemon) as one:
        seen = one.drive(LOOK + 'connect()\nanswer(ray.get(Actor.remote().look.remote()))')
    assert seen[0] == PLAIN and seen[1]


def test_they_do_all_that_workers_do(shut_in):
    """Big values by plasma, a nested task, an error, one that is killed and tried again, values that are spilled."""
    done = shut_in.drive('''
connect()
@ray.remote(num_cpus=0)
def inner(data):
    return sum(data)
@ray.remote(num_cpus=0)
def outer():
    return ray.get(inner.remote(ray.put(bytes(range(256)) * 4096)))
@ray.remote(num_cpus=0)
def wrong():
    raise ValueError('this')
@ray.remote(num_cpus=0, max_retries=2)
def dies_once(path):
    if not os.path.exists(path):
        open(path, 'w').close()
        os.kill(os.getpid(), 9)
    return 'again'
try:
    ray.get(wrong.remote())
except ValueError as error:
    said = str(error).splitlines()[-1]
answer([ray.get(outer.remote()), said, ray.get(dies_once.remote(f'/tmp/died-{os.getpid()}'))])''')
    assert done == [sum(range(256)) * 4096, 'ValueError: this', 'again']


REQUIRED, OFF = {'version': 1, 'every_worker': 'require'}, {'version': 1}
TURN_OFF = {'RTLAUNCH_RAY_SANDBOX_ALL': '0', 'RTLAUNCH_RAY_ASKED': '1', 'RTLAUNCH_SOCKET': '/nowhere', 'RTLAUNCH_EMBEDDED': '1',
            'RTLAUNCH_STORE': '/nowhere', 'RAY_RUNTIME_ENV_PLUGINS': '[]', 'RTLAUNCH_RAY_START': 'plugin', 'RAY_RAYLET_PID': '1'}
# What workers find: without a runtime env, with variables alone, and with those that would like to be elsewhere.
THREE = LOOK + f'''
connect()
with_variables = [{{'env_vars': {{'A': os.environ['NODE_ANSWER']}}}}, {{'env_vars': {TURN_OFF!r}}}]
actors = [Actor.remote(), *(Actor.options(runtime_env=one).remote() for one in with_variables)]
answer([ray.get(one.look.remote()) for one in actors])'''


class Policy:
    """Of a daemon, or the machine's own for who does without: /etc is ours here."""

    def __init__(self, path, daemon=None):
        self.path, self.daemon = path, daemon

    def say(self, document):
        fresh = self.path.with_suffix('.new')
        fresh.write_text(json.dumps(document))
        fresh.rename(self.path)
        if self.daemon:
            before = len(self.daemon.events('policy'))
            self.daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: len(self.daemon.events('policy')) > before)


@contextlib.contextmanager
def own_etc():
    """An overlay, in the mount namespace that tools/run-tests has made."""
    assert 'RTLAUNCH_GUESTS' in os.environ
    folder = pathlib.Path(tempfile.mkdtemp(prefix='etc-'))
    for name in ('up', 'work'):
        (folder / name).mkdir()
    subprocess.run(['mount', '-t', 'overlay', '-o', f'lowerdir=/etc,upperdir={folder}/up,workdir={folder}/work', 'none', '/etc'], check=True)
    try:
        pathlib.Path('/etc/rtlaunch').mkdir(mode=0o755, exist_ok=True)
        yield pathlib.Path('/etc/rtlaunch/policy.json')
    finally:
        subprocess.run(['umount', '-l', '/etc'], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope='module', params=['daemon', 'embedded'])
def held(request, ray_programs, tmp_path_factory):  # noqa: F811
    """A node that says nothing itself, begun under a policy that requires it."""
    if os.geteuid() != 0:
        pytest.skip('a policy is root\'s')
    with contextlib.ExitStack() as ends:
        if request.param == 'embedded':
            policy = Policy(ends.enter_context(own_etc()))
            policy.say(REQUIRED)
            one = ends.enter_context(our_node(ray_programs, store=tmp_path_factory.mktemp('held') / 'store'))
        else:
            folder = pathlib.Path(tempfile.mkdtemp(prefix='ray-node-'))
            folder.chmod(0o755)
            policy = Policy(folder / 'policy.json')
            policy.say(REQUIRED)
            policy.daemon = Daemon(ray_programs, folder, options=['--policy', str(policy.path)]).start()
            ends.callback(policy.daemon.stop)
            one = ends.enter_context(our_node(ray_programs, policy.daemon))
        one.policy = policy
        yield one


def test_where_the_policy_says_so_each_is_shut_in_whatever_the_job_says(held):
    assert held.drive(THREE) == [SHUT_IN] * 3
    assert 'each worker is shut in: policy of ' in held.log('runtime_env_agent.log')


def test_the_doctor_tells_and_tries(held):
    def said():
        done = subprocess.run([VENV / 'bin/rtlaunch', 'ray', 'doctor'], env=held.env, capture_output=True, text=True)
        return next(line for line in done.stdout.splitlines() if 'every worker' in line)
    assert said().startswith('ok ') and 'so says policy of' in said()
    held.policy.say(OFF)
    try:
        assert said().startswith('note ')
    finally:
        held.policy.say(REQUIRED)


def test_what_cant_be_kept_is_no_agent(tmp_path):
    """Neither without rtlaunch.pth, past which workers would be started, nor without programs; the control: Ray's own goes on."""
    install_plugin()
    site = next(VENV.glob('lib/python3*/site-packages'))
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name in ('rtlaunch', 'rtlaunch-agent', 'rtlaunch-build', 'uv'):
        (programs / name).symlink_to('/bin/true')
    (tmp_path / 'sock.policy').write_text(json.dumps(OFF))   # whatever the machine's own says
    script = f"""
import sys
sys.path.insert(0, {str(site)!r})
sys.argv = ['/ray/_private/runtime_env/agent/main.py']
from rtlaunch.ray import Plugin
Plugin()
print('it goes on')"""

    def said(programs, *options, **env):
        env = {'PATH': os.environ['PATH'], 'RAY_RUNTIME_ENV_PLUGINS': PLUGINS, 'RTLAUNCH_BIN': str(programs),
               'RTLAUNCH_SOCKET': str(tmp_path / 'sock'), **env}
        done = subprocess.run([VENV / 'bin/python', *options, '-c', script], env=env, capture_output=True, text=True)
        return done.stdout.strip() or (done.stderr.strip().splitlines() or [f'status {done.returncode}'])[-1]
    assert said(programs, '-S') == said(programs, **ALL) == 'status 0'   # it is the agent
    assert 'has not read rtlaunch.pth' in said(programs, '-S', **ALL)
    assert said(tmp_path) == 'it goes on' and 'lacks rtlaunch-agent' in said(tmp_path, **ALL)
