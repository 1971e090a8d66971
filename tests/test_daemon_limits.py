"""Through rtlaunchd a command may use what its caller may, and is as urgent: no user escapes his own
limits, and none gets the daemon's."""

import json
import os
import subprocess
import time

import pytest

from conftest import PLAIN_UID, become
from daemon_support import (Client, Start, fake_builder, own_daemon, stopped_daemon, through,  # noqa: F401
                            wait_until)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='rtlaunchd is for root')

# No command leaves a core, whatever its caller may.
SHOW = 'grep -v core /proc/self/limits; nice; grep Cpus_allowed_list /proc/self/status; ionice; chrt -p $$ | tail -n +1 | sed s/.*:.//'


@pytest.fixture(scope='module')
def node(programs, tmp_path_factory):
    daemon = own_daemon(programs, tmp_path_factory.mktemp('node'))
    yield daemon
    daemon.stop()


@pytest.fixture(params=['root', 'user'])
def rt(request, node, tmp_path):
    return through(node, tmp_path, PLAIN_UID if request.param == 'user' else 0)


def under(rt, limits, *command):
    """`command` after the shell commands `limits`, as the launcher's user; its output."""
    done = subprocess.run(['bash', '-c', limits + '; exec "$@"', 'sh', *map(str, command)], env=rt.env, cwd=rt.home,
                          preexec_fn=become(rt.uid), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('limits', [
    'true', 'ulimit -u 500', 'ulimit -n 100', 'ulimit -S -n 64', 'ulimit -v 8000000', 'ulimit -f 100; ulimit -c 0',
    'ulimit -t 50; ulimit -s 4096', 'renice -n 7 $$ >&2', 'taskset -pc 0 $$ >&2', 'ionice -c 3 -p $$', 'chrt -b -p 0 $$'])
def test_limits_are_the_callers(rt, limits):
    direct = under(rt, limits, 'sh', '-c', SHOW)
    assert under(rt, limits, rt.program, 'run', '--', 'sh', '-c', SHOW) == direct
    if limits != 'true':
        assert direct != under(rt, 'true', rt.program, 'run', '--', 'sh', '-c', SHOW), 'it changes something'


def test_nobody_leaves_a_core(rt):
    assert under(rt, 'true', rt.program, 'run', '--', 'sh', '-c', 'ulimit -Hc; ulimit -Sc') == '0\n0\n'
    assert under(rt, 'ulimit -c 100', 'sh', '-c', 'ulimit -Sc') == '200\n', 'control'


def test_a_limit_is_enforced(rt):
    script = 'import os\ntry:\n  fds = [os.dup(0) for _ in range(200)]\nexcept OSError as e: print(e.errno)'
    assert under(rt, 'ulimit -n 100', rt.program, 'run', '--', 'python3', '-c', script) == '24\n'


def test_enter_has_the_limits_of_who_enters(node, tmp_path):
    rt = through(node, tmp_path, PLAIN_UID)
    process = rt.popen('--', 'sh', '-c', 'echo ready; exec sleep 60', stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'ready\n'
    [worker] = [one['id'] for one in node.workers() if one['uid'] == PLAIN_UID]
    try:
        out = under(rt, 'ulimit -n 77; renice -n 3 $$ >&2', rt.program, 'enter', worker, '--', 'sh', '-c', 'ulimit -n; nice')
        assert out.split() == ['77', '3']
    finally:
        process.kill()
        process.wait()


def test_who_has_gone_has_no_limits_to_ask_for(node, tmp_path):
    """The connection was made by a process that has ended: nobody can say what it was allowed."""
    start, mark = Start(node, 'true'), tmp_path / 'answer'
    assert start_of(start, Client(node.socket))['ok']
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        orphan = Client(node.socket)
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)
            (tmp_path / 'new').write_text(json.dumps(start_of(start, orphan)))
            (tmp_path / 'new').rename(mark)
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    wait_until(mark.exists)
    assert json.loads(mark.read_text())['error']['step'] == 'limits'


def start_of(start, client):
    line = start.send(client)
    answer = client.read()
    line.close()
    return answer


# --- what the daemon itself starts, and ends ---

def test_housekeeping_steps_back(fake_builder, tmp_path):
    seen = tmp_path / 'seen'
    daemon = fake_builder(f'[ "$1 $2" = "store gc" ] && {{ nice; ionice; }} > {seen}\n'
                          f'[ "$1" = settle ] && {{ nice; ionice; }} > {seen}.settle\n'
                          f'[ "$1" = make ] && nice > {seen}.make && echo \'{{"done": true}}\'; exit 0')
    assert daemon.client().ask(op='collect')['ok']
    wait_until(lambda: seen.exists() and len(seen.read_text().splitlines()) == 2)
    assert seen.read_text().splitlines() == ['19', 'idle']


def runs(pid):
    try:
        return open(f'/proc/{pid}/stat').read().rpartition(') ')[2][0] != 'Z'
    except OSError:
        return False


def test_a_builder_that_never_ends_is_ended_after_the_drain(fake_builder, tmp_path):
    mark = tmp_path / 'pid'
    daemon = fake_builder(f'[ "$1" = make ] || exit 0\ntrap "" TERM\necho $$ > {mark}\nwhile :; do sleep 1; done',
                  '--drain-seconds', '2')
    client = daemon.client()
    request = os.memfd_create('request')
    os.write(request, b'{}')
    client.send([request], op='make', fields=['pip'])
    wait_until(lambda: mark.exists() and mark.read_text().strip())
    pid = int(mark.read_text())
    began = time.monotonic()
    assert daemon.stop() == 0
    assert 1.9 < time.monotonic() - began < 12
    wait_until(lambda: not runs(pid))
