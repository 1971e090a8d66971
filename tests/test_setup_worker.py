"""`rtlaunch setup-worker` against the setup_worker.py of the real Ray: the same words reach bash, with the
same variables."""

import json
import os
import subprocess

import pytest

from conftest import BIN
from ray_support import VENV, ray_python

CONTEXTS = [
    {},
    {'env_vars': {}},
    {'py_executable': None, 'override_worker_entrypoint': None, 'command_prefix': [], 'java_jars': []},
    {'py_executable': 'python -X dev'},
    {'py_executable': "'/a b/rtlaunch' exec 12 -- /usr/bin/python3"},
    {'command_prefix': ['cd', '/tmp', '&&'], 'env_vars': {'A': '1'}},
    {'override_worker_entrypoint': '/in/image/default_worker.py'},
    {'java_jars': ['/jars/1', '/jars/2 of 3']},
    {'env_vars': {'A': '${HOME}/x', 'B': '$A:${A}', 'C': '${NOT_THERE}c', 'D': '$not_there ${Not_There}', 'E': '$$ $'}},
    {'env_vars': {'PATH': '/first:${PATH}', 'LD_LIBRARY_PATH': '${LD_LIBRARY_PATH}:/x', 'U': 'é✓\n"\'\\'}},
    {'env_vars': {'B': '${A}', 'A': '1', 'EMPTY': ''}},
]
ARGUMENTS = ['default_worker.py', '--node-ip-address=192.0.2.2', '--x=a b', "it's", '', '--runtime-env-hash=-12', '--webui=', '*']


@pytest.fixture(scope='module')
def worker_script():
    [script] = (ray_python().parent.parent / 'lib').glob('python3*/site-packages/ray/_private/workers/setup_worker.py')
    return script


@pytest.fixture
def said(tmp_path):
    """What a bash that only tells was given: its words and its variables."""
    told = tmp_path / 'told'
    bash = tmp_path / 'bash'
    bash.write_text(f'#!/usr/bin/python3\nimport json, os, sys\njson.dump([sys.argv[1:], dict(os.environ)], open({str(told)!r}, "w"))\n')
    bash.chmod(0o755)
    env = {'PATH': f'{tmp_path}:/usr/bin:/bin', 'HOME': str(tmp_path), 'LC_ALL': 'C.UTF-8'}

    def run(*command):
        told.unlink(missing_ok=True)
        done = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True)
        assert told.exists(), done.stderr
        words, variables = json.loads(told.read_text())
        variables.pop('RAY_CLIENT_MODE', None)   # `import ray` sets it, in the worker as well
        return words, variables
    return run


@pytest.mark.parametrize('language', ['PYTHON', 'JAVA', 'CPP'])
@pytest.mark.parametrize('number', range(len(CONTEXTS)))
def test_the_same_as_rays_own(said, worker_script, number, language):
    context = dict(CONTEXTS[number])
    if language != 'PYTHON':
        context.pop('override_worker_entrypoint', None)   # Ray puts it where the first option is
    if 'PATH' in context.get('env_vars', {}):
        context['env_vars'] = {**context['env_vars'], 'PATH': '${PATH}:/last'}
    arguments = [ARGUMENTS[0], f'--serialized-runtime-env-context={json.dumps(context)}', *ARGUMENTS[1:], f'--language={language}']
    theirs = said(VENV / 'bin/python', worker_script, *arguments)
    ours = said(BIN / 'rtlaunch', 'setup-worker', VENV / 'bin/python', worker_script, *arguments)
    assert ours == theirs


def test_what_is_no_context_is_an_error_without_its_values(worker_script):
    done = subprocess.run([BIN / 'rtlaunch', 'setup-worker', '/usr/bin/python3', worker_script, 'w.py', '--language=PYTHON',
                           '--serialized-runtime-env-context={"env_vars": {"A": "hush", "B": 1}}'], capture_output=True, text=True)
    assert done.returncode == 125 and 'no runtime env context' in done.stderr and 'hush' not in done.stderr


def test_it_is_many_times_sooner(said, worker_script):
    arguments = ['default_worker.py', '--language=PYTHON', '--serialized-runtime-env-context={}']

    def seconds(*command):
        began = os.times().elapsed
        said(*command, *arguments)
        return os.times().elapsed - began
    theirs = min(seconds(VENV / 'bin/python', worker_script) for _ in range(3))
    ours = min(seconds(BIN / 'rtlaunch', 'setup-worker', VENV / 'bin/python', worker_script) for _ in range(3))
    assert ours < theirs / 2   # both with the start of a bash that is Python
