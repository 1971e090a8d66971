"""rtlaunch exec: a command in an environment that is there, by its id or by a name that holds it."""

import json
import os
import signal
import subprocess
import time

import pytest

from conftest import PLAIN_UID, become, make_launcher
from daemon_support import own_daemon, through  # noqa: F401
from test_command import processes_with, wait_for


@pytest.fixture(scope='module')
def node(programs, tmp_path_factory):
    daemon = own_daemon(programs, tmp_path_factory.mktemp('node')) if os.geteuid() == 0 else None
    yield daemon
    if daemon:
        daemon.stop()


@pytest.fixture(params=['embedded root', 'embedded user', 'daemon root', 'daemon user'])
def rt(request, programs, tmp_path, node):
    if 'root' in request.param and os.geteuid() != 0 or 'daemon' in request.param and node is None:
        pytest.skip('needs root')
    uid = PLAIN_UID if 'user' in request.param and os.geteuid() == 0 else 0
    return through(node, tmp_path, uid) if 'daemon' in request.param else make_launcher(programs, tmp_path, uid)


def env(rt, *args):
    return rt.ok(*args, verb='env').strip()


def make(rt, *more, files=None):
    project = rt.make_files('project', files or {'main.py': 'import sys; print("main", sys.argv[1:])'})
    return env(rt, 'env', 'create', '--working-dir', project, *more)


def execute(rt, *args, **more):
    return rt.run('exec', *args, verb='exec', **more)


def test_by_id_by_its_beginning_and_by_name(rt):
    created = make(rt, '--name', 'job')
    assert len(created) == 64
    for name in (created, created[:10], 'job'):
        done = execute(rt, name, '--', 'python3', 'main.py', '-c', '--json')
        assert (done.returncode, done.stdout) == (0, "main ['-c', '--json']\n"), done.stderr


def test_variables_directory_stdio_and_status_are_the_callers(rt):
    created = make(rt)
    done = execute(rt, created, '--env', 'B=two', 'sh', '-c', 'cat; echo "$A $B $PWD"; exit 9', input='in\n', env={'A': 'one'})
    assert (done.returncode, done.stdout) == (9, f'in\none two {rt.folder}/project\n')


def test_packages_and_modules_are_mounted(rt, empty_base):
    module = rt.make_files('mods/greet', {'__init__.py': 'WORD = "hello"'})
    runtime_env = {'py_modules': [str(module)], 'pip': ['idna==3.7']}
    created = env(rt, 'env', 'create', '--python', empty_base / 'bin/python', '--runtime-env', json.dumps(runtime_env))
    script = 'import greet, idna; print(greet.WORD, idna.__version__)'
    assert execute(rt, created, empty_base / 'bin/python', '-c', script).stdout == 'hello 3.7\n'


def test_bytecode_that_came_later_is_used(rt, empty_base):
    created = env(rt, 'env', 'create', '--python', empty_base / 'bin/python', '--pip', 'idna==3.7', '--name', 'kept')
    look = lambda: execute(rt, created, 'sh', '-c', f'ls {empty_base}/lib/python3*/site-packages/idna/__pycache__').stdout
    wait_for(lambda: 'core.cpython' in look(), seconds=30)


def test_killed_it_takes_its_worker_along(rt):
    word = f'echo ready; sleep 96{os.getpid()}{rt.uid}'
    created = make(rt)
    process = subprocess.Popen([rt.program, 'exec', created, 'sh', '-c', word], env=rt.env, cwd=rt.home, stdout=subprocess.PIPE,
                               preexec_fn=become(rt.uid))
    assert process.stdout.readline() == b'ready\n'
    wait_for(lambda: processes_with(word.split('; ')[1].replace(' ', '\0')))
    process.kill()
    process.wait()
    wait_for(lambda: not processes_with(word.split('; ')[1].replace(' ', '\0')))
    wait_for(lambda: not processes_with(word))


def test_signals_are_forwarded(rt):
    created = make(rt)
    process = subprocess.Popen([rt.program, 'exec', created, 'sh', '-c', 'trap "exit 3" TERM; echo ready; while :; do sleep 0.05; done'],
                               env=rt.env, cwd=rt.home, stdout=subprocess.PIPE, preexec_fn=become(rt.uid))
    assert process.stdout.readline() == b'ready\n'
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 3


def test_unknown_names_are_errors_with_a_cure(rt):
    assert 'rtlaunch env ls' in rt.fails('exec', 'no-such-name', '--', 'true', verb='exec')
    assert 'rtlaunch env ls' in rt.fails('exec', 'abcdef12', '--', 'true', verb='exec')
    rt.fails('exec', 'abcdef12', verb='exec')


def test_names_are_released_renewed_and_expire(rt):
    created = make(rt, '--name', 'brief', '--ttl', '2')
    assert execute(rt, 'brief', 'true').returncode == 0
    env(rt, 'env', 'renew', 'brief', '--ttl', '1h')
    time.sleep(2.5)
    assert execute(rt, 'brief', 'true').returncode == 0
    env(rt, 'env', 'release', 'brief')
    rt.fails('exec', 'brief', 'true', verb='exec')
    rt.fails('env', 'release', 'brief', verb='env')
    rt.fails('env', 'renew', 'brief', verb='env')
    make(rt, '--name', 'brief', '--ttl', '1')
    time.sleep(1.6)
    rt.fails('exec', 'brief', 'true', verb='exec')
    assert execute(rt, created[:12], 'true').returncode == 0, 'it is cache still'


def test_create_says_what_it_made(rt):
    project = rt.make_files('project', {'a': 'a'})
    made = [json.loads(rt.ok('env', 'create', '--working-dir', project, '--json', verb='env')) for _ in range(2)]
    assert made[0]['id'] == made[1]['id'] and made[0]['cold'] and not made[1]['cold']
    rt.fails('env', 'create', verb='env')
    rt.fails('env', 'create', '--working-dir', project, '--', 'true', verb='env')
