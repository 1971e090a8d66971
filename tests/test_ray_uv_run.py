"""Drivers that `uv run` has started: Ray makes py_executable of its command line, so each worker is `uv run` again."""

import json
import subprocess

import pytest

from conftest import BIN
from ray_support import PREAMBLE, VENV, either, ours, ray_daemon, ray_programs, stock  # noqa: F401

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
    """With a lock, and a .venv that each worker's `uv run` makes in its own copy of the working_dir, from uv's cache."""
    (project / 'pyproject.toml').write_text(PROJECT)
    driver, worker, text, variable, cwd, python = uv_run(ours, project, 'driver.py')
    assert [driver, worker, text, variable] == ['2.14.0', '2.14.0', 'seven', '1']
    assert python.startswith(cwd + '/.venv/') and (project / 'uv.lock').exists()
