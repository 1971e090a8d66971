"""What every end-to-end test has: the programs, a store of its own, and a way to run as root and as a
plain user. `make e2e` runs them; each test makes its folders below tmp_path and nothing else."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

BIN = pathlib.Path(os.environ.get('RTLAUNCH_BIN', pathlib.Path(__file__).parent.parent / 'build/release/bin'))
PLAIN_UID = 12345
SYSTEM_PYTHON = '/usr/bin/python3'

# For what looks around inside: call(NUMBER, WORD...) by a child, its errno or 0.
CALL = '''
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *words):
    pid = os.fork()
    if pid == 0:
        failed = libc.syscall(number, *[ctypes.c_long(word) for word in words]) < 0
        os._exit(ctypes.get_errno() if failed else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
'''


def become(uid):
    def change():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    return change if uid else None


class Launcher:
    """`rt.run('--pip', 'emoji', '--', 'true')`, as `uid`, with a store and a home below `folder`."""

    def __init__(self, programs, folder, uid):
        self.program, self.uid, self.folder = str(programs / 'rtlaunch'), uid, folder
        self.home = self.make_dir('home')
        self.store = str(folder / 'store')
        self.env = {'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
                    'HOME': str(self.home), 'RTLAUNCH_STORE': self.store, 'LANG': 'C.UTF-8'}
        for name, value in os.environ.items():
            if name.endswith(('_CERT', '_CERT_FILE', '_CERT_DIR', '_CA_BUNDLE', '_proxy', '_PROXY')) \
                    or name in ('PIP_INDEX_URL', 'UV_INDEX_URL', 'UV_DEFAULT_INDEX'):
                self.env[name] = value

    def own(self, path):
        if self.uid:
            os.chown(path, self.uid, self.uid)
        return path

    def make_dir(self, name):
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return self.own(path)

    def make_files(self, folder, files):
        root = self.make_dir(folder)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            self.own(path.parent)
            self.own(path)
        return root

    def command(self, *args):
        return [self.program, 'run', *map(str, args)]

    def popen(self, *args, env=None, cwd=None, **more):
        return subprocess.Popen(self.command(*args), env={**self.env, **(env or {})}, cwd=cwd or self.home,
                                preexec_fn=become(self.uid), **more)

    def run(self, *args, env=None, cwd=None, input=None, timeout=240, verb='run'):
        command = [self.program, *map(str, args)] if verb != 'run' else self.command(*args)
        return subprocess.run(command, env={**self.env, **(env or {})}, cwd=cwd or self.home, timeout=timeout,
                              input=input, capture_output=True, text=True, preexec_fn=become(self.uid))

    def ok(self, *args, **more):
        done = self.run(*args, **more)
        assert done.returncode == 0, f'{args}: {done.returncode}\n{done.stdout}\n{done.stderr}'
        return done.stdout

    def fails(self, *args, code=125, **more):
        done = self.run(*args, **more)
        assert done.returncode == code, f'{args}: {done.returncode}\n{done.stdout}\n{done.stderr}'
        errors = [line for line in done.stderr.splitlines() if line.startswith('rtlaunch: error: ')]
        cures = [line for line in done.stderr.splitlines() if line.startswith('  cure: ')]
        assert len(errors) == 1 and len(cures) == 1, done.stderr
        return done.stderr

    def ask(self, *args):
        return json.loads(self.ok(*args, '--json', verb='ask'))


@pytest.fixture(scope='session')
def programs(tmp_path_factory):
    """A copy that every user can reach, wherever the checkout is."""
    folder = tmp_path_factory.mktemp('programs')
    for name in ('rtlaunch', 'rtlaunchd', 'rtlaunch-spawner', 'rtlaunch-build', 'uv', 'packaging.whl'):
        shutil.copy(BIN / name, folder / name)
    for path in [folder, *folder.parents]:
        if path == pathlib.Path('/tmp') or path == pathlib.Path('/'):
            break
        path.chmod(0o755)
    return folder


def make_launcher(programs, tmp_path, uid):
    for path in [tmp_path, *tmp_path.parents]:
        if path == pathlib.Path('/tmp') or path == pathlib.Path('/'):
            break
        path.chmod(0o755)
    folder = tmp_path / 'own'
    folder.mkdir()
    if uid:
        os.chown(folder, uid, uid)
    return Launcher(programs, folder, uid)


@pytest.fixture(params=['root', 'user'])
def rt(request, programs, tmp_path):
    """Both ways of running: as root, and rootless in a user namespace. The result must be the same."""
    if request.param == 'root' and os.geteuid() != 0:
        pytest.skip('needs root to run as root')
    return make_launcher(programs, tmp_path, PLAIN_UID if request.param == 'user' and os.geteuid() == 0 else 0)


@pytest.fixture
def rt_one(programs, tmp_path):
    """For what has nothing to do with who runs it."""
    return make_launcher(programs, tmp_path, 0)


@pytest.fixture(scope='session')
def uv(programs):
    return str(programs / 'uv')


def make_venv(folder, uv, *requirements, options=()):
    subprocess.run([SYSTEM_PYTHON, '-m', 'venv', '--without-pip', *options, folder], check=True)
    if requirements:
        subprocess.run([uv, 'pip', 'install', '-q', '--no-config', '-p', f'{folder}/bin/python', *requirements],
                       check=True, env={**os.environ, 'UV_CACHE_DIR': str(pathlib.Path(folder).parent / 'uv-cache')})
    return pathlib.Path(folder)


@pytest.fixture(scope='session')
def base(tmp_path_factory, uv):
    """A base with requests 2.34.2 and pip, as the issue has it."""
    folder = tmp_path_factory.mktemp('base')
    folder.chmod(0o755)
    return make_venv(folder / 'venv', uv, 'requests==2.34.2', 'pip')


@pytest.fixture(scope='session')
def empty_base(tmp_path_factory, uv):
    folder = tmp_path_factory.mktemp('empty-base')
    folder.chmod(0o755)
    return make_venv(folder / 'venv', uv)
