"""A command run through rtlaunch behaves as if it had been run directly."""

import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest


def test_exit_status_is_the_commands(rt):
    assert rt.run('--', 'sh', '-c', 'exit 7').returncode == 7
    assert rt.run('--', 'true').returncode == 0


@pytest.mark.parametrize('name', ['TERM', 'KILL', 'SEGV'])
def test_a_signal_becomes_128_plus_n(rt, name):
    assert rt.run('--', 'sh', '-c', f'kill -{name} $$').returncode == 128 + getattr(signal, 'SIG' + name)


def test_not_found_and_not_executable(rt):
    assert 'no-such-command' in rt.fails('--', 'no-such-command', code=127)
    rt.fails('--', '/etc/passwd', code=126)


def test_stdio_goes_through(rt):
    done = rt.run('--', 'sh', '-c', 'cat; echo out; echo err >&2', input='in\n')
    assert (done.stdout, done.stderr) == ('in\nout\n', 'err\n')


def test_end_of_output_comes_with_the_commands_end(rt):
    process = rt.popen('--', 'sh', '-c', 'echo early; exec >&-; sleep 30', stdout=subprocess.PIPE)
    started = time.monotonic()
    assert process.stdout.read() == b'early\n'
    assert time.monotonic() - started < 10, 'somebody else holds the output open'
    process.terminate()
    process.wait()


def test_sigterm_is_forwarded(rt):
    process = rt.popen('--', 'sh', '-c', 'trap "echo got it; exit 3" TERM; echo ready; while :; do sleep 0.05; done',
                       stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'ready\n'
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == b'got it\n'
    assert process.wait() == 3


def processes_with(word):
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as line:
                if word.encode() in line.read():
                    found.append(pid)
        except OSError:
            pass
    return found


def wait_for(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.02)


def test_sigkill_leaves_no_process_and_no_mount(rt):
    mounts = open('/proc/self/mountinfo').read()
    word = f'sleep 98{os.getpid()}'
    process = rt.popen('--', 'sh', '-c', f'(setsid {word} &) ; echo ready; {word}', stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'ready\n'
    marker = word.replace(' ', '\0')
    wait_for(lambda: len(processes_with(marker)) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not processes_with(marker))
    assert open('/proc/self/mountinfo').read() == mounts


def test_background_processes_end_with_the_command(rt):
    word = f'sleep 97{os.getpid()}'
    rt.ok('--', 'sh', '-c', f'setsid {word} >/dev/null 2>&1 & exit 0')
    assert not processes_with(word.replace(' ', '\0'))


def on_terminal(rt, command, typed, until):
    """Runs on a terminal of its own, types once `ready` was printed, and returns what was shown."""
    pid, master = pty.fork()
    if pid == 0:
        if rt.uid:
            os.setgroups([])
            os.setresgid(rt.uid, rt.uid, rt.uid)
            os.setresuid(rt.uid, rt.uid, rt.uid)
        os.chdir(rt.home)
        os.execve(rt.program, rt.command(*command), rt.env)
    shown = b''
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        readable, _, _ = select.select([master], [], [], 0.2)
        if readable:
            try:
                data = os.read(master, 4096)
            except OSError:
                break
            shown += data
            if not data:
                break
        if typed and b'ready' in shown:
            os.write(master, typed)
            typed = b''
        if until and until in shown:
            break
    _, status = os.waitpid(pid, 0)
    os.close(master)
    return shown.decode(), status


def test_terminal_is_the_commands_terminal(rt):
    shown, status = on_terminal(rt, ['--', 'python3', '-c', 'import os; print(os.isatty(0), os.ttyname(0) != "")'],
                                b'', b'')
    assert 'True True' in shown and os.waitstatus_to_exitcode(status) == 0


def test_ctrl_c_reaches_the_command_once(rt):
    script = ('import signal, sys, time\nseen = []\nsignal.signal(signal.SIGINT, lambda *a: seen.append(1))\n'
              'print("ready", flush=True)\nend = time.time() + 1.5\nwhile time.time() < end: time.sleep(0.05)\n'
              'print("interrupts:", len(seen), flush=True)\nsys.exit(5)')
    shown, status = on_terminal(rt, ['--', 'python3', '-c', script], b'\x03', b'')
    assert 'interrupts: 1' in shown
    assert os.waitstatus_to_exitcode(status) == 5


def test_only_stdio_is_inherited(rt):
    junk = [os.open('/etc/passwd', os.O_RDONLY) for _ in range(50)]
    try:
        done = subprocess.run(rt.command('--', 'ls', '/proc/self/fd'), env=rt.env, cwd=rt.home, pass_fds=junk,
                              user=rt.uid or None, stdout=subprocess.PIPE, text=True)
    finally:
        for fd in junk:
            os.close(fd)
    assert done.stdout.split() == ['0', '1', '2', '3']   # 3 is what ls reads


def test_variables_and_directory_of_the_caller(rt):
    out = rt.ok('--', 'sh', '-c', 'echo $MINE; pwd', env={'MINE': 'yes'})
    assert out == f'yes\n{rt.home}\n'


def test_shut_in(rt):
    """The list of the sandbox, as the command sees it."""
    out = rt.ok('--', 'sh', '-c', '''
        grep -E "NoNewPrivs|CapEff|CapBnd" /proc/self/status
        ls /tmp | wc -l; ls /proc | grep -c "^[0-9]"
        touch /usr/x 2>&1; touch ~/x && echo home; head -c 10 /proc/kcore 2>/dev/null | wc -c''')
    assert 'NoNewPrivs:\t1' in out
    assert 'Read-only file system' in out and 'home' in out.splitlines()
    assert out.splitlines()[-1] == '0', 'kcore is masked'
    assert (rt.home / 'x').exists(), 'the home is the caller\'s own'
    if rt.uid:
        assert 'CapEff:\t0000000000000000' in out and 'CapBnd:\t0000000000000000' in out


def test_started_in_the_root_it_is_shut_in_as_well(rt):
    out = rt.ok('--', 'sh', '-c', 'pwd; ls /proc/1/stat; touch /usr/x 2>&1; ls -A ' + rt.store + ' | wc -l', cwd='/')
    assert out.split('\n')[:2] == ['/', '/proc/1/stat']
    assert 'Read-only file system' in out and out.split()[-1] == '0'


def test_store_and_uppers_are_not_visible(rt):
    project = rt.make_files('project', {'a.txt': 'a'})
    rt.ok('--working-dir', project, '--', 'true')
    out = rt.ok('--working-dir', project, '--', 'sh', '-c', f'ls -A {rt.store} | wc -l; cat /proc/self/mountinfo')
    assert out.splitlines()[0] == '0'
    # mountinfo tells the names that the mounts were made with; none of them leads anywhere.
    names = set(re.findall(r'(?:upperdir|workdir|lowerdir\+?)=([^,\s]+)', out))
    assert names
    script = 'import os, sys; print([name for name in sys.argv[1:] if os.path.lexists(name)])'
    assert rt.ok('--working-dir', project, '--', 'python3', '-c', script, *names) == '[]\n'
