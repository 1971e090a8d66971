"""Requirement lines that are easily got wrong: what pip makes of each is what ours must."""

import base64
import hashlib
import json
import zipfile

import pytest

INSTALLED = 'import importlib.metadata as m; print(*sorted(d.metadata["Name"] + "==" + d.version for d in m.distributions()))'
SIX = 'six==1.16.0 --hash=sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254'


def field(lines, **more):
    return '--runtime-env', json.dumps({'pip': lines, **more})


def make_wheel(path, extra, needs=''):
    name, version, *_ = path.name.split('-')
    info = f'{name}-{version}.dist-info'
    files = {f'{name}.py': '', **extra, f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}',
             f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
    record = [f'{info}/RECORD,,']
    with zipfile.ZipFile(path, 'w') as wheel:
        for member, text in files.items():
            wheel.writestr(member, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')
            record.append(f'{member},sha256={digest},{len(text)}')
        wheel.writestr(f'{info}/RECORD', '\n'.join(record) + '\n')
    return path


def test_a_requirements_file_of_the_working_dir_alone(rt, empty_base):
    """Not one package is named; all are in a file that only the installer finds."""
    project = rt.make_files('project', {'requirements.txt': 'six==1.15.0\n'})
    wanted = field(['-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/requirements.txt'], working_dir=str(project))
    show = (*wanted, '--', empty_base / 'bin/python', '-c', INSTALLED)
    assert 'six==1.15.0' in rt.ok(*show)
    (project / 'requirements.txt').write_text('six==1.16.0\n')
    assert 'six==1.16.0' in rt.ok(*show)
    (project / 'requirements.txt').unlink()
    assert 'requirements.txt' in rt.fails(*show)


def test_options_of_one_requirement_that_only_pip_knows(rt_one, uv, tmp_path):
    from conftest import make_venv
    venv = make_venv(tmp_path / 'venv-pip', uv, 'pip')
    assert 'six==1.16.0' in rt_one.ok(*field(['six==1.16.0 --config-settings=a=b']), '--', venv / 'bin/python', '-c', INSTALLED)


def test_one_hash_asks_for_all(rt_one, empty_base):
    python = empty_base / 'bin/python'
    assert 'six==1.16.0' in rt_one.ok(*field([SIX]), '--', python, '-c', INSTALLED)
    error = rt_one.fails(*field([SIX, 'idna==3.7']), '--', python, '-c', '')
    assert 'idna' in error and 'hash' in error


@pytest.mark.parametrize('name', ['../outer.py', '/tmp/outer.py'])
def test_a_local_wheel_with_names_that_lead_out(rt, empty_base, tmp_path, name):
    python = empty_base / 'bin/python'
    good = make_wheel(tmp_path / 'inner-1.0-py3-none-any.whl', {})
    assert 'inner==1.0' in rt.ok('--pip', good, '--', python, '-c', INSTALLED)
    bad = make_wheel(tmp_path / 'outer-1.0-py3-none-any.whl', {name: ''})
    assert 'outer-1.0-py3-none-any.whl' in rt.fails('--pip', bad, '--', python, '-c', INSTALLED)


@pytest.mark.parametrize('extra', [{'taker-1.0.data/scripts/python': '#!python\n'},
                                   {'taker-1.0.dist-info/entry_points.txt': '[console_scripts]\npython3 = taker:main\n'},
                                   {'taker-1.0.dist-info/entry_points.txt': '[console_scripts]\n../out = taker:main\n'},
                                   {'taker-1.0.dist-info/entry_points.txt': '[console_scripts]\nx = taker:main; import os\n'}])
def test_scripts_that_take_the_interpreters_place_or_lead_out(rt_one, empty_base, tmp_path, extra):
    """Refused whichever way the wheel comes: from an index, or as a file."""
    python = empty_base / 'bin/python'
    folder = rt_one.make_files('wheels', {'none': ''})
    links = ('--pip', '--no-index', '--pip', f'--find-links={folder}')
    make_wheel(folder / 'giver-1.0-py3-none-any.whl', {'giver-1.0.dist-info/entry_points.txt': '[console_scripts]\nokay = giver:main\n'})
    assert 'giver==1.0' in rt_one.ok(*links, '--pip', 'giver', '--', python, '-c', INSTALLED)
    wheel = make_wheel(folder / 'taker-1.0-py3-none-any.whl', extra)
    rt_one.fails(*links, '--pip', 'taker', '--', python, '-c', '')
    rt_one.fails('--pip', wheel, '--', python, '-c', '')


def test_options_that_change_nothing_cost_nothing(rt_one, empty_base):
    """With their values, in both ways of writing: the quick way is not left."""
    options = ['--timeout', '30', '--retries=2', '--root-user-action', 'ignore', '--progress-bar', 'off', '--no-color']
    done = rt_one.run('--runtime-env', json.dumps({'pip': {'packages': ['six==1.16.0'], 'pip_install_options': options}}),
                      '--', empty_base / 'bin/python', '-c', INSTALLED)
    assert 'six==1.16.0' in done.stdout and 'pip: build' not in done.stderr


@pytest.mark.parametrize('lines, options', [(['requests<2.29'], ['--pre']), (['--prefer-binary', 'requests<2.29'], ['--only-binary=:all:']),
                                            (['wheels/needy-1.0-py3-none-any.whl'], []), (['./source'], [])])
def test_what_would_break_the_base_is_refused_before_a_build(rt_one, uv, tmp_path, lines, options):
    """Also where the ordinary way is left: for options, a wheel that lies about, a source that says what it needs.
    Only one that must be run to say so is built first."""
    from conftest import make_venv
    venv = make_venv(tmp_path / 'venv', uv, 'responses==0.25.3')
    wheels = rt_one.make_files('wheels', {'none': ''})
    make_wheel(wheels / 'needy-1.0-py3-none-any.whl', {}, 'Requires-Dist: requests<2.29\n')
    rt_one.make_files('source', {'needy.py': '', 'pyproject.toml': '[project]\nname = "needy"\nversion = "1.0"\n'
                                 'dependencies = ["requests<2.29"]\n'})
    env = json.dumps({'pip': {'packages': lines, 'pip_install_options': options}})
    error = rt_one.fails('--runtime-env', env, '--', venv / 'bin/python', '-c', '', cwd=wheels.parent)
    assert 'responses' in error and 'requests' in error and 'pip: build' not in error
