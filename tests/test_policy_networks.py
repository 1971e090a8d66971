"""Networks that a policy gives, through a daemon that has no more rights than its systemd unit leaves it:
who is reached, what is refused and where that is shown, and that nothing is left, whoever is killed.
isolation/net_test.cc has what each network keeps apart. The daemon's host is a network of the test's own."""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal
import subprocess

import pytest

from conftest import PLAIN_UID, make_launcher
from daemon_support import Daemon, rights_of_the_unit, through, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='networks are root\'s to make')

GUEST, PORT = PLAIN_UID, 8080
POLICY = {
    'version': 1,
    'profiles': {'out': {'extends': 'ml', 'network': {'mode': 'egress', 'to': [f'tcp://10.9.0.1:{PORT}']}},
                 'named': {'extends': 'ml', 'network': {'mode': 'egress', 'to': [f'index.example:{PORT}']}},
                 'lost': {'extends': 'ml', 'network': {'mode': 'egress', 'to': [f'no-such.example:{PORT}']}},
                 'together': {'extends': 'ml', 'network': 'job'}},
    'rules': [{'name': 'all', 'profile': 'out', 'choose': ['out', 'named', 'lost', 'together', 'ml']}]}

SERVER = f'''
import socket
server = socket.create_server(('', {PORT}))
print('there', flush=True)
while True: server.accept()[0].close()'''

DIAL = '''
import socket, sys
for host in sys.argv[2:]:
    try: socket.create_connection((host, int(sys.argv[1])), timeout=60); print('yes')
    except OSError: print('no')'''

# Sends three packets to where it may not, then waits to be told to end, and dials once more.
REFUSED = f'''
import socket, sys
for i in range(3):
    try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.9.0.2', 9))
    except OSError: pass
print('sent', flush=True)
sys.stdin.readline()
socket.create_connection(('10.9.0.1', {PORT}), timeout=60)
print('reached', flush=True)
sys.stdin.readline()'''


def enter(network):
    if ctypes.CDLL(None, use_errno=True).setns(network, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), 'setns')


class Host:
    """A network like a host's, with a server that listens at all of its addresses."""

    def __init__(self):
        setup = ('ip link set lo up; sysctl -qw net.ipv4.ip_forward=1; '
                 'for a in 10.9.0.1 10.9.0.2 169.254.169.254; do ip addr add $a/32 dev lo; done')
        self.server = subprocess.Popen(['unshare', '--net', 'sh', '-ec', f'{setup}; exec python3 -c "$1"', 'sh', SERVER],
                                       stdout=subprocess.PIPE)
        assert self.server.stdout.readline() == b'there\n'
        self.network = os.open(f'/proc/{self.server.pid}/ns/net', os.O_RDONLY)
        self.known = self.networks()

    def says(self, *command):
        return subprocess.run(command, preexec_fn=lambda: enter(self.network), capture_output=True, text=True,
                              check=True).stdout

    def left(self):
        """Cables, tables and networks that are there, those before aside."""
        cables = re.findall(r'^\d+: (?!lo:)\S+', self.says('ip', '-o', 'link'), re.M)
        tables = self.says('nft', 'list', 'tables').splitlines()
        return len(cables), len(tables), len(self.networks() - self.known)

    @staticmethod
    def networks():
        found = set()
        for path in pathlib.Path('/proc').glob('[0-9]*/ns/net'):
            with contextlib.suppress(OSError):
                found.add(os.readlink(path))
        return found

    def close(self):
        self.server.kill()
        self.server.wait()
        os.close(self.network)


class Node(Daemon):
    def __init__(self, programs, folder, host):
        folder.mkdir()
        (folder / 'policy.json').write_text(json.dumps(POLICY))
        super().__init__(programs, folder, options=['--policy', str(folder / 'policy.json')])
        self.host = host
        self.rights = rights_of_the_unit()

    def spawn(self, *options):
        self.runs += 1
        with open(self.log_name(), 'wb') as log:
            return subprocess.Popen([*self.rights, self.programs / 'rtlaunchd', '--store', self.store, '--runtime',
                                     self.runtime, '--metrics', f'127.0.0.1:{9000 + self.runs}', *self.options, *options],
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    preexec_fn=lambda: enter(self.host.network))

    def scraped(self):
        url = f'http://{self.metrics_address()}/metrics'
        told = self.host.says('python3', '-c', 'import sys, urllib.request as u; print(u.build_opener('
                              'u.ProxyHandler({})).open(sys.argv[1], timeout=60).read().decode())', url)
        return int(re.search(r'^rtlaunch_refused_packets_total (\d+)$', told, re.M)[1])

    def worker(self, name):
        found = [one for one in self.workers(all=True) if one['name'] == name]
        return found[-1] if found else {}


@pytest.fixture
def host():
    host = Host()
    yield host
    host.close()


@pytest.fixture
def node(programs, tmp_path, host):
    node = Node(programs, tmp_path / 'node', host).start()
    yield node
    node.stop()


@pytest.fixture
def guest(node, tmp_path):
    return through(node, tmp_path, GUEST)


def talk(launcher, *args):
    return launcher.popen(*args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_way_out_leads_where_the_policy_says(guest):
    dial = ['--', 'python3', '-c', DIAL, PORT, '10.9.0.1', '10.9.0.2', '169.254.169.254']
    assert guest.ok(*dial).split() == ['yes', 'no', 'no']
    assert guest.ok('--profile', 'ml', *dial).split() == ['yes', 'yes', 'yes'], 'the control run: the host\'s network'
    assert guest.ok('--', 'python3', '-c', DIAL, PORT + 1, '10.9.0.1').split() == ['no']


def open_networks():
    """Those that processes hold by a descriptor."""
    found = set()
    for path in pathlib.Path('/proc').glob('[0-9]*/fd/*'):
        with contextlib.suppress(OSError):
            found.add(os.readlink(path))
    return {name for name in found if name.startswith('net:')}


CABLE = 'import os; print(os.readlink("/proc/self/ns/net")); '


def test_networks_are_made_ahead_where_they_are_in_use(node, guest, host):
    """The next start gets one that was there before it was asked for, and gets no further with it."""
    assert host.left() == (0, 0, 0), 'nobody has asked for one yet'
    guest.ok('--', 'true')
    wait_until(lambda: host.left()[0] > 0 and not node.workers(), 60)
    ahead = open_networks()
    dial = ['--', 'python3', '-c', CABLE + DIAL, PORT, '10.9.0.1', '10.9.0.2', '169.254.169.254']
    network, *reached = guest.ok(*dial).split()
    assert network in ahead, 'the control run: it is that one'
    assert reached == ['yes', 'no', 'no'] and node.wait_for_event('ended', refused_packets=2)
    node.stop()
    wait_until(lambda: host.left() == (0, 0, 0), 60)


@pytest.fixture
def known_names(tmp_path):
    """The host's /etc/hosts, in a mount namespace of the tests' own (tools/run-tests)."""
    (tmp_path / 'hosts').write_text('127.0.0.1 localhost\n10.9.0.1 index.example\n10.9.0.2 other.example\n')
    subprocess.run(['mount', '--bind', tmp_path / 'hosts', '/etc/hosts'], check=True)
    yield
    subprocess.run(['umount', '/etc/hosts'], check=True)


def test_a_way_out_leads_to_a_name_and_not_beside_it(known_names, node, guest):
    dial = ['--', 'python3', '-c', DIAL, PORT, 'index.example', '10.9.0.1', 'other.example', '10.9.0.2']
    assert guest.ok('--profile', 'named', *dial).split() == ['yes', 'yes', 'no', 'no']
    assert node.wait_for_event('ended', refused_packets=2), 'those beside it are counted'
    assert guest.ok('--profile', 'ml', *dial).split() == ['yes'] * 4, 'the control run'
    error = guest.fails('--profile', 'lost', '--', 'true')
    assert 'no-such.example' in error and 'getent' in error


def test_what_is_refused_is_shown(node, guest):
    process = talk(guest, '--', 'python3', '-c', REFUSED)
    assert process.stdout.readline() == 'sent\n'
    assert wait_until(lambda: node.worker('python3').get('refused_packets'), 60) == 3
    assert json.loads(guest.ok('ps', '--json', verb='ps'))[0]['refused_packets'] == 3
    assert node.scraped() == 3 and node.scraped() == 3, 'each packet once'
    process.communicate('\n\n', 60)
    assert process.returncode == 0
    ended = node.wait_for_event('ended', refused_packets=3)
    assert ended['worker'] == node.worker('python3')['id'] and node.worker('python3')['refused_packets'] == 3
    assert json.loads(guest.ok('status', '--json', verb='status'))['refused_packets'] == 3
    guest.ok('--profile', 'ml', '--', 'true')
    assert 'refused_packets' not in node.worker('true'), 'the host\'s network refuses nothing'


def test_without_a_daemon_it_is_told_at_the_end(programs, tmp_path, host):
    script = REFUSED.replace('sys.stdin.readline()', '')
    (tmp_path / 'store').mkdir()
    command = [programs / 'rtlaunch', 'run', '--embedded', '--store', tmp_path / 'store', '--control',
               'network=' + json.dumps(POLICY['profiles']['out']['network']), '--', 'python3', '-c', script]
    done = subprocess.run(command, preexec_fn=lambda: enter(host.network), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stdout == 'sent\nreached\n', done.stderr
    assert '3 packets refused' in done.stderr


LOOK = 'import socket; print(*(name for _, name in socket.if_nameindex()))'


@pytest.mark.parametrize('network', ['job', {'mode': 'egress', 'to': ['index.example:443']}], ids=['job', 'egress'])
def test_rootless_there_is_none_but_one_that_leads_nowhere(programs, tmp_path, network):
    alone = make_launcher(programs, tmp_path, PLAIN_UID)

    def control(value):
        return ['--control', 'network=' + (value if isinstance(value, str) else json.dumps(value)), '--']
    error = alone.fails(*control(network), 'true')
    assert 'network' in error and 'rtlaunchd' in error
    assert alone.ok(*control('none'), 'python3', '-c', LOOK) == 'lo\n'
    assert alone.ok('--', 'python3', '-c', LOOK) != 'lo\n', 'the control run'


def test_workers_of_a_job_reach_each_other_and_nobody_else(node, guest, tmp_path):
    (tmp_path / 'root').mkdir()
    root = through(node, tmp_path / 'root', 0)
    server = talk(guest, '--profile', 'together', '--job', 'a', '--', 'python3', '-c', SERVER)
    assert server.stdout.readline() == 'there\n'

    def reaches(launcher, *how):
        return launcher.ok(*how, '--', 'python3', '-c', DIAL, PORT, '127.0.0.1').strip()
    assert reaches(guest, '--profile', 'together', '--job', 'a') == 'yes'
    assert reaches(guest, '--profile', 'together', '--job', 'b') == 'no'
    assert reaches(root, '--profile', 'together', '--job', 'a') == 'no', 'another user\'s job of the same name'
    assert guest.ok('--profile', 'together', '--job', 'a', '--', 'python3', '-c', DIAL, PORT, '10.9.0.1').strip() == 'no'
    server.terminate()
    server.wait(60)


def kill_spawner(node):
    before = wait_until(node.spawner, 60)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: node.spawner() not in (None, before), 60)


def test_nothing_is_left_whoever_is_killed(node, guest, host):
    """Workers go on in their networks without the daemon and without the spawner, and are adopted with what
    they have been refused. What is there meanwhile shows that what is left would be seen."""
    assert host.left()[:2] == (0, 0)
    out = talk(guest, '--', 'python3', '-c', REFUSED)
    both = [talk(guest, '--profile', 'together', '--job', 'a', '--', 'sh', '-c', 'echo there; read x') for _ in range(2)]
    assert out.stdout.readline() == 'sent\n' and all(one.stdout.readline() == 'there\n' for one in both)
    assert [at_least > 0 for at_least in host.left()] == [True, True, True], 'the control run'
    node.kill()
    node.start()
    assert wait_until(lambda: node.worker('python3').get('refused_packets'), 60) == 3
    assert node.scraped() == 0, 'the daemon before has told them'
    kill_spawner(node)
    out.stdin.write('\n')
    out.stdin.flush()
    assert out.stdout.readline() == 'reached\n'
    node.kill()
    for process in (out, *both):
        process.kill()   # whose worker ends with it
        process.wait()
    wait_until(lambda: host.left() == (0, 0, 0), 120)
    node.start()
    assert guest.ok('--', 'python3', '-c', DIAL, PORT, '10.9.0.1').strip() == 'yes'


def test_nothing_is_left_of_starts_that_are_cut_short(node, guest, host):
    for turn in range(3):
        clients = [guest.popen('--profile', profile, '--job', f'j{i % 2}', '--', 'sleep', '1000', stderr=subprocess.DEVNULL)
                   for i, profile in enumerate(['out', 'together'] * 3)]
        wait_until(lambda: len(node.workers()) > turn, 60)   # some are under way
        (kill_spawner(node) if turn % 2 else node.kill())
        for client in clients:
            client.kill()
            client.wait()
        if node.process.poll() is not None:
            node.start()
    wait_until(lambda: not node.workers(), 120)
    wait_until(lambda: host.left() == (0, 0, 0), 120)
