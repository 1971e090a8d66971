"""pip and uv on real packages from the index, on real interpreters."""

import json
import os
import pathlib
import subprocess
import time

import pytest

VERSIONS = ('import importlib.metadata as m, json; '
            'print(json.dumps([d.version for d in m.distributions() if d.metadata["Name"].lower() == "requests"]))')


def tree_state(folder):
    return {str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in sorted(folder.rglob('*')) if '__pycache__' not in path.parts}


def python_of(venv):
    return venv / 'bin/python'


def test_a_base_package_is_replaced_not_shadowed(rt, base):
    before = tree_state(base)
    python = python_of(base)
    run = lambda *command: rt.ok('--pip', 'requests==2.27.1', '--', python, *command)
    assert json.loads(run('-c', VERSIONS)) == ['2.27.1']
    assert run('-c', 'import requests; print(requests.__version__)') == '2.27.1\n'
    assert 'No broken requirements' in run('-m', 'pip', 'check')
    assert tree_state(base) == before
    assert json.loads(subprocess.check_output([python, '-c', VERSIONS])) == ['2.34.2']


def test_two_numpys_at_once(rt, empty_base):
    python = python_of(empty_base)
    show = 'import numpy; print(numpy.__version__)'
    old = rt.popen('--pip', 'numpy<2', '--', python, '-c', show, stdout=subprocess.PIPE, text=True)
    new = rt.popen('--pip', 'numpy>=2', '--', python, '-c', show, stdout=subprocess.PIPE, text=True)
    assert old.communicate()[0].startswith('1.') and new.communicate()[0].startswith('2.')
    assert (old.returncode, new.returncode) == (0, 0)


def test_system_python_with_debian_paths(rt):
    out = rt.ok('--pip', 'requests==2.27.1', '--pip', 'pendulum', '--', '/usr/bin/python3', '-c',
                'import requests, pendulum, sys; print(requests.__version__, sys.prefix, sys.executable)')
    assert out == '2.27.1 /usr /usr/bin/python3\n'


@pytest.mark.parametrize('minor', [8, 9, 10, 11, 12, 13])
def test_every_python(rt_one, minor):
    found = sorted(pathlib.Path.home().glob(f'.pyenv/versions/3.{minor}.*/bin/python3.{minor}'))
    if not found:
        pytest.skip(f'no Python 3.{minor} on this machine (looked in ~/.pyenv/versions)')
    out = rt_one.ok('--pip', 'emoji==1.7.0', '--pip', 'attrs==23.1.0', '--', found[-1], '-c',
                    'import emoji, attr, sys; print(emoji.__version__, attr.__version__, sys.version_info[1])')
    assert out == f'1.7.0 23.1.0 {minor}\n'


def test_scripts_are_on_the_path(rt, empty_base):
    env = {'PATH': f'{empty_base}/bin:{rt.env["PATH"]}'}
    out = rt.ok('--python', python_of(empty_base), '--pip', 'pygments==2.18.0', '--', 'pygmentize', '-V', env=env)
    assert '2.18.0' in out


def test_a_named_python_is_the_first_on_the_path(rt_one, empty_base, base):
    env = {'PATH': f'{base}/bin:{empty_base}/bin:{rt_one.env["PATH"]}'}
    out = rt_one.ok('--python', python_of(empty_base), '--pip', 'idna==3.7', '--', 'python', '-c',
                    'import idna, sys; print(idna.__version__, sys.prefix)', env=env)
    assert out == f'3.7 {empty_base}\n'


def test_requirements_file_nested_and_dict_forms(rt_one, empty_base):
    folder = rt_one.make_files('reqs', {'all.txt': '# all\n-r more/other.txt\nemoji==2.14.0\n',
                                        'more/other.txt': '-r third.txt\n', 'more/third.txt': 'idna==3.7  # why not\n'})
    script = 'import emoji, idna; print(emoji.__version__, idna.__version__)'
    for field in ({'pip': str(folder / 'all.txt')}, {'uv': str(folder / 'all.txt')},
                  {'pip': {'packages': ['emoji==2.14.0', 'idna==3.7'], 'pip_check': True}},
                  {'uv': {'packages': ['emoji==2.14.0', 'idna==3.7'], 'uv_check': True,
                          'uv_pip_install_options': ['--no-cache']}},
                  {'pip': {'packages': ['emoji==2.14.0', 'idna==3.7'], 'pip_install_options': ['--no-deps']}}):
        out = rt_one.ok('--runtime-env', json.dumps(field), '--', python_of(empty_base), '-c', script)
        assert out == '2.14.0 3.7\n', field


@pytest.mark.parametrize('tool,version', [('pip', '24.0'), ('uv', '0.4.30')])
def test_the_tool_itself_where_its_version_is_named(rt_one, uv, tmp_path, tool, version):
    from conftest import make_venv
    venv = make_venv(tmp_path / f'venv-{tool}', uv, 'pip')
    env = json.dumps({tool: {'packages': ['emoji==2.14.0'], f'{tool}_version': f'=={version}'}})
    out = rt_one.ok('--runtime-env', env, '--', python_of(venv), '-c',
                    f'import emoji, importlib.metadata as m; print(emoji.__version__, m.version("{tool}"))')
    assert out == f'2.14.0 {version}\n'


def test_a_line_may_have_variables(rt_one, empty_base):
    """Those of the runtime env, else the caller's; each value has an environment of its own."""
    for field, version in (({'pip': ['emoji==${V}'], 'env_vars': {'V': '2.14.0'}}, '2.14.0'),
                           ({'pip': ['emoji==${V}']}, '2.13.0'), ({'uv': ['emoji==$V']}, '2.13.0')):
        out = rt_one.ok('--runtime-env', json.dumps(field), '--', python_of(empty_base), '-c',
                        'import emoji; print(emoji.__version__)', env={'V': '2.13.0'})
        assert out == version + '\n', field


LOCAL = {'pyproject.toml': '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
                           '[project]\nname = "localpkg"\nversion = "1.0"\n[tool.setuptools]\npackages = ["localpkg"]\n',
         'localpkg/__init__.py': 'WORD = "one"\n'}


def test_a_package_in_the_working_dir_changes_the_layer(rt, empty_base):
    """Ray hashes only the text, and serves the old package (R2)."""
    project = rt.make_files('project', {f'pkg/{name}': text for name, text in LOCAL.items()})
    env = json.dumps({'working_dir': str(project), 'pip': ['${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/pkg']})
    show = ['--runtime-env', env, '--', python_of(empty_base), '-c', 'import localpkg; print(localpkg.WORD)']
    assert rt.ok(*show) == 'one\n'
    (project / 'pkg/localpkg/__init__.py').write_text('WORD = "two"\n')
    assert rt.ok(*show) == 'two\n'


def test_order_and_variables_change_no_key(rt_one, empty_base):
    python = python_of(empty_base)
    rt_one.ok('--pip', 'emoji==2.14.0', '--pip', 'idna==3.7', '--', python, '-c', '')
    done = rt_one.run('--pip', 'idna==3.7', '--pip', 'emoji==2.14.0', '--env', 'A=b', '--', python, '-c', '')
    assert (done.returncode, done.stderr) == (0, '')


def test_conflict_with_the_base_is_refused_and_both_are_named(rt_one, uv, tmp_path):
    from conftest import make_venv
    venv = make_venv(tmp_path / 'venv-conflict', uv, 'responses==0.25.3')
    started = time.monotonic()
    error = rt_one.fails('--pip', 'requests==2.27.1', '--', python_of(venv), '-c', '')
    assert 'responses' in error and 'requests' in error and '2.27.1' in error
    assert time.monotonic() - started < 20


def test_conflict_among_themselves(rt_one, empty_base):
    error = rt_one.fails('--pip', 'requests==2.27.1', '--pip', 'urllib3>=2', '--', python_of(empty_base), '-c', '')
    assert 'requests' in error and 'urllib3' in error


def test_a_package_that_does_not_exist(rt_one, empty_base):
    error = rt_one.fails('--pip', 'no-such-package-7f3a9c', '--', python_of(empty_base), '-c', '')
    assert 'no-such-package-7f3a9c' in error
    assert len(error) < 600


def test_cached_environments_start_without_a_network(rt_one, empty_base):
    command = rt_one.command('--pip', 'emoji==2.14.0', '--', python_of(empty_base), '-c', 'import emoji; print("here")')
    assert subprocess.run(command, env=rt_one.env, cwd=rt_one.home).returncode == 0
    done = subprocess.run(['unshare', '--net', '--', *command], env=rt_one.env, cwd=rt_one.home, capture_output=True, text=True)
    assert done.stdout == 'here\n' and done.stderr == ''
    lost = subprocess.run(['unshare', '--net', '--', *rt_one.command('--pip', 'emoji==2.13.0', '--', python_of(empty_base), '-c', '')],
                          env=rt_one.env, cwd=rt_one.home, capture_output=True, text=True)
    assert lost.returncode == 125 and '  cure: ' in lost.stderr


def test_bytecode_comes_in_the_background(rt_one, empty_base):
    command = ['--pip', 'idna==3.7', '--', python_of(empty_base), '-c', 'import idna; print(idna.core.__cached__)']
    rt_one.ok(*command)
    deadline = time.monotonic() + 60
    while True:  # a layer is there a moment before the record names it
        path = rt_one.ok(*command).strip()
        listed = rt_one.run('--python', python_of(empty_base), '--pip', 'idna==3.7', '--', 'ls', path)
        if listed.returncode == 0 or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert (listed.stdout, listed.stderr) == (path + '\n', ''), 'the next worker finds it'
    assert 'pyc' in [layer['kind'] for layer in rt_one.ask('store', 'ls')]


def test_worker_may_install_into_its_private_copy(rt_one, base):
    before = tree_state(base)
    rt_one.ok('--pip', 'emoji==2.14.0', '--', 'sh', '-c',
              f'{base}/bin/python -m pip uninstall -qy emoji && ! {base}/bin/python -c "import emoji" 2>/dev/null',
              '--python', env={'VIRTUAL_ENV': str(base)})
    assert tree_state(base) == before


SPY = """
import os, json
report = {'uid': os.getuid(), 'home': os.environ.get('HOME'), 'seen': [], 'written': []}
for path in %(look)r:
    if os.path.lexists(path):
        report['seen'].append(path)
for path in %(write)r:
    try:
        open(path + '/spy-was-here', 'w').close()
        report['written'].append(path)
    except OSError:
        pass
report['variables'] = sorted(os.environ)
open('spied.py', 'w').write('REPORT = ' + repr(report))
from setuptools import setup
setup(name='spy', version='1.0', py_modules=['spied'])
"""


def make_sdist(rt, folder, setup):
    import io
    import tarfile
    path = rt.make_dir(folder) / 'spy-1.0.tar.gz'
    with tarfile.open(path, 'w:gz') as archive:
        for name, text in {'spy-1.0/setup.py': setup, 'spy-1.0/PKG-INFO': 'Metadata-Version: 1.0\nName: spy\nVersion: 1.0\n'}.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path.parent


def test_a_build_is_shut_in(rt, empty_base):
    """A setup.py runs as another user, sees nothing of the caller's and writes nowhere but its own."""
    secret = rt.make_files('home/.ssh', {'id_rsa': 'secret'})
    places = ['/tmp', '/usr', '/etc', '/var', '/', str(rt.home), rt.store, str(empty_base), str(empty_base / 'lib')]
    look = [str(secret), str(rt.home), rt.store, '/root', '/home']
    links = make_sdist(rt, 'links', SPY % {'look': look, 'write': places})
    out = rt.ok('--pip', f'--find-links {links}', '--pip', 'spy==1.0', '--', python_of(empty_base), '-c',
                'import spied, json; print(json.dumps(spied.REPORT))', env={'MY_TOKEN': 'do not show', 'AWS_SECRET_ACCESS_KEY': 'x'})
    report = json.loads(out)
    assert report['uid'] == (rt.uid or 59990)
    assert [path for path in report['seen'] if path in (str(secret), str(rt.home), rt.store)] == []
    assert 'MY_TOKEN' not in report['variables'] and 'AWS_SECRET_ACCESS_KEY' not in report['variables']
    for path in places:
        assert not os.path.lexists(os.path.join(path, 'spy-was-here')), path


def test_planning_runs_nobodys_code(rt_one, empty_base):
    """Refused before anything is built: the package's code, outside of a sandbox, never runs."""
    canary = rt_one.home / 'canary'
    links = make_sdist(rt_one, 'links', f'open({str(canary)!r}, "w").close()\nraise SystemExit("no")\n')
    rt_one.fails('--pip', f'--find-links {links}', '--pip', 'spy==1.0', '--', python_of(empty_base), '-c', '')
    assert not canary.exists()


def test_a_configured_folder_of_wheels_that_is_not_there(rt_one, empty_base):
    """pip passes it over; so do we."""
    out = rt_one.ok('--pip', 'idna==3.7', '--', python_of(empty_base), '-c', 'import idna; print(idna.__version__)',
                    env={'PIP_FIND_LINKS': '/no/such/wheels'})
    assert out == '3.7\n'
