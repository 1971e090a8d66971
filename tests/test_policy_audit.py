"""rtlaunch policy audit: what a command uses is learned from one run of it, and the profile that is printed lets the very same
command run, and little else."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

from conftest import PLAIN_UID, SYSTEM_PYTHON
from daemon_support import stopped_daemon, through  # noqa: F401
from test_policy_networks import GUEST, PORT, Node, enter, host  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='the daemon is root\'s')

# Reads and writes files, starts processes and threads, calls what strict's list doesn't have.
PROGRAM = '''
import ctypes, json, os, sqlite3, subprocess, sys, threading
print(open(sys.argv[1]).read().strip())
thread = threading.Thread(target=lambda: print("thread"))
thread.start(); thread.join()
print(subprocess.run(["sh", "-c", "echo child | tr a-z A-Z"], capture_output=True, text=True).stdout.strip())
os.makedirs("out", exist_ok=True)
open("out/new", "w").write("written")
os.rename("out/new", "out/result")
print(open("out/result").read())
libc = ctypes.CDLL(None)
print("mbind", libc.syscall(237, None, 0, 0, None, 0, 0))
'''


def audited(launcher, folder, *command, **more):
    output = folder / 'audited.json'
    told = launcher.ok('policy', 'audit', '--output', output, '--', *command, verb='policy', **more)
    return told, json.loads(output.read_text())


def under(stopped_daemon, policy):
    """A daemon with this policy, after `check` had nothing against it."""
    file = stopped_daemon.folder / 'policy.json'
    file.write_text(json.dumps(policy))
    done = subprocess.run([stopped_daemon.programs / 'rtlaunch', 'policy', 'check', file, '--json'], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)['warnings'] == [], done
    return stopped_daemon.start('--policy', str(file))


@pytest.fixture
def visible():
    """A folder outside of /tmp, which a sandbox has for itself."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix='rtlaunch-audit-', dir='/opt'))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize('uid', [0, PLAIN_UID], ids=['root', 'user'])
def test_the_same_command_runs_under_what_is_printed(stopped_daemon, tmp_path, visible, uid):
    rt = through(stopped_daemon, tmp_path, uid)
    rt.folder = visible
    home, work = rt.make_dir('home'), rt.make_dir('home/work')
    rt.env['HOME'] = str(home)
    project = rt.make_files('project', {'main.py': PROGRAM})
    files = rt.make_files('files', {'data': 'data', 'other': 'other'})
    command = [SYSTEM_PYTHON, '-B', project / 'main.py', files / 'data']
    told, policy = audited(rt, home, *command, cwd=work)
    assert told.splitlines()[:4] == ['data', 'thread', 'CHILD', 'written'] and 'mbind' in told
    profile = policy['profiles']['audited']
    assert profile['extends'] == 'strict' and 'network' not in profile
    assert 'mbind' in profile['syscalls']['allow'] and 'clone3' not in profile['syscalls']['allow']
    under(stopped_daemon, policy)
    assert rt.ok('--', *command, cwd=work) == told
    # And little else: another file beside the one that was read, another program, a network.
    assert rt.run('--', SYSTEM_PYTHON, '-B', project / 'main.py', files / 'other', cwd=work).returncode == 1
    assert rt.run('--', '/usr/bin/env', cwd=work).returncode != 0
    subprocess.run([SYSTEM_PYTHON, '-B', project / 'main.py', files / 'other'], cwd=work, check=True, capture_output=True)
    subprocess.run(['/usr/bin/env'], check=True, capture_output=True)   # the control runs: without the profile


DIAL = f'import socket; socket.create_connection(("10.9.0.1", {PORT}), timeout=60); print("reached")'


def test_addresses_become_a_way_out(programs, tmp_path, host):
    (tmp_path / 'node').mkdir()
    file = tmp_path / 'audited.json'
    command = [SYSTEM_PYTHON, '-c', DIAL]
    done = subprocess.run([programs / 'rtlaunch', 'policy', 'audit', '--output', file, '--', *command], capture_output=True,
                          text=True, preexec_fn=lambda: enter(host.network), cwd='/usr')
    assert done.returncode == 0 and done.stdout == 'reached\n', done.stderr
    policy = json.loads(file.read_text())
    assert policy['profiles']['audited']['network'] == {'mode': 'egress', 'to': [f'10.9.0.1:{PORT}']}
    node = Node(programs, tmp_path / 'other', host)
    (node.folder / 'policy.json').write_text(json.dumps(policy))
    node.start()
    guest = through(node, tmp_path, GUEST)
    assert guest.ok('--', *command, cwd='/usr') == 'reached\n'
    assert guest.run('--', SYSTEM_PYTHON, '-c', DIAL.replace('10.9.0.1', '10.9.0.2'), cwd='/usr').returncode == 1
    node.stop()


def test_how_it_ends_is_how_the_command_ends(rt):
    for script, code in (('exit 3', 3), ('kill -9 $$', 137)):
        done = rt.run('policy', 'audit', '--', 'sh', '-c', script, verb='policy')
        assert done.returncode == code and json.loads(done.stdout)['profiles']['audited'], done
    assert rt.run('policy', 'audit', '--', '/no/such/program', verb='policy').returncode == 127
    assert 'no command' in rt.fails('policy', 'audit', verb='policy')
    # A command that is stopped and goes on, and one that leaves a process behind.
    rt.ok('policy', 'audit', '--', 'sh', '-c', '(while kill -CONT $$; do sleep 0.1; done) & kill -STOP $$; true', verb='policy')
