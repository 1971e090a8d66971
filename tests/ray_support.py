"""Ray 2.60.0 as it is on PyPI, for tests: a virtualenv of it that is made once, nodes that are started and
ended by their pids, and drivers. A node has one of two settings: `stock`, Ray as it comes, or `ours`, the
same with its runtime environments through rtlaunch.

    from ray_support import ours, stock, ray_programs  # fixtures, a node each for a whole file

    def test_it(stock):
        assert stock.drive('''
            connect()
            @ray.remote(runtime_env={'env_vars': {'A': '1'}})
            def a():
                return os.environ['A']
            answer(ray.get(a.remote()))''') == '1'

Only under tools/run-tests, or in a program that has called shut_in(): Ray's own clean-up kills by name, so
it gets a pid namespace and a /tmp."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time

import pytest

from conftest import BIN, SYSTEM_PYTHON
from daemon_support import Daemon, wait_until
from image_support import libraries_of, python_files

ROOT = pathlib.Path(__file__).resolve().parent.parent
RAY = ['ray[default,client]==2.60.0', 'virtualenv', 'pip', 'setuptools', 'boto3']
VENV = ROOT / 'build/ray-venv'
PLUGINS = '[{"class": "rtlaunch.ray.Plugin"}]'

PREAMBLE = '''
import json, os, sys, time
import ray

def connect(**more):
    more.setdefault('log_to_driver', False)
    return ray.init(address=os.environ['NODE_ADDRESS'], logging_level='ERROR', **more)

def answer(value):
    with open(os.environ['NODE_ANSWER'], 'w') as out:
        json.dump(value, out)

def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, condition
        time.sleep(0.05)
    return value
'''


@contextlib.contextmanager
def locked(name):
    (ROOT / 'build').mkdir(exist_ok=True)
    with open(ROOT / 'build' / name, 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ray_python():
    """The interpreter of a virtualenv with Ray in it; the first call takes half a minute."""
    with locked('ray-venv.lock'):
        stamp = VENV / '.complete'
        if not stamp.exists() or stamp.read_text() != repr(RAY):
            shutil.rmtree(VENV, ignore_errors=True)
            subprocess.run([SYSTEM_PYTHON, '-m', 'venv', VENV], check=True)
            subprocess.run([VENV / 'bin/python', '-m', 'pip', 'install', '-q', *RAY], check=True)
            stamp.write_text(repr(RAY))
    return VENV / 'bin/python'


def shut_in():
    """For a program of ours that starts Ray: from here on it is in namespaces, with a /tmp of its own."""
    if 'RTLAUNCH_GUESTS' in os.environ:
        return
    with tempfile.TemporaryDirectory(dir=ROOT / 'build', prefix='ray-tmp-', ignore_cleanup_errors=True) as scratch:
        os.chmod(scratch, 0o1777)
        enter = 'mount --make-rprivate / && mount --bind "$1" /tmp && shift && exec "$@"'
        done = subprocess.run(['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', enter, 'sh',
                               scratch, sys.executable, *sys.argv], env={**os.environ, 'RTLAUNCH_GUESTS': '', 'TMPDIR': '/tmp'})
    sys.exit(done.returncode)


def image_python(programs):
    """Files for an image: the system's Python at another place, /opt/py, and the libraries that Ray's code and uv need."""
    version = sysconfig.get_python_version()
    files = {name.replace(f'usr/lib/python{version}/', f'opt/py/lib/python{version}/').replace('usr/bin/', 'opt/py/bin/'): file
             for name, file in python_files().items()}
    needed = [VENV / f'lib/python{version}/site-packages/ray/_raylet.so', programs / 'uv']
    for path in (library for program in needed for library in libraries_of(str(program))):
        files[path.lstrip('/')] = pathlib.Path(os.path.realpath(path))
    return files


def children_of(pid):
    """All that descends from a process, itself first."""
    parents = {}
    for name in filter(str.isdigit, os.listdir('/proc')):
        with contextlib.suppress(OSError):
            stat = pathlib.Path(f'/proc/{name}/stat').read_text()
            parents.setdefault(int(stat[stat.rindex(')') + 2:].split()[1]), []).append(int(name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def command_of(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace').strip()
    except OSError:
        return ''


def free_port():
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


class Driven(AssertionError):
    """A driver that failed; the text is all it said."""


class Node:
    """One head node, started by `ray start`, in a short folder of its own (a socket's path has 107 bytes)."""

    def __init__(self, env=None, options=(), dashboard=False, cpus=4):
        assert 'RTLAUNCH_GUESTS' in os.environ, 'tools/run-tests gives this the namespaces it needs'
        self.python = str(ray_python())
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='ray-'))
        self.folder.chmod(0o755)
        self.home = self.folder / 'home'
        (self.home / '.ray').mkdir(parents=True)
        (self.home / '.ray/auth_token').write_text('5a' * 32)
        self.address, self.dashboard = f'127.0.0.1:{free_port()}', f'127.0.0.1:{free_port()}' if dashboard else None
        self.client_port = free_port()
        self.options, self.cpus, self.process, self.tree = list(options), cpus, None, []
        self.env = {'PATH': f'{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
                    'HOME': str(self.home), 'LANG': 'C.UTF-8', 'PYTHONUNBUFFERED': '1', 'RAY_AUTH_MODE': 'token', 'NODE_ADDRESS': self.address,
                    'RAY_USAGE_STATS_ENABLED': '0', 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0',
                    'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'RAY_DEDUP_LOGS': '0'}
        for name, value in os.environ.items():
            if name.endswith(('_CERT', '_CERT_FILE', '_CERT_DIR', '_CA_BUNDLE', '_proxy', '_PROXY')) \
                    or name in ('PIP_INDEX_URL', 'UV_INDEX_URL', 'UV_DEFAULT_INDEX'):
                self.env[name] = value
        self.env.update(env or {})

    def command(self):
        host, port = self.address.split(':')
        words = [f'{VENV}/bin/ray', 'start', '--head', '--block', f'--node-ip-address={host}', f'--port={port}',
                 f'--temp-dir={self.folder}/ray', f'--num-cpus={self.cpus}', '--object-store-memory=100000000',
                 f'--ray-client-server-port={self.client_port}', '--min-worker-port=0', '--max-worker-port=0',
                 f'--dashboard-agent-listen-port={free_port()}', '--disable-usage-stats']
        if self.dashboard:
            words += ['--include-dashboard=true', f'--dashboard-port={self.dashboard.split(":")[1]}']
        else:
            words += ['--include-dashboard=false']
        return words + self.options

    def start(self):
        with open(self.folder / 'start.log', 'wb') as log:
            self.process = subprocess.Popen(self.command(), env=self.env, cwd=self.home, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        wait_until(lambda: 'block forever' in self.said() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.said()
        return self

    def said(self):
        return (self.folder / 'start.log').read_text()

    @property
    def session(self):
        return (self.folder / 'ray/session_latest').resolve()

    def log(self, name):
        return (self.session / 'logs' / name).read_text(errors='replace')

    def logs(self):
        """All of them, for looking for what must not be there."""
        return {path.name: path.read_text(errors='replace')
                for path in (self.session / 'logs').rglob('*') if path.is_file() and not path.is_symlink()}

    def tails(self):
        """What the node's logs end with, for a test that fails where nobody can look."""
        wanted = ('raylet.err', 'raylet.out', 'runtime_env_agent', 'runtime_env_setup', 'ray_client_server', 'worker-', 'gcs_server.err')
        return '\n'.join(f'---- {name}\n{text[-1500:]}' for name, text in sorted(self.logs().items())
                         if name.startswith(wanted) and text.strip())

    def processes(self):
        return children_of(self.process.pid)

    def raylet(self):
        return next(pid for pid in self.processes() if command_of(pid).split(' ')[0].endswith('/raylet/raylet'))

    def agent(self):
        """The process that answers the raylet about runtime environments, whoever made it."""
        wanted = ('ray::RuntimeEnvAgent', 'runtime_env/agent/main.py', 'rtlaunch-agent')
        return next(pid for pid in children_of(self.raylet())[1:] if any(word in command_of(pid) for word in wanted))

    def spawn(self, script, env=None, cwd=None, **more):
        """A driver that goes on by itself; `finish` waits for it."""
        handle, path = tempfile.mkstemp(dir=self.folder, prefix='answer-')
        os.close(handle)
        driver = subprocess.Popen([self.python, '-c', PREAMBLE + textwrap.dedent(script)], cwd=cwd or self.home,
                                  env={**self.env, 'NODE_ANSWER': path, **(env or {})}, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
        driver.answer = pathlib.Path(path)
        return driver

    def finish(self, driver, timeout=120):
        try:
            output, _ = driver.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            driver.kill()
            output = driver.communicate()[0] + f'\n*** not done after {timeout} s'
        text = driver.answer.read_text()
        driver.output = output
        if driver.returncode != 0 or not text:
            raise Driven(f'driver: {driver.returncode}\n{output}\n{self.tails()}')
        return json.loads(text)

    def drive(self, script, timeout=120, **more):
        """Runs a driver; what it gave to answer()."""
        return self.finish(self.spawn(script, **more), timeout)

    def ray(self, *args, timeout=60, **more):
        return subprocess.run([f'{VENV}/bin/ray', *map(str, args)], env={**self.env, **more.pop('env', {})}, timeout=timeout,
                              cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)

    def stop(self):
        if self.process is None:
            return
        self.tree = self.processes()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        self.process.poll() is None and self.process.kill()
        for pid in self.tree[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def node(**more):
    one = Node(**more)
    try:
        yield one.start()
    finally:
        one.remove()


@contextlib.contextmanager
def our_node(programs, daemon=None, store=None, **more):
    """A node that is switched over, and makes sure of it: else Ray's own agent would pass our tests."""
    with node(env={**ours_env(programs, daemon and daemon.socket, store), **more.pop('env', {})}, **more) as one:
        one.daemon = daemon
        assert os.readlink(f'/proc/{one.agent()}/exe') == str(programs / 'rtlaunch-agent'), one.log('runtime_env_agent.log')
        yield one


def ours_env(programs, socket=None, store=None):
    """The variables that switch a node over; without a socket its layers are made in `store`, by itself."""
    install_plugin()
    env = {'RAY_RUNTIME_ENV_PLUGINS': PLUGINS, 'RTLAUNCH_BIN': str(programs)}
    env.update({'RTLAUNCH_SOCKET': str(socket)} if socket else {'RTLAUNCH_EMBEDDED': '1', 'RTLAUNCH_STORE': str(store)})
    return env


def install_plugin():
    """What `pip install rtlaunch` puts into Ray's interpreter, from the wheel that `make wheel` made."""
    ray_python()
    wheels = sorted((ROOT / 'build').glob('rtlaunch-*.whl'))
    assert wheels, 'make wheel'
    stamp = VENV / '.wheel'
    wanted = f'{wheels[-1].name} {wheels[-1].stat().st_mtime_ns}'
    with locked('ray-venv.lock'):
        if not stamp.exists() or stamp.read_text() != wanted:
            subprocess.run([VENV / 'bin/python', '-m', 'pip', 'install', '-q', '--no-deps', '--no-index',
                            '--force-reinstall', wheels[-1]], check=True)
            stamp.write_text(wanted)


@pytest.fixture(scope='session')
def ray_programs(programs):
    ray_python()
    for name in ('rtlaunch-agent', 'rtlaunch-zygote.so', 'rtlaunch-zygote.py', 'rtlaunch-uv-run.py'):
        shutil.copy(BIN / name, programs / name)
    return programs


@pytest.fixture(scope='module')
def ray_daemon(ray_programs):
    """An rtlaunchd for the nodes of a file."""
    if os.geteuid() != 0:
        pytest.skip('rtlaunchd has to be started by root')
    folder = pathlib.Path(tempfile.mkdtemp(prefix='ray-node-'))
    folder.chmod(0o755)
    one = Daemon(ray_programs, folder)
    try:
        yield one.start()
    finally:
        one.stop()


@pytest.fixture(scope='module')
def stock():
    with node() as one:
        yield one


@pytest.fixture(scope='module')
def ours(ray_programs, ray_daemon):
    with our_node(ray_programs, ray_daemon) as one:
        yield one


@pytest.fixture(scope='module')
def ours_embedded(ray_programs, tmp_path_factory):
    with our_node(ray_programs, store=tmp_path_factory.mktemp('store')) as one:
        yield one


@pytest.fixture(scope='module', params=['stock', 'ours'])
def either(request):
    """A test that must pass with Ray as it comes and with ours."""
    return request.getfixturevalue(request.param)


def ended(pids, seconds=10):
    """Waits until none of them is there any more."""
    def left():
        return [pid for pid in pids if os.path.exists(f'/proc/{pid}') and not command_of(pid) == '']
    end = time.monotonic() + seconds
    while left() and time.monotonic() < end:
        time.sleep(0.05)
    return not left()


@contextlib.contextmanager
def our_node_either_way(request, programs, tmp_path_factory):
    """For a fixture with the params daemon and embedded: of the daemon that all share, or without one."""
    if request.param == 'embedded':
        with our_node(programs, store=tmp_path_factory.mktemp('store')) as made:
            yield made
    else:
        with our_node(programs, request.getfixturevalue('ray_daemon')) as made:
            yield made
