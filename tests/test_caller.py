"""The builder as rtlaunchd starts it: by root, for somebody else. It opens what the caller could open and
runs what the caller chose as the caller; only the store is root's."""

import json
import os
import pathlib
import shutil
import stat
import subprocess
import zipfile

import pytest

A, B = 12345, 12346
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='needs root, to be somebody else')


class Builder:
    def __init__(self, programs, folder):
        self.programs, self.folder, self.store = programs, folder, folder / 'store'
        self.answers = []

    def request(self, runtime_env, cwd, python='', **variables):
        return json.dumps({'format': 3, 'allowed': '{}', 'store': '/nonexistent', 'cwd': str(cwd), 'python': str(python),
                           'tools': str(self.programs), 'command': [], 'allow_conflicts': False, 'runtime_env': runtime_env,
                           'variables': {'PATH': '/usr/bin:/bin', 'HOME': str(cwd), **self.index(), **variables}})

    @staticmethod
    def index():
        return {name: value for name, value in os.environ.items()
                if name.endswith(('_CERT', '_CERT_FILE', '_CERT_DIR', '_CA_BUNDLE', '_proxy', '_PROXY'))
                or name in ('PIP_INDEX_URL', 'UV_INDEX_URL', 'UV_DEFAULT_INDEX')}

    def run(self, uid, field, request, groups='', environment=None):
        command = [self.programs / 'rtlaunch-build', 'make', field, '--caller', f'{uid}:{uid}:{groups}',
                   '--store', self.store]
        done = subprocess.run(command, input=request, capture_output=True, text=True, env=environment or {},
                              timeout=300, cwd='/')
        self.answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert not done.stderr, done.stderr
        return self.answers[-1]

    def ok(self, uid, field, runtime_env, cwd, groups='', environment=None, **more):
        last = self.run(uid, field, self.request(runtime_env, cwd, **more), groups, environment)
        assert last == {'event': 'done'}, self.answers

    def fails(self, uid, field, runtime_env, cwd, groups='', **more):
        last = self.run(uid, field, self.request(runtime_env, cwd, **more), groups)
        assert last['event'] == 'error', self.answers
        assert last['cure'], last
        return last

    def records(self, kind=None):
        found = []
        for path in self.store.glob('records/*/*.json'):
            text = path.read_text()
            head = json.loads(text[text.index('"head":') + 7:text.index(',\n"data":')])
            if kind in (None, head['kind']):
                found.append(head)
        return found

    def tree(self, digest):
        return self.store / 'layers/sha256' / digest[:2] / digest / 'tree'


@pytest.fixture
def builder(programs, tmp_path):
    for path in [tmp_path, *tmp_path.parents]:
        if path == pathlib.Path('/tmp') or path == pathlib.Path('/'):
            break
        path.chmod(0o755)
    return Builder(programs, tmp_path)


def private(folder, uid, files):
    """A folder that only `uid` can look into."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
        os.chown(path, uid, uid)
        os.chown(path.parent, uid, uid)
        path.chmod(0o600)
    os.chown(folder, uid, uid)
    folder.chmod(0o700)
    return folder


def expect_all_of_root(builder):
    for folder, names, files in os.walk(builder.store / 'layers'):
        for name in names + files:
            info = os.lstat(os.path.join(folder, name))
            assert (info.st_uid, info.st_gid) == (0, 0), os.path.join(folder, name)


def expect_closed(builder):
    assert stat.S_IMODE(builder.store.stat().st_mode) in (0o700, 0o711)
    for path in builder.store.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == (0o011 if path.name == 'uv' and mode & 0o077 else 0), path


def wheel(path, name, version, module):
    info = f'{name}-{version}.dist-info'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'{name}.py', module)
        archive.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
        archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr(f'{info}/RECORD', f'{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n')
    return path


def test_a_private_project_is_built_for_its_owner_alone(builder, tmp_path):
    project = private(tmp_path / 'project', A, {'main.py': 'secret = 1', 'deep/er/x': 'y'})
    env = {'working_dir': '.'}
    builder.ok(A, 'working_dir', env, project)
    [record] = builder.records('working_dir')
    assert record['uid'] == A
    tree = builder.tree(record['layers'][0])
    assert (tree / 'main.py').read_text() == 'secret = 1'
    expect_all_of_root(builder)
    expect_closed(builder)
    error = builder.fails(B, 'working_dir', env, project)
    assert error['errno'] == 13 and 'project' in error['object'], error
    assert [head['uid'] for head in builder.records()] == [A]
    assert not list(builder.store.glob('tmp/*/')), 'staging is left'


# Attacks: J1
def test_records_are_each_callers_own_and_layers_are_shared(builder, tmp_path):
    folders = [private(tmp_path / name, uid, {'main.py': 'same'}) for name, uid in (('a', A), ('b', B))]
    for folder in folders:
        os.utime(folder / 'main.py', (10**9, 10**9))
        os.utime(folder, (10**9, 10**9))
    for uid, folder in zip((A, B), folders):
        builder.ok(uid, 'working_dir', {'working_dir': '.'}, folder)
    records = builder.records('working_dir')
    assert sorted(head['uid'] for head in records) == [A, B]
    assert records[0]['asked'] == records[1]['asked']
    assert records[0]['layers'] == records[1]['layers']
    builder.ok(A, 'working_dir', {'working_dir': '.'}, folders[0])
    assert len(builder.records('working_dir')) == 2, 'the control run: his own is found again'


def test_groups_count(builder, tmp_path):
    project = private(tmp_path / 'project', 0, {'main.py': 'x'})
    os.chown(project, 0, 777)
    project.chmod(0o750)
    os.chown(project / 'main.py', 0, 777)
    (project / 'main.py').chmod(0o640)
    assert builder.fails(A, 'working_dir', {'working_dir': '.'}, project)['errno'] == 13
    builder.ok(A, 'working_dir', {'working_dir': '.'}, project, groups='776,777')


def test_a_file_in_it_that_is_not_the_callers_is_told(builder, tmp_path):
    project = private(tmp_path / 'project', A, {'main.py': 'x', 'root.key': 'secret'})
    os.chown(project / 'root.key', 0, 0)
    error = builder.fails(A, 'working_dir', {'working_dir': '.'}, project)
    assert error['errno'] == 13 and 'root.key' in error['object']


# Attacks: J6
@pytest.mark.parametrize('trick', ['file', 'directory', 'working_dir itself', 'archive', 'store'])
def test_links_lead_no_further_than_the_caller_could_go(builder, tmp_path, trick):
    private(tmp_path / 'warm', A, {'x': 'y'})
    builder.ok(A, 'working_dir', {'working_dir': '.'}, tmp_path / 'warm')   # so that there is a store
    secret = private(tmp_path / 'secret', 0, {'key': 'TOP SECRET', 'deep/key': 'TOP SECRET'})
    with zipfile.ZipFile(secret / 'a.zip', 'w') as archive:
        archive.writestr('key', 'TOP SECRET')
    project = private(tmp_path / 'project', A, {'main.py': 'x'})
    env = {'working_dir': '.'}
    if trick == 'file':
        (project / 'link').symlink_to(secret / 'key')
    elif trick == 'directory':
        (project / 'link').symlink_to(secret)
    elif trick == 'working_dir itself':
        (project / 'link').symlink_to(secret)
        env = {'working_dir': './link'}
    elif trick == 'archive':
        (project / 'link.zip').symlink_to(secret / 'a.zip')
        env = {'working_dir': './link.zip'}
    else:
        (project / 'link').symlink_to(builder.store / 'layers')
    path = project / env['working_dir'] if env['working_dir'] != '.' else project / 'link'
    assert path.exists() and str(path.resolve()) != str(path), 'the control run: root is led there'
    before = len(builder.records())
    last = builder.run(A, 'working_dir', builder.request(env, project))
    for digest in {digest for head in builder.records() for digest in head['layers']}:
        for path in builder.tree(digest).rglob('*'):
            assert path.is_dir() or path.is_symlink() or 'TOP SECRET' not in path.read_text()
            assert 'meta.json' != path.name
    if last['event'] == 'error':
        assert last['errno'] == 13, last
        assert len(builder.records()) == before
    # else: a link that leads nowhere the caller can go stays a link


LYING_PYTHON = '''#!/bin/sh
{ id -u; id -g; id -G; grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status; } > %(said)s 2>&1
env > %(environment)s
exec /usr/bin/python3 "$@"
'''


def test_an_interpreter_of_the_callers_choice_runs_as_the_caller(builder, tmp_path):
    home = private(tmp_path / 'home', A, {'site/keep': ''})
    python = home / 'python3'
    python.write_text(LYING_PYTHON % {'said': home / 'said', 'environment': home / 'environment'})
    os.chown(python, A, A)
    python.chmod(0o700)
    wheel(home / 'tiny-1.0-py3-none-any.whl', 'tiny', '1.0', 'x = 1')
    os.chown(home / 'tiny-1.0-py3-none-any.whl', A, A)
    request = builder.request({'pip': ['./tiny-1.0-py3-none-any.whl']}, home, python, LD_PRELOAD='/nonexistent.so',
                              PYTHONPATH='/evil', SECRET='s3cret')
    builder.run(A, 'pip', request, groups='777')
    said = (home / 'said').read_text().split('\n')
    assert said[0] == str(A) and said[1] == str(A) and set(said[2].split()) == {str(A), '777'}, said
    assert 'NoNewPrivs:\t1' in said and 'CapEff:\t0000000000000000' in said, said
    assert os.stat(home / 'said').st_uid == A
    environment = (home / 'environment').read_text()
    assert 'LD_PRELOAD' not in environment and 'SECRET' not in environment
    assert not any(head.get('uid') != A for head in builder.records('interpreter'))


def test_a_lying_interpreter_makes_nothing_outside_of_its_layer(builder, tmp_path):
    """One that names folders outside: whatever becomes of the build, root makes no such folder."""
    home = private(tmp_path / 'home', A, {})
    python = home / 'python3'
    escape = tmp_path / 'escaped'
    python.write_text('#!/usr/bin/python3\nimport subprocess, sys, json\n'
                      'done = subprocess.run(["/usr/bin/python3", *sys.argv[1:]], capture_output=True, text=True)\n'
                      'try:\n    said = json.loads(done.stdout)\nexcept ValueError:\n'
                      '    print(done.stdout, end=""); sys.exit(done.returncode)\n'
                      'for name in said["scheme"]:\n'
                      f'    said["scheme"][name] = said["prefix"] + "/../../../../../../..{escape}/" + name\n'
                      'print(json.dumps(said))\n')
    os.chown(python, A, A)
    python.chmod(0o700)
    wheel(home / 'tiny-1.0-py3-none-any.whl', 'tiny', '1.0', 'x = 1')
    os.chown(home / 'tiny-1.0-py3-none-any.whl', A, A)
    for version in ('', '==1.0'):
        lines = ['./tiny-1.0-py3-none-any.whl'] if not version else [f'--find-links {home}', '--no-index', 'tiny==1.0']
        assert builder.fails(A, 'pip', {'pip': lines}, home, python=python)
        assert not escape.exists()


# Attacks: B1, E7
def test_loaders_and_interpreters_variables_reach_nothing_of_roots(builder, tmp_path):
    project = private(tmp_path / 'project', A, {'main.py': 'x'})
    trap = project / 'trap.so'
    source = project / 'trap.c'
    source.write_text('#include <stdio.h>\n#include <unistd.h>\n__attribute__((constructor)) static void f(void) {\n'
                      f'  char name[200]; snprintf(name, 200, "{project}/loaded.%d", (int)geteuid());\n'
                      '  FILE *file = fopen(name, "w"); if (file) fclose(file); }\n')
    subprocess.run(['gcc', '-shared', '-fPIC', '-o', trap, source], check=True)
    trap.chmod(0o755)
    source.unlink()
    project.chmod(0o755)
    os.chown(trap, A, A)
    builder.ok(A, 'pip', {'pip': ['emoji==1.7.0']}, project, python='/usr/bin/python3', LD_PRELOAD=str(trap),
               LD_LIBRARY_PATH=str(project), PYTHONPATH=str(project), PYTHONSTARTUP=str(project / 'main.py'))
    assert not (project / 'loaded.0').exists() and not list(project.glob('loaded.0*'))
    # The control run: the trap works, if one lets it.
    subprocess.run(['/bin/true'], env={'LD_PRELOAD': str(trap)}, check=True)
    assert (project / 'loaded.0').exists()


def test_two_callers_share_a_wheel_and_nothing_else(builder, tmp_path):
    homes = {uid: private(tmp_path / str(uid), uid, {}) for uid in (A, B)}
    env = {'pip': ['attrs==23.1.0']}
    builder.ok(A, 'pip', env, homes[A], python='/usr/bin/python3')
    assert any(answer.get('phase') in ('download', 'unpack') for answer in builder.answers)
    builder.ok(B, 'pip', env, homes[B], python='/usr/bin/python3')
    assert not any(answer.get('phase') in ('download', 'unpack') for answer in builder.answers), builder.answers
    wheels = builder.records('wheel')
    assert len(wheels) == 1 and 'uid' not in wheels[0]
    pips = builder.records('pip')
    assert sorted(head['uid'] for head in pips) == [A, B]
    assert all(wheels[0]['layers'][0] in head['layers'] for head in pips)
    for kind in ('interpreter', 'distributions', 'lock'):
        assert all('uid' in head for head in builder.records(kind)), kind
    for uid in (A, B):
        home = builder.store / 'uv' / str(uid)
        assert (home.stat().st_uid, stat.S_IMODE(home.stat().st_mode)) == (uid, 0o700)
        assert all(path.lstat().st_uid == uid for path in home.rglob('*'))
    expect_all_of_root(builder)
    expect_closed(builder)


def test_a_local_wheel_is_its_owners_alone(builder, tmp_path):
    home = private(tmp_path / 'home', A, {})
    path = wheel(home / 'tiny-1.0-py3-none-any.whl', 'tiny', '1.0', 'x = 1')
    os.chown(path, A, A)
    path.chmod(0o600)
    env = {'pip': [f'--find-links {home}', '--no-index', 'tiny==1.0']}
    builder.ok(A, 'pip', env, home, python='/usr/bin/python3')
    assert all(head['uid'] == A for head in builder.records('wheel'))
    expect_all_of_root(builder)
    builder.fails(B, 'pip', env, home, python='/usr/bin/python3')


def test_a_local_archive_under_a_private_folder(builder, tmp_path):
    home = private(tmp_path / 'home', A, {})
    with zipfile.ZipFile(home / 'code.zip', 'w') as archive:
        archive.writestr('top/main.py', 'x = 1')
    os.chown(home / 'code.zip', A, A)
    (home / 'code.zip').chmod(0o600)
    env = {'working_dir': f'file://{home}/code.zip'}
    builder.ok(A, 'working_dir', env, home)
    [record] = builder.records('working_dir')
    assert (builder.tree(record['layers'][0]) / 'main.py').read_text() == 'x = 1'
    assert builder.fails(B, 'working_dir', env, '/')['errno'] == 13


SETUP = '''import setuptools, os, pathlib
seen = {}
for path in (%(paths)s):
    try:
        seen[path] = pathlib.Path(path).read_text()
    except OSError as error:
        seen[path] = error.errno
pathlib.Path('native.py').write_text(f'seen = {seen!r}; uid = {os.getuid()}')
setuptools.setup(name='native', version='1.0', py_modules=['native'])
'''


def test_a_local_package_is_built_and_sees_nothing_that_its_owner_could_not(builder, tmp_path):
    closed = private(tmp_path / 'closed', 0, {'open/key': 'TOP SECRET'})
    (closed / 'open').chmod(0o755)
    (closed / 'open/key').chmod(0o644)
    home = private(tmp_path / 'home', A, {})
    package = home / 'package'
    package.mkdir()
    paths = [str(closed / 'open/key'), str(builder.store / 'FORMAT'), str(home / 'own')]
    (package / 'setup.py').write_text(SETUP % {'paths': ', '.join(map(repr, paths)) + ','})
    (home / 'own').write_text('beside the package')
    os.chown(package, A, A)
    env = {'pip': ['./package'], 'config': {'setup_timeout_seconds': 200}}
    builder.ok(A, 'pip', env, home, python='/usr/bin/python3')
    [record] = builder.records('pip')
    modules = [path for digest in record['layers'] for path in builder.tree(digest).rglob('native.py')]
    assert len(modules) == 1
    scope = {}
    exec(modules[0].read_text(), scope)
    assert scope['uid'] == 59990
    assert all(isinstance(value, int) for value in scope['seen'].values()), scope['seen']
    expect_all_of_root(builder)
    builder.fails(B, 'pip', env, home, python='/usr/bin/python3')
    (package / 'roots').mkdir(mode=0o700)
    (package / 'roots/key').write_text('TOP SECRET')
    error = builder.fails(A, 'pip', env, home, python='/usr/bin/python3')
    assert error['errno'] == 13 and 'roots' in error['object'], error


def test_a_store_that_somebody_opened_is_refused(builder, tmp_path):
    home = private(tmp_path / 'home', A, {'x': 'y'})
    builder.ok(A, 'pip', {'pip': ['attrs==23.1.0']}, home, python='/usr/bin/python3')
    assert stat.S_IMODE(builder.store.stat().st_mode) == 0o711
    (builder.store / 'layers').chmod(0o755)
    error = builder.fails(A, 'working_dir', {'working_dir': '.'}, home)
    assert 'open to other users' in error['reason'] and 'layers' in error['object']
    (builder.store / 'layers').chmod(0o700)
    builder.ok(A, 'working_dir', {'working_dir': '.'}, home)
    builder.store.chmod(0o755)
    assert 'open to other users' in builder.fails(A, 'working_dir', {'working_dir': '.'}, home)['reason']


# Attacks: E2
@pytest.mark.parametrize('caller', ['', '1', '1:2', 'x:1:', '1:2:3,', '1:2:,3', '-1:0:', '4294967295:0:', '1:2:3:4'])
def test_a_caller_that_is_none_is_refused(builder, tmp_path, caller):
    done = subprocess.run([builder.programs / 'rtlaunch-build', 'make', 'pip', '--caller', caller, '--store',
                           builder.store], input='{}', capture_output=True, text=True, env={})
    assert done.returncode == 125 and json.loads(done.stdout)['event'] == 'error'
    assert not builder.store.exists()
    builder.ok(A, 'working_dir', {'working_dir': '.'}, private(tmp_path / 'project', A, {'main.py': ''}))   # the control run


def test_root_as_caller_is_as_embedded(builder, tmp_path, rt_one):
    project = rt_one.make_files('project', {'main.py': 'print(1)'})
    builder.ok(0, 'working_dir', {'working_dir': '.'}, project)
    [record] = builder.records('working_dir')
    assert 'uid' not in record
    assert rt_one.ok('--store', builder.store, '--working-dir', project, '--', 'python3', 'main.py') == '1\n'
    assert len(builder.records('working_dir')) == 1
