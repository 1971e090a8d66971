"""Through rtlaunchd a command behaves as it does without: tests of the other files, run again with a
daemon; and what only a daemon can get wrong."""

import os
import signal
import subprocess
import threading
import time

import pytest

from conftest import PLAIN_UID, make_launcher
from daemon_support import own_daemon, through  # noqa: F401
# Each of these takes `rt`, which here is a launcher that talks to a daemon.
from test_command import (on_terminal, processes_with, wait_for,  # noqa: F401
                          test_a_signal_becomes_128_plus_n, test_background_processes_end_with_the_command,
                          test_ctrl_c_reaches_the_command_once, test_end_of_output_comes_with_the_commands_end,
                          test_exit_status_is_the_commands, test_not_found_and_not_executable,
                          test_only_stdio_is_inherited, test_sigkill_leaves_no_process_and_no_mount,
                          test_sigterm_is_forwarded, test_stdio_goes_through, test_terminal_is_the_commands_terminal)
from test_index import index, install  # noqa: F401
from test_packages import test_a_package_in_the_working_dir_changes_the_layer  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='rtlaunchd is for root')


@pytest.fixture(scope='module')
def node(programs, tmp_path_factory):
    daemon = own_daemon(programs, tmp_path_factory.mktemp('node'))
    yield daemon
    daemon.stop()


@pytest.fixture(params=['root', 'user'])
def rt(request, node, tmp_path):
    return through(node, tmp_path, PLAIN_UID if request.param == 'user' else 0)


@pytest.fixture
def own(programs, tmp_path):
    """A daemon of this test alone, and a user of it."""
    daemon = own_daemon(programs, tmp_path / 'node')
    yield through(daemon, tmp_path, PLAIN_UID)
    daemon.stop()


def test_it_is_the_daemon_that_runs_it(rt, node):
    before = node.status()['starts']
    rt.ok('--', 'true')
    assert node.status()['starts'] == before + 1
    rt.ok('--embedded', '--', 'true')
    assert node.status()['starts'] == before + 1


def test_the_command_is_its_caller(rt):
    out = rt.ok('--', 'sh', '-c', 'id -u; id -g; id -G; umask; pwd')
    uid = str(rt.uid)
    assert out.split() == [uid, uid, uid, '0022', str(rt.home)]


def test_the_callers_umask_counts(rt):
    process = subprocess.run(['sh', '-c', 'umask 077; exec "$@"', 'sh', rt.program, 'run', '--', 'sh', '-c', 'umask'], env=rt.env,
                             cwd=rt.home, capture_output=True, text=True)
    assert process.stdout == '0077\n'


def test_working_dir_is_made_mounted_and_private(rt):
    project = rt.make_files('project', {'main.py': 'print(open("data").read())', 'data': 'of the project'})
    run = lambda *more: rt.ok('--working-dir', project, *more)
    assert run('--', 'python3', 'main.py') == 'of the project\n'
    assert run('--', 'sh', '-c', 'echo changed > data; rm main.py; cat data') == 'changed\n'
    assert run('--', 'python3', 'main.py') == 'of the project\n'


def test_what_was_written_is_told_and_kept(rt):
    project = rt.make_files('project', {'a': 'a'})
    kept = rt.folder / 'kept'
    done = rt.run('--working-dir', project, '--', 'sh', '-c', 'echo 12345 > new')
    assert '1 file (6 B) written' in done.stderr
    rt.ok('--working-dir', project, '--keep', kept, '--', 'sh', '-c', 'mkdir d; echo 12345 > d/new')
    assert (kept / 'd/new').read_text() == '12345\n' and (kept / 'd/new').stat().st_uid == rt.uid


def test_cold_progress_and_timings_are_told(rt):
    project = rt.make_files('project', {'a': str(os.urandom(8))})
    done = rt.run('--working-dir', project, '--timings', '--', 'true')
    assert 'working_dir' in done.stderr and 'cold start' in done.stderr
    assert 'exec ' in [line for line in done.stderr.splitlines() if 'plan ' in line][0]


def test_errors_are_the_same_text(rt, programs, tmp_path):
    args = ['--', 'no-such-command']
    assert rt.run(*args).stderr == rt.run('--embedded', *args).stderr


def test_a_socket_that_was_named_must_answer(rt_one):
    text = rt_one.fails('--socket', rt_one.folder / 'nobody.sock', '--', 'true')
    assert 'no daemon answers' in text
    rt_one.fails('--socket', 'x', '--embedded', '--', 'true')


def test_a_shell_on_a_terminal_has_job_control(rt):
    script = 'echo ready; read line; sleep 0.1 & wait; set -m; sleep 5 & jobs; kill %1; echo "got $line"'
    shown, status = on_terminal(rt, ['--', 'bash', '-i', '-c', script], b'typed\n', b'')
    assert 'got typed' in shown and 'Running' in shown and 'no job control' not in shown
    assert os.waitstatus_to_exitcode(status) == 0


def test_ctrl_c_reaches_all_of_a_pipeline(rt):
    # Not ready by the word of a shell: one that is about to exec may swallow SIGINT, on a busy machine often.
    script = "sleep 77 & python3 -c 'import time; print(\"ready\", flush=True); time.sleep(78)'"
    shown, status = on_terminal(rt, ['--', 'sh', '-c', script], b'\x03', b'')
    assert os.waitstatus_to_exitcode(status) in (130, -2)
    assert not processes_with('time.sleep(78)')


def test_ctrl_z_stops_and_fg_goes_on(rt):
    """As a shell would have it: the launcher is stopped, the terminal is sane, and SIGCONT wakes both."""
    import pty
    pid, master = pty.fork()
    if pid == 0:
        if rt.uid:
            os.setgroups([])
            os.setresgid(rt.uid, rt.uid, rt.uid)
            os.setresuid(rt.uid, rt.uid, rt.uid)
        os.chdir(rt.home)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            os.execve(rt.program, rt.command('--', 'sh', '-c', 'echo ready; sleep 1; echo went on'), rt.env)
        _, status = os.waitpid(child, os.WUNTRACED)
        os.write(1, b'STOPPED\n' if os.WIFSTOPPED(status) else b'NOT STOPPED\n')
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, child)
        os.kill(-child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
        os.write(1, b'STATUS %d\n' % status)
        os._exit(0)
    shown = b''
    typed = False
    while True:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        shown += data
        if b'ready' in shown and not typed:
            typed = True
            time.sleep(0.2)
            os.write(master, b'\x1a')
    os.waitpid(pid, 0)
    text = shown.decode()
    assert 'STOPPED' in text and 'NOT' not in text and 'went on' in text and 'STATUS 0' in text, text


def test_a_worker_outlives_the_daemon_and_keeps_its_line(own):
    process = own.popen('--', 'sh', '-c', 'echo ready; read line; echo "read $line"; exit 4', stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'ready\n'
    own.daemon.kill()
    time.sleep(0.2)
    process.stdin.write(b'on\n')
    process.stdin.close()
    assert process.stdout.read() == b'read on\n' and process.wait() == 4


def test_a_start_waits_for_a_daemon_that_is_being_restarted(own):
    own.daemon.kill()
    late = threading.Timer(1.0, own.daemon.start)
    late.start()
    assert own.ok('--', 'echo', 'after all') == 'after all\n'
    late.join()


def test_a_daemon_that_stays_away_means_try_again(own):
    own.daemon.kill()
    started = time.monotonic()
    text = own.fails('--', 'true', timeout=40)
    assert 8 < time.monotonic() - started < 20 and 'try again' in text


def test_ctrl_c_ends_the_wait_for_a_daemon(own):
    own.daemon.kill()
    process = own.popen('--', 'true', stderr=subprocess.PIPE)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert process.wait() == 128 + signal.SIGTERM and time.monotonic() - started < 3


def test_starts_survive_daemons_that_are_killed(own):
    """Each start runs its command exactly once, or says to try again and runs it never."""
    folder = own.make_dir('home/marks')
    stop = threading.Event()

    def harass():
        while not stop.is_set():
            time.sleep(0.25)
            own.daemon.kill()
            own.daemon.start()
    thread = threading.Thread(target=harass)
    thread.start()
    try:
        for i in range(40):
            done = own.run('--', 'sh', '-c', f'echo x >> {folder}/{i}; exit 3', timeout=40)
            ran = (folder / str(i)).read_text() if (folder / str(i)).exists() else ''
            assert (done.returncode, ran) == (3, 'x\n') or (done.returncode == 125 and 'try again' in done.stderr), (done, ran)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize('credentials, shared', [('', True), ('me:secret@', False)])
def test_knowing_a_wheels_digest_is_no_right_to_it(own, index, empty_base, tmp_path, credentials, shared):
    """What an index gives to all is there for the next user; what wants credentials isn't, digest or not."""
    index.add('kept', '1.0')
    public, index.url = index.url, index.url.replace('://', f'://{credentials}')
    assert install(own, index, empty_base, 'kept') == ['1.0']
    stranger, index.url = own.daemon.launcher(PLAIN_UID + 1), public

    def refuse():
        raise ConnectionAbortedError

    index.gates['/files/kept-1.0-py3-none-any.whl'] = refuse   # he has only what a page says of it
    env = {'PIP_INDEX_URL': index.url, 'UV_INDEX_URL': index.url}
    done = stranger.run('--pip', 'kept', '--', empty_base / 'bin/python', '-c', 'import kept; print(kept.VERSION)', env=env)
    assert (done.returncode, done.stdout) == ((0, '1.0\n') if shared else (125, '')), done.stderr


def test_a_user_lists_and_removes_his_environments(own, tmp_path):
    root = own.daemon.launcher(0)
    stranger = own.daemon.launcher(PLAIN_UID + 1)
    files = {'a': str(os.urandom(8))}
    for launcher in (own, stranger):
        project = launcher.make_files('project', files)
        for path in (project / 'a', project):
            os.utime(path, (0, 1_600_000_000))   # a layer tells one second from the next
        launcher.ok('--working-dir', project, '--', 'true')
    [mine] = own.ask('env', 'ls')
    [theirs] = stranger.ask('env', 'ls')
    assert mine['layers'] == theirs['layers'] and len(root.ask('env', 'ls')) == 2
    assert mine['id'][:12] in own.ok('env', 'ls', verb='env') and own.ask('env', 'ls', '--holds') == []
    assert 'removed ' + mine['id'][:12] in own.ok('env', 'rm', mine['id'][:8], verb='env')
    assert own.ask('env', 'ls') == [] and len(stranger.ask('env', 'ls')) == 1
    assert len(root.ask('store', 'ls')) == 1, 'the layer is a stranger\'s as well'
    assert 'no such environment' in own.fails('env', 'rm', mine['id'], verb='env')
    assert 'hold it by a name' in stranger.fails('env', 'pin', theirs['id'], verb='env')
    stranger.ok('env', 'rm', theirs['id'], verb='env')
    assert root.ask('store', 'ls') == []
