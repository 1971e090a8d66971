"""rtlaunch exec: a command in an environment that is there, by its id or by a name that holds it."""

import errno
import json
import os
import pathlib
import re
import signal
import socket
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


# --- what a daemon has answered is assumed the next time ---

def asked(daemon, op):
    _, page = daemon.scrape()
    found = re.search(rf'^rtlaunch_requests_total{{op="{op}"}} (\d+)', page, re.M)
    return int(found[1]) if found else 0


def failed(daemon):
    found = re.search(r'^rtlaunch_starts_total{result="failed"} (\d+)', daemon.scrape()[1], re.M)
    return int(found[1]) if found else 0


@pytest.fixture(params=['root', 'user'])
def through_daemon(request, tmp_path, node):
    if node is None:
        pytest.skip('needs root')
    return through(node, tmp_path, PLAIN_UID if request.param == 'user' else 0)


def run_again(rt, *args):
    return rt.ok('--working-dir', rt.folder / 'project', '--', *args)


def test_a_second_start_asks_for_nothing_else(through_daemon, node):
    rt = through_daemon
    created = make(rt)
    for start, op in ((lambda: execute(rt, created, '--', 'python3', 'main.py').stdout, 'env'),
                      (lambda: run_again(rt, 'python3', 'main.py'), 'lookup')):
        assert start() == 'main []\n'
        before, starts = asked(node, op), asked(node, 'start')
        assert start() == 'main []\n'
        assert (asked(node, op), asked(node, 'start')) == (before, starts + 1)


def changed(rt, node, created):
    """The environment's record is another from now on, with the same layers."""
    client = node.client(rt.uid)
    record = client.ask(op='env', id=created)['record']
    data = json.loads(record['data'])
    data['env_vars'] = {'ADDED': 'meanwhile'}
    keys = [field['key'] for field in data['fields'].values()]
    answer = client.ask(op='remember', key=created, name=record['name'], layers=record['layers'],
                        data=json.dumps(data), keys=keys)
    assert answer['ok'], answer


def test_a_record_that_has_changed_is_asked_for(through_daemon, node):
    rt = through_daemon
    created = make(rt)
    assert execute(rt, created, '--', 'true').returncode == 0
    changed(rt, node, created)
    before, starts, none = asked(node, 'env'), asked(node, 'start'), failed(node)
    assert execute(rt, created, '--', 'python3', 'main.py').stdout == 'main []\n'
    assert (asked(node, 'env'), asked(node, 'start'), failed(node)) == (before + 1, starts + 2, none)
    assert execute(rt, created, '--', 'true').returncode == 0
    assert asked(node, 'env') == before + 1     # the new one is assumed from now on


def test_an_environment_that_is_gone_is_not_started(through_daemon, node):
    rt = through_daemon
    created = make(rt)
    assert execute(rt, created, '--', 'true').returncode == 0
    assert node.client(rt.uid).ask(op='forget', ids=[created])['removed']
    done = execute(rt, created, '--', 'echo', 'started')
    assert (done.returncode, done.stdout) == (125, '') and 'there is none of this name' in done.stderr, done.stderr


def test_a_working_dir_that_has_changed_is_not_assumed(through_daemon):
    rt = through_daemon
    make(rt)
    for _ in range(2):
        assert run_again(rt, 'python3', 'main.py') == 'main []\n'
    rt.make_files('project', {'main.py': 'print("another")'})
    assert run_again(rt, 'python3', 'main.py') == 'another\n'


def test_what_is_kept_may_be_anything(through_daemon, node):
    rt = through_daemon
    created = make(rt)
    assert execute(rt, created, '--', 'true').returncode == 0
    own = pathlib.Path('/var/lib/rtlaunch' if rt.uid == 0 else rt.home / '.local/share/rtlaunch')
    files = list((own / 'wd').glob('asked-*'))
    assert files
    for text in (b'', b'x' * 5000, bytes(100)):
        for file in files:
            file.write_bytes(text)
        assert execute(rt, created, '--', 'python3', 'main.py').stdout == 'main []\n'


@pytest.mark.parametrize('wrong', [{'store': '/another'}, {'plugins': '/another'}, {'record': '0' * 64}, {'0' * 64: '0' * 64}])
def test_who_assumes_wrongly_starts_nothing(through_daemon, node, wrong):
    rt = through_daemon
    created = make(rt)
    if 'record' in wrong:
        wrong = {created: wrong['record']}
    document, null = os.memfd_create('document'), os.open('/dev/null', os.O_RDWR)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = failed(node)
    answer = node.client(rt.uid).ask([document, null, null, null, theirs.fileno()], op='start', keys=[created], assumed=wrong)
    theirs.close()
    assert (answer['error']['errno'], answer['error']['step']) == (errno.ESTALE, 'assumed'), answer
    assert ours.recv(100) == b'' and failed(node) == before
    for fd in (document, null):
        os.close(fd)
