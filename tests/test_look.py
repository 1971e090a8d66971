"""ps, top, logs, enter, kill and status, as people who know docker and htop would use them."""

import json
import os
import pty
import select
import signal
import subprocess
import time

import pytest

from conftest import PLAIN_UID, become
from daemon_support import own_daemon, through  # noqa: F401
from test_command import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='rtlaunchd is for root')


@pytest.fixture(scope='module')
def node(programs, tmp_path_factory):
    daemon = own_daemon(programs, tmp_path_factory.mktemp('node'))
    yield daemon
    daemon.stop()


@pytest.fixture
def rt(node, tmp_path):
    return through(node, tmp_path, PLAIN_UID)


@pytest.fixture
def worker(rt, node):
    """A sleeping command of the user's, and its id."""
    project = rt.make_files('project', {'file.txt': 'of the project'})
    process = rt.popen('--working-dir', project, '--env', 'MARK=seen', '--', 'sh', '-c', 'echo ready; sleep 60 & wait',
                       stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'ready\n'
    known = [one for one in node.workers() if one['uid'] == PLAIN_UID]
    yield known[-1]['id'], process
    process.kill()
    process.wait()


def look(rt, *args, **more):
    return rt.run(*args, verb=args[0], **more)


def test_ps_shows_what_runs_and_to_whom(rt, worker):
    ident, process = worker
    assert ident[:12] in look(rt, 'ps').stdout
    [one] = [entry for entry in json.loads(look(rt, 'ps', '--json').stdout) if entry['id'] == ident]
    assert one['state'] == 'running' and one['uid'] == PLAIN_UID and one['name'] == 'sh' and one['processes'] >= 2
    stranger = subprocess.run([rt.program, 'ps', '--json', '--all'], env=rt.env, capture_output=True, text=True,
                              preexec_fn=become(PLAIN_UID + 1))
    assert json.loads(stranger.stdout) == []


def test_ps_counts_children_that_nobody_waited_for(rt, node):
    """/proc forgets them; the worker's cgroup leaf, where there is one, doesn't."""
    script = ('import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n'
              'if (pid := os.fork()) == 0:\n  while time.process_time() < 0.6: pass\n  os._exit(0)\n'
              'while os.path.exists(f"/proc/{pid}"): time.sleep(0.02)\nprint("done", flush=True)\ntime.sleep(60)')
    process = rt.popen('--', 'python3', '-c', script, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b'done\n'
        [one] = node.workers(PLAIN_UID)
        leaf = open(f'/proc/{one["pid"]}/cgroup').read().split('0::')[1].strip()
        if '/w-' not in leaf:
            pytest.skip('no cgroup2 hierarchy that could be written to')
        assert one['cpu_us'] > 500_000 and one['memory'] > 1 << 20
    finally:
        process.kill()
        process.wait()


def test_kill_ends_it_and_ps_all_says_how(rt, worker):
    ident, process = worker
    assert look(rt, 'kill', ident[:8], 'SIGTERM').returncode == 0
    assert process.wait() == 128 + signal.SIGTERM
    wait_for(lambda: ident[:12] not in look(rt, 'ps').stdout)
    [line] = [line for line in look(rt, 'ps', '--all').stdout.splitlines() if line.startswith(ident[:12])]
    assert 'signal 15' in line
    assert look(rt, 'kill', ident, 'FROB').returncode == 125
    stranger = subprocess.run([rt.program, 'kill', ident], env=rt.env, capture_output=True, preexec_fn=become(PLAIN_UID + 1))
    assert stranger.returncode == 125


def test_logs_tell_its_life(rt, worker):
    ident, process = worker
    process.terminate()
    process.wait()
    wait_for(lambda: 'ended' in look(rt, 'logs', ident).stdout)
    text = look(rt, 'logs', ident).stdout
    assert 'started' in text and text.index('started') < text.index('ended')
    for line in look(rt, 'logs', ident, '--json').stdout.splitlines():
        assert json.loads(line)['worker'] == ident


def test_logs_follow_until_it_ends(rt, worker):
    ident, process = worker
    follower = subprocess.Popen([rt.program, 'logs', ident, '-f'], env=rt.env, stdout=subprocess.PIPE, text=True,
                                preexec_fn=become(PLAIN_UID))
    assert 'started' in follower.stdout.readline()
    process.terminate()
    assert 'ended' in follower.stdout.read()
    assert follower.wait(timeout=10) == 0


def test_enter_sees_what_the_worker_sees(rt, worker):
    ident, process = worker
    done = look(rt, 'enter', ident, '--', 'sh', '-c', 'cat file.txt; echo " $MARK"; id -u; ls -d /proc/[0-9]* | wc -l; exit 6')
    assert done.returncode == 6, done.stderr
    text, uid, count = done.stdout.splitlines()
    assert text == 'of the project seen' and uid == str(PLAIN_UID) and int(count) >= 3


def on_terminal(rt, args, typed, until, seconds=15):
    pid, master = pty.fork()
    if pid == 0:
        become(PLAIN_UID)()
        os.execve(rt.program, [rt.program, *args], {**rt.env, 'TERM': 'xterm', 'SHELL': '/bin/bash'})
    shown, deadline = b'', time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                shown += os.read(master, 65536)
            except OSError:
                break
        if typed and typed[0][0] in shown:
            os.write(master, typed.pop(0)[1])
    _, status = os.waitpid(pid, 0)
    os.close(master)
    return shown, os.waitstatus_to_exitcode(status)


def test_enter_gives_a_shell_on_a_real_terminal(rt, worker):
    shown, status = on_terminal(rt, ['enter', worker[0]], [(b'$', b'[ -t 0 ] && echo two$((1+1))words; exit 5\n')], None)
    assert b'two2words' in shown and b'job control' not in shown and status == 5


def test_top_is_live_and_q_leaves(rt, worker):
    shown, status = on_terminal(rt, ['top'], [(worker[0][:12].encode(), b''), (b'starts/s 0.0', b'q')], None)
    assert status == 0 and shown.count(b'\033[H') >= 2 and shown.endswith(b'\033[?25h\033[?1049l')


def test_top_without_a_terminal_is_a_table(rt, worker):
    done = look(rt, 'top')
    assert done.returncode == 0 and worker[0][:12] in done.stdout and '\033' not in done.stdout


def test_status_has_the_numbers(rt):
    status = json.loads(look(rt, 'status', '--json').stdout)
    assert {'starts', 'workers', 'builds', 'store'} <= set(status)
    assert 'workers' in look(rt, 'status').stdout


def test_limits_are_changed_by_root_alone(rt, node):
    assert look(rt, 'store', 'limits', '--max-bytes', '5G').returncode == 125
    root = node.launcher(0)
    set_to = json.loads(root.ok('store', 'limits', '--max-bytes', '5G', '--max-age', '7d', '--json', verb='store'))
    assert set_to['max_bytes'] == 5 << 30
    assert json.loads(root.ok('store', 'limits', '--json', verb='store'))['max_age'] == 7 * 86400


def test_every_verb_has_help_and_no_daemon_is_an_error(rt_one):
    for verb in ('run', 'exec', 'env', 'store', 'ps', 'top', 'logs', 'enter', 'kill', 'status'):
        assert rt_one.ok(verb, '--help', verb='help').startswith(f'Usage: rtlaunch {verb}')
    for verb in ('ps', 'top', 'logs', 'status'):
        assert 'no daemon answers' in rt_one.fails(verb, '--socket', '/nowhere/x.sock', verb=verb)
    assert 'status' in rt_one.fails('statsu', verb='statsu')
