"""What a worker is run by where its runtime env says so: py_executable, a conda environment that is there, a
profiler. On both settings, with stand-ins for conda, nsys and rocprof-sys-python."""

import json
import os
import pathlib
import tempfile

import pytest

from profilers_support import profilers, program
from ray_support import VENV, node, our_node, ray_daemon, ray_programs  # noqa: F401 (fixtures)

CONDA = '''#!/bin/bash
[ "$1" = info ] && echo '{"conda_prefix": "HOME", "envs": ["HOME", "HOME/envs/there"]}'
exit 0
'''
CONDA_SH = '''conda() {
  [ "$1" = activate ] && export CONDA_DEFAULT_ENV="$2" PATH="HOME/envs/there/bin:$PATH"
  echo activated
}
'''


@pytest.fixture(scope='module', params=['stock', 'ours'])
def one(request):
    """A node of each setting that has the stand-ins."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix='tools-'))
    folder.chmod(0o755)
    home = folder / 'conda'
    profilers(folder / 'bin')
    program(home / 'bin/conda', CONDA.replace('HOME', str(home)))
    program(home / 'etc/profile.d/conda.sh', CONDA_SH.replace('HOME', str(home)))
    program(home / 'envs/there/bin/python', f'#!/bin/bash\nexec {VENV}/bin/python "$@"\n')
    env = {'PATH': f'{folder}/bin:{VENV}/bin:/usr/bin:/bin', 'RAY_CONDA_HOME': str(home)}
    if request.param == 'stock':
        with node(env=env) as made:
            made.setting = 'stock'
            yield made
        return
    daemon = request.getfixturevalue('ray_daemon')
    with our_node(request.getfixturevalue('ray_programs'), daemon, env=env) as made:
        made.setting = 'ours'
        yield made


def seen(one, env, look='os.environ.get("PROFILED")', before=''):
    return one.drive(f'''
        {before}
        connect(runtime_env={env!r})
        @ray.remote(num_cpus=0)
        class Actor:
            def look(self):
                return {look}
            def pid(self):
                return os.getpid()
        actor = Actor.remote()
        try:
            found = ray.get(actor.look.remote(), timeout=60)
        except (ray.exceptions.RuntimeEnvSetupError, ray.exceptions.ActorDiedError) as error:
            found = str(error)
        else:
            # The raylet knows it by the number that it tells of itself.
            pid = ray.get(actor.pid.remote())
            assert 'ray::' in open(f'/proc/{{pid}}/cmdline').read(), pid
            ray.kill(actor)
            until(lambda: not os.path.exists(f'/proc/{{pid}}') or not open(f'/proc/{{pid}}/cmdline').read())
        answer(found)''')


def test_python_with_options(one, tmp_path):
    (tmp_path / 'part.py').write_text('X = 7')
    env = {'py_executable': f'{VENV}/bin/python -X dev', 'working_dir': str(tmp_path)}
    assert seen(one, env, '[sys.flags.dev_mode, __import__("part").X]') == [True, 7]


def test_a_script_of_the_working_dir_that_starts_python_as_its_child(one, tmp_path):
    program(tmp_path / 'start.sh', f'#!/bin/bash\nexport MARK=yes\n{VENV}/bin/python "$@"\nexit $?\n')
    (tmp_path / 'part.py').write_text('X = 7')
    env = {'working_dir': str(tmp_path), 'py_executable': './start.sh'}
    look = '[os.environ["MARK"], __import__("part").X, sorted(os.listdir()), "/working_dir_files/" in os.getcwd()]'
    files = seen(one, env, look)
    assert files[:2] == ['yes', 7] and {'start.sh', 'part.py'} <= set(files[2]) and files[3]


def test_nsight(one, tmp_path):
    assert seen(one, {'nsight': 'default'}) == 'nsys'
    reports = one.session / 'logs/nsight'
    assert any(name.startswith('worker_process_') and name.endswith('.nsys-rep') for name in os.listdir(reports))
    assert not (reports / 'empty.nsys-rep').exists()
    (tmp_path / 'part.py').write_text('X = "part"')
    assert seen(one, {'nsight': {'o': 'mine', 'stop-on-exit': 'true'}, 'working_dir': str(tmp_path)}, '__import__("part").X') == 'part'
    assert (reports / 'mine.nsys-rep').exists()


def test_a_profiler_that_will_not(one):
    text = seen(one, {'nsight': {'wrong': '1'}})
    assert 'nsight profile failed to run with the following error message' in text and 'unrecognised option' in text
    assert "The supported config is 'default' or Dictionary of nsight options" in seen(one, {'nsight': 'other'})
    text = seen(one, {'rocprof_sys': {'args': {'Z': '1'}}})
    assert 'rocprof-sys profile failed to run with the following error message' in text and 'what is -Z' in text


def test_rocprof_sys(one):
    told = seen(one, {'rocprof_sys': 'default'}).split()
    assert told == ['rocprof', str(one.session / 'logs/rocprof_sys'), 'worker_process_%p']


def test_a_conda_environment_that_is_there(one, tmp_path):
    (tmp_path / 'part.py').write_text('X = 7')
    look = '[os.environ["CONDA_DEFAULT_ENV"], os.environ["PATH"].split(":")[0].split("/")[-2]]'
    assert seen(one, {'conda': 'there'}, look) == ['there', 'there']
    assert seen(one, {'conda': 'there', 'working_dir': str(tmp_path)}, look[:-1] + ', __import__("part").X]') == ['there', 'there', 7]
    for name in ('nowhere', str(tmp_path)):   # a prefix that isn't there is refused by Ray's driver
        text = seen(one, {'conda': name})
        assert f"The given conda environment '{name}'" in text and "doesn't" in text and '`conda info --json`' in text


def test_what_can_not_be_together_is_said(one):
    text = seen(one, {'pip': ['emoji==2.2.0'], 'py_executable': 'env python'})
    if one.setting == 'stock':   # py_executable wins
        assert text is None
        return
    assert 'py_executable: it starts Python as its child' in text and 'let py_executable be Python itself' in text
    assert json.dumps(text).count('\\n') < 12
