"""Drivers that `uv run` has started: Ray makes py_executable of its command line, so each worker is `uv run` again."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sysconfig
import threading

import pytest

from conftest import BIN
from ray_support import PREAMBLE, VENV, either, our_node_either_way, ours, ray_daemon, ray_programs, stock  # noqa: F401

DRIVER = PREAMBLE + '''
import emoji
connect(runtime_env={'working_dir': '.', 'env_vars': {'A': '1'}})
@ray.remote
def seen():
    import emoji
    return emoji.__version__, open('data.txt').read(), os.environ['A'], os.getcwd(), sys.executable
answer([emoji.__version__, *ray.get(seen.remote())])
'''


@pytest.fixture
def project(tmp_path):
    (tmp_path / 'driver.py').write_text(DRIVER)
    (tmp_path / 'data.txt').write_text('seven')
    return tmp_path


def uv_run(node, project, *words, timeout=120):
    path = project.parent / 'answer'
    env = {**node.env, 'NODE_ANSWER': str(path), 'VIRTUAL_ENV': str(VENV), 'PATH': f'{BIN}:{node.env["PATH"]}'}
    done = subprocess.run([BIN / 'uv', 'run', *words], env=env, cwd=project, timeout=timeout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text())


def test_with(either, project):  # noqa: F811
    driver, worker, text, variable, *_ = uv_run(either, project, '--no-project', '--with', 'emoji==2.14.0', 'driver.py')
    assert [driver, worker, text, variable] == ['2.14.0', '2.14.0', 'seven', '1']


PROJECT = '''
[project]
name = "one"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["ray[default]==2.60.0", "emoji==2.14.0"]
'''


def test_a_project(ours, project):  # noqa: F811
    """Its Ray is the lock's; what the driver's `uv run` has synced is a layer for its workers."""
    (project / 'pyproject.toml').write_text(PROJECT)
    driver, worker, text, variable, cwd, python = uv_run(ours, project, 'driver.py')
    assert [driver, worker, text, variable] == ['2.14.0', '2.14.0', 'seven', '1']
    assert python.endswith('/uv_run/project/bin/python') and (project / 'uv.lock').exists()


@pytest.fixture(scope='module', params=['daemon', 'embedded'])
def one(request, ray_programs, tmp_path_factory):  # noqa: F811
    with our_node_either_way(request, ray_programs, tmp_path_factory) as made:
        yield made


def small_project(folder, text, dependency='emoji==2.14.0', more=''):
    """With a lock, and without Ray: that comes from where the node has it, by PYTHONPATH."""
    folder.mkdir()
    (folder / 'pyproject.toml').write_text(
        f'[project]\nname = "small"\nversion = "1.0"\nrequires-python = ">=3.11"\ndependencies = ["{dependency}"]\n{more}')
    (folder / 'data.txt').write_text(text)
    subprocess.run([BIN / 'uv', 'lock', '-q', '--python', '/usr/bin/python3'], cwd=folder, check=True)
    return folder


def runtime_env(folder, *words, **variables):
    site = f'{VENV}/lib/python{sysconfig.get_python_version()}/site-packages'
    return {'working_dir': f'file://{shutil.make_archive(folder, "zip", folder)}', 'env_vars': {'PYTHONPATH': site, **variables},
            'py_executable': ' '.join([f'{BIN}/uv', 'run', *words, '--python', '/usr/bin/python3', 'python'])}


def layers_of(one):  # noqa: F811
    where = {name: one.env[name] for name in ('RTLAUNCH_SOCKET', 'RTLAUNCH_STORE') if name in one.env}
    said = subprocess.run([f'{one.env["RTLAUNCH_BIN"]}/rtlaunch', 'store', 'ls', '--json'], env={**os.environ, **where}, capture_output=True, text=True)
    if 'is not a store' in said.stderr:
        return []   # not yet
    return [layer['digest'] for layer in json.loads(said.stdout) if layer['name'] == 'uv_run']


LOOK = """
@ray.remote(num_cpus=0)
class Look:
    def seen(self):
        import emoji
        try:
            open(emoji.__file__, 'a')
            written = True
        except OSError:
            written = False
        return {'emoji': emoji.__version__, 'text': open('data.txt').read(), 'python': sys.executable, 'pid': os.getpid(),
                'files': sorted(os.listdir()), 'variable': os.environ.get('A'), 'venv': os.environ.get('VIRTUAL_ENV'),
                'written': written, 'tool': os.popen('command -v python').read().strip()}

def look(env):
    before = time.monotonic()
    actor = Look.options(runtime_env=env).remote()
    seen = ray.get(actor.seen.remote(), timeout=100)
    return {**seen, 'seconds': time.monotonic() - before}, actor

def said(env):
    try:
        return look(env)[0]
    except ray.exceptions.RuntimeEnvSetupError as error:
        return str(error)
"""


def look(one, *envs):
    return one.drive(f"connect()\n{LOOK}\nlooked = [look(env) for env in {envs!r}]\nanswer([seen for seen, _ in looked])")


def test_one_sync_a_lock(one, tmp_path):
    """Of two workers, and of two projects whose locks are equal; nothing is synced, or written, where they run."""
    tmp_path.chmod(0o755)
    first, second = small_project(tmp_path / 'first', 'seven'), small_project(tmp_path / 'second', 'eight')
    assert (first / 'uv.lock').read_bytes() == (second / 'uv.lock').read_bytes()
    env = runtime_env(first, '--frozen', A='a')
    before = layers_of(one)
    cold, warm = look(one, env, env)
    layers = layers_of(one)
    assert len(layers) == len(before) + 1
    other, = look(one, runtime_env(second, '--frozen'))
    assert layers_of(one) == layers
    for seen in (cold, warm, other):
        assert seen['emoji'] == '2.14.0' and not seen['written'], seen
        assert seen['python'] == seen['tool'] and seen['python'].endswith('/uv_run/project/bin/python'), seen
        assert seen['files'] == ['data.txt', 'pyproject.toml', 'uv.lock'] and seen['venv'].endswith('/uv_run/project'), seen
    assert [cold['text'], warm['text'], other['text']] == ['seven', 'seven', 'eight']
    assert [cold['variable'], other['variable']] == ['a', None] and cold['pid'] != warm['pid']
    print(f"a worker's start: {cold['seconds']:.2f} s, the second's {warm['seconds']:.2f} s, another project's {other['seconds']:.2f} s")
    assert warm['seconds'] < cold['seconds']


def test_what_with_adds_comes_first(one, tmp_path):
    """A package more, and another version of one that is locked: as uv has it, on top."""
    tmp_path.chmod(0o755)
    project = small_project(tmp_path / 'project', 'x')
    script = f"""
connect()
@ray.remote(num_cpus=0)
def seen():
    import emoji, toolz
    return [emoji.__version__, toolz.__version__, sys.executable]
answer(ray.get(seen.options(runtime_env={runtime_env(project, '--with', 'toolz==0.12.0', '--with=emoji==2.13.0')!r}).remote(), timeout=100))
"""
    emoji, toolz, python = one.drive(script)
    assert [emoji, toolz] == ['2.13.0', '0.12.0'] and python.endswith('/uv_run/with/bin/python')


def test_a_sync_that_fails_is_told(one, tmp_path):
    """A file whose digest is another than the lock's; a group that isn't there. No worker is started."""
    tmp_path.chmod(0o755)
    project = small_project(tmp_path / 'project', 'x', dependency='idna==3.6')
    lock = (project / 'uv.lock').read_text()
    (project / 'uv.lock').write_text(re.sub('sha256:[0-9a-f]{60}', 'sha256:' + '0' * 60, lock))
    before = layers_of(one)
    hashes, group = one.drive(f"""
connect()
{LOOK}
answer([said(env) for env in {[runtime_env(project, '--frozen'), runtime_env(project, '--group', 'nowhere')]!r}])""")
    assert 'uv run: build: ' in hashes and 'Hash mismatch' in hashes and 'idna' in hashes, hashes
    assert 'uv run: build: ' in group and 'nowhere' in group, group
    assert layers_of(one) == before


BACKEND = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
LOCAL = """[project]
name = "whole"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["emoji==2.14.0", "member", "beside"]
[tool.uv.workspace]
members = ["packages/member"]
[tool.uv.sources]
member = { workspace = true }
beside = { path = "beside" }
"""


def package(folder, name, word, build=''):
    """One module, and what builds it; `build`: more of its setup.py."""
    (folder / 'src' / name).mkdir(parents=True)
    (folder / 'src' / name / '__init__.py').write_text(f'WORD = {word!r}\n')
    (folder / 'pyproject.toml').write_text(f'[project]\nname = "{name}"\nversion = "1.0"\nrequires-python = ">=3.11"\n{BACKEND}')
    (folder / 'setup.py').write_text(f'import setuptools\n{build}\nsetuptools.setup()\n')


def local_project(folder, word='first', build=''):
    """A package that is the project itself, a member of its workspace (both editable) and a folder beside."""
    package(folder, 'whole', word)
    package(folder / 'packages/member', 'member', 'of a member', build)
    package(folder / 'beside', 'beside', 'of a folder')
    (folder / 'pyproject.toml').write_text(LOCAL + BACKEND)
    subprocess.run([BIN / 'uv', 'lock', '-q', '--python', '/usr/bin/python3'], cwd=folder, check=True)
    return folder


def modules(one, env, *names):
    return one.drive(f"""
connect()
@ray.remote(num_cpus=0)
class Look:
    def seen(self):
        import importlib
        modules = [importlib.import_module(name) for name in {names!r}]
        return [[m.WORD for m in modules], [m.__file__ for m in modules], sys.executable, os.getcwd(), sorted(os.listdir())]
actors = [Look.options(runtime_env={env!r}).remote() for _ in range(2)]
answer(ray.get([actor.seen.remote() for actor in actors], timeout=150))
""")


def test_packages_in_the_projects_own_folders(one, tmp_path):
    """One sync for a lock and their content: editable ones are imported from the working_dir, the others from the layer."""
    tmp_path.chmod(0o755)
    before, names = layers_of(one), ('whole', 'member', 'beside')
    for word in ('first', 'second'):
        env = runtime_env(local_project(tmp_path / word, word), '--frozen')
        (words, files, python, cwd, listed), also = modules(one, env, *names)
        assert words == [word, 'of a member', 'of a folder'] and also[0] == words
        assert files[:2] == [f'{cwd}/src/whole/__init__.py', f'{cwd}/packages/member/src/member/__init__.py'], files
        assert '/uv_run/project/lib/' in files[2] and python.endswith('/uv_run/project/bin/python')
        assert '.venv' not in listed and not [name for name in listed if name.endswith('.egg-info')]
    assert len(layers_of(one)) == len(before) + 2, 'another content, another layer'


def test_a_build_that_leaves_something_in_its_folder_is_run_as_it_stands(one, tmp_path):
    """A module that setup.py writes beside the others is nowhere but where it was built."""
    tmp_path.chmod(0o755)
    before, write = layers_of(one), 'open("src/member/made.py", "w").write("X = 1")'
    env = runtime_env(local_project(tmp_path / 'writes', build=write), '--frozen')
    (words, files, python, cwd, listed), also = modules(one, env, 'whole', 'member')
    assert words == ['first', 'of a member'] and python.endswith('/.venv/bin/python') and '.venv' in listed
    assert layers_of(one) == before


class Git(http.server.ThreadingHTTPServer):
    """Serves the repositories of a folder, by git's own program."""

    def __init__(self, folder):
        super().__init__(('127.0.0.1', 0), GitAnswer)
        self.folder = folder
        threading.Thread(target=self.serve_forever, daemon=True).start()


class GitAnswer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition('?')
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        env = {'PATH': os.environ['PATH'], 'GIT_PROJECT_ROOT': str(self.server.folder), 'GIT_HTTP_EXPORT_ALL': '1', 'PATH_INFO': path,
               'QUERY_STRING': query, 'REQUEST_METHOD': self.command, 'CONTENT_TYPE': self.headers.get('Content-Type', ''),
               'CONTENT_LENGTH': str(len(body)), 'HTTP_CONTENT_ENCODING': self.headers.get('Content-Encoding', ''),
               'GIT_PROTOCOL': self.headers.get('Git-Protocol', '')}
        said = subprocess.run(['git', 'http-backend'], input=body, env=env, capture_output=True, check=True).stdout
        head, _, rest = said.partition(b'\r\n\r\n')
        fields = dict(line.split(': ', 1) for line in head.decode().split('\r\n'))
        self.send_response(int(fields.pop('Status', '200').split()[0]))
        for name, value in {**fields, 'Content-Length': str(len(rest))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest)

    do_POST = do_GET

    def log_message(self, *args):
        pass


def test_packages_of_a_git_repository(one, tmp_path):
    """By the commit that the lock names."""
    tmp_path.chmod(0o755)
    package(tmp_path / 'git/far', 'far', 'of a commit')
    git = ['git', '-C', tmp_path / 'git/far', '-c', 'user.name=a', '-c', 'user.email=a@b']
    for words in (['init', '-q'], ['add', '-A'], ['commit', '-qm', 'one']):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, 'config', 'uploadpack.allowAnySHA1InWant', 'true'], check=True)
    server = Git(tmp_path / 'git')
    source = f'[tool.uv.sources]\nfar = {{ git = "http://127.0.0.1:{server.server_port}/far/.git" }}\n'
    project = small_project(tmp_path / 'project', 'x', 'far', source)
    before = layers_of(one)
    (words, files, python, *_), also = modules(one, runtime_env(project, '--frozen'), 'far')
    server.shutdown()
    assert words == ['of a commit'] and '/uv_run/project/lib/' in files[0] and python.endswith('/uv_run/project/bin/python')
    assert len(layers_of(one)) == len(before) + 1


def test_what_is_not_known_is_run_as_it_stands(one, tmp_path):
    """By `uv run` in each worker, as Ray has it: here, where the user sets a variable of uv's."""
    tmp_path.chmod(0o755)
    plain = small_project(tmp_path / 'plain', 'x')
    before = layers_of(one)
    seen, = look(one, runtime_env(plain, UV_LINK_MODE='copy'))
    assert seen['python'].endswith('/.venv/bin/python') and '.venv' in seen['files'] and layers_of(one) == before
