"""rtlaunchd seen from its socket: what clients without manners, users apart, restarts and faults do to it.
What a worker sees is tested elsewhere."""

import json
import os
import pathlib
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

from conftest import PLAIN_UID
from daemon_support import HELLO, Client, daemon, frame, stopped_daemon, wait_until, workers_of

OTHER_UID = 23456
KEY = 'a' * 64


def memfd(content):
    fd = os.memfd_create('test')
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Trusting:
    """The control run of floods and nonsense: a server that waits for what was announced and believes what it reads."""

    def __init__(self, folder):
        self.path = str(folder / 'trusting.sock')
        program = (
            'import json, os, selectors, socket, struct, sys\n'
            'server, clients = socket.socket(socket.AF_UNIX), {}\n'
            'server.bind(sys.argv[1]); server.listen(100); print("there", flush=True)\n'
            'wait = selectors.DefaultSelector(); wait.register(server, 1)\n'
            'while True:\n'
            '  for key, _ in wait.select():\n'
            '    if key.fileobj is server:\n'
            '      client = server.accept()[0]; clients[client] = b""; wait.register(client, 1); continue\n'
            '    text = clients[key.fileobj] = clients[key.fileobj] + key.fileobj.recv(1 << 20)\n'
            '    if len(text) >= 4 and len(text) >= 4 + struct.unpack("<I", text[:4])[0]:\n'
            '      key.fileobj.send(json.dumps({"op": json.loads(text[4:])["op"].upper()}).encode())\n')
        self.process = subprocess.Popen(['/usr/bin/python3', '-c', program, self.path], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL)
        assert self.process.stdout.readline() == b'there\n'

    def client(self, text):
        client = socket.socket(socket.AF_UNIX)
        client.connect(self.path)
        client.sendall(text)
        return client

    def memory(self):
        text = pathlib.Path(f'/proc/{self.process.pid}/status').read_text()
        return int(re.search(r'VmRSS:\s+(\d+)', text)[1]) << 10


@pytest.fixture
def trusting(tmp_path):
    server = Trusting(tmp_path)
    yield server
    server.process.kill()
    server.process.wait()


# --- the protocol ------------------------------------------------------------------------------------

def test_hello_tells_where_everything_is(daemon):
    hello = daemon.client().hello
    assert hello['ok'] and hello['version'] == 1 and hello['pid'] == daemon.process.pid
    assert hello['store'] == str(daemon.store)
    assert os.path.exists(hello['tools'] + '/rtlaunch-build')


def test_another_version_is_refused_with_those_that_are_spoken(daemon):
    client = daemon.client(hello=False)
    answer = client.ask(op='hello', version=99)
    assert answer['ok'] is False and answer['versions'] == [1] and answer['error']['cure']
    assert client.is_closed()


def test_something_else_before_hello_is_refused(daemon):
    client = daemon.client(hello=False)
    assert 'hello' in client.ask(op='ps')['error']['reason']
    assert client.is_closed()


def test_the_first_request_may_follow_hello_at_once(daemon):
    client = daemon.client(hello=False)
    client.socket.sendall(frame(HELLO) + frame({'op': 'ps'}))
    assert client.read()['version'] == 1
    assert client.read()['workers'] == []


# Attacks: J2
@pytest.mark.parametrize('text, word', [
    (b'', 'request'), (b'{', 'request'), (b'[]', 'object'), (b'{"op":"strat"}', 'unknown op'),
    (b'{"op":"ps","all":"yes"}', 'true or false'), (b'{"op":"ps","verbose":1}', 'unknown key'),
    (b'{"op":"lookup","keys":["../../etc/passwd"]}', 'malformed'), (b'{"op":"make","fields":[]}', 'descriptors'),
    (b'{"op":"start","keys":[]}', 'descriptors'), (b'\xff\xfe\x00', 'request'), (b'{"op":"ps"}\x00', 'zero byte'),
    (b'[' * 5000, 'request')])
def test_nonsense_is_answered_and_disturbs_nobody(daemon, trusting, text, word):
    other = daemon.client()
    client = daemon.client()
    client.socket.sendall(frame(text))
    answer = client.read()
    assert answer['ok'] is False and word in json.dumps(answer)
    assert other.ask(op='ps')['ok']
    assert daemon.client().ask(op='ps')['ok']
    if word in ('request', 'object'):
        trusting.client(frame(text))
        assert trusting.process.wait(10) != 0, 'the control run'


def test_a_long_frame_is_refused_by_its_length(daemon):
    client = daemon.client()
    client.socket.sendall(struct.pack('<I', (1 << 20) + 1))
    assert client.read()['error']['errno'] == 90   # EMSGSIZE
    assert client.is_closed()
    greeting = daemon.client(hello=False)          # before hello, even less
    greeting.socket.sendall(struct.pack('<I', 5000))
    assert greeting.read()['ok'] is False and greeting.is_closed()


def test_a_byte_at_a_time_is_understood(daemon):
    client = daemon.client()
    for byte in frame({'op': 'holds'}):
        client.socket.sendall(bytes([byte]))
    assert client.read()['holds'] == []


def test_stray_descriptors_are_refused_and_closed(daemon):
    client = daemon.client()
    before = daemon.descriptors()
    for _ in range(20):
        assert client.ask([0, 1, 2], op='ps')['error']['object'] == 'descriptors'
    wait_until(lambda: daemon.descriptors() <= before + 3)   # of sixty
    parts = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('20i', *[0] * 20))]
    client.socket.sendmsg([frame({'op': 'ps'})], parts)
    assert client.read()['ok'] is False and client.is_closed()
    wait_until(lambda: daemon.descriptors() < before)


def test_descriptors_of_the_wrong_kind_are_refused(daemon, tmp_path):
    (tmp_path / 'file').write_text('x')
    null, file = os.open('/dev/null', os.O_RDWR), os.open(tmp_path / 'file', os.O_RDONLY)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    packets = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    document = memfd(b'no Spec')
    client = daemon.client()
    for fds in ([null, null, null, null, packets[1].fileno()], [file, null, null, null, packets[1].fileno()],
                [document, null, null, null, theirs.fileno()], [document, null, null, null, null]):
        answer = client.ask(fds, op='start', keys=[])
        assert answer['ok'] is False and answer['error']['object'] in ('document', 'line'), answer
    answer = client.ask([document, null, null, null, packets[1].fileno()], op='start', keys=[])
    assert answer['ok'] is False                       # the child that decodes it says so
    assert client.ask([null], op='make', fields=['pip'])['error']['object'] == 'request'
    assert daemon.workers() == [] and workers_of(daemon.runtime) == []


def test_a_document_that_is_too_long_is_refused(daemon):
    big = os.memfd_create('big')
    os.ftruncate(big, 1 << 40)
    answer = daemon.client().ask([big], op='make', fields=['pip'])
    assert answer['error']['errno'] == 90


# --- slow, half-closed, many ---------------------------------------------------------------------------

def test_who_never_says_hello_is_dropped(daemon):
    began = time.monotonic()
    client = daemon.client(hello=False)
    answer = client.read()
    assert answer is None or answer['ok'] is False
    assert 3 < time.monotonic() - began < 10


# Attacks: J2
def test_who_stops_inside_a_frame_is_dropped(daemon, trusting):
    kept = trusting.client(frame({'op': 'ps'})[:6])
    client = daemon.client()
    client.socket.sendall(frame({'op': 'ps'})[:6])
    began = time.monotonic()
    assert client.read()['ok'] is False and client.is_closed()
    assert 8 < time.monotonic() - began < 15
    assert select.select([kept], [], [], 0)[0] == [], 'the control run: there he stays'


def test_half_closed_clients_go_and_leave_nothing(daemon):
    before = daemon.descriptors()
    for text in (b'', b'\x10', frame({'op': 'ps'})[:9], frame({'op': 'ps'})):
        client = daemon.client()
        client.socket.sendall(text)
        client.socket.shutdown(socket.SHUT_WR)
        answer = client.read()
        assert answer is None or 'workers' in answer
        assert client.is_closed()
    wait_until(lambda: daemon.descriptors() <= before)


def test_a_client_that_reads_nothing_costs_nothing(daemon):
    """It asks and asks, and takes no answer: it is stopped by its own full socket."""
    client = daemon.client()
    client.socket.setblocking(False)
    request = rest = frame({'op': 'lookup', 'keys': [KEY] * 1000})
    before, sent = daemon.memory(), 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            rest = rest[client.socket.send(rest):]
        except BlockingIOError:
            time.sleep(0.01)
        if not rest:
            rest, sent = request, sent + 1
    assert sent > 3 and select.select([], [client.socket], [], 0)[1] == []
    assert daemon.memory() - before < 4 << 20
    assert daemon.client().ask(op='ps')['ok']


def flood(daemon, uid, count):
    """As many connections as the daemon lets `uid` have; [those that are served, those that aren't]."""
    clients = [daemon.client(uid, hello=False, timeout=10) for _ in range(count)]
    for client in clients:
        try:
            client.send(**HELLO)
        except OSError:
            pass
    answers = [client.read() for client in clients]
    return [[c for c, a in zip(clients, answers) if a and a['ok']], [c for c, a in zip(clients, answers) if not a or not a['ok']]]


def test_a_user_has_a_bounded_number_of_connections(daemon):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        served, refused = flood(daemon, PLAIN_UID, 1100)
        assert len(served) == 1024 and len(refused) == 76
        assert daemon.client().ask(op='ps')['ok']                # root isn't bounded by it
        assert daemon.client(OTHER_UID).ask(op='ps')['ok']       # nor are others
        assert daemon.memory() < 50 << 20
        for client in served + refused:
            client.close()
        wait_until(lambda: daemon.status()['connections'] == 1)
        assert daemon.client(PLAIN_UID).ask(op='ps')['ok']
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_connections(daemon):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 10_500:
        pytest.skip(f'this process may have only {hard} descriptors')
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        served, refused = flood(daemon, 0, 10_000)
        assert len(served) + len(refused) == 10_000
        began = time.monotonic()
        assert served[0].ask(op='ps')['ok']
        assert time.monotonic() - began < 1
        assert daemon.memory() < 100 << 20
        for client in served + refused:
            client.close()
        wait_until(lambda: daemon.status()['connections'] == 1, seconds=30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Attacks: J2
def test_unfinished_frames_of_one_user_are_bounded(daemon, trusting):
    """Each client sends most of a long frame and stops; together they may have eight megabytes."""
    piece = struct.pack('<I', 1 << 20) + b' ' * 900_000
    clients = []
    for _ in range(30):
        client = daemon.client(PLAIN_UID)
        try:
            client.socket.sendall(piece)
        except OSError:
            pass
        clients.append(client)
    time.sleep(0.5)
    assert daemon.memory() < 40 << 20
    assert daemon.client(OTHER_UID).ask(op='ps')['ok'] and daemon.client(PLAIN_UID).ask(op='ps')['ok']
    before = trusting.memory()
    guests = [trusting.client(piece) for _ in range(30)]
    wait_until(lambda: trusting.memory() - before > 24 << 20)   # the control run: all that was sent is kept
    assert len(guests) == 30


def lingering_socket(seconds):
    """A connection whose last close(2) waits so long: there is data that nobody takes."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen()
        ours = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, seconds))
    with pytest.raises(BlockingIOError):
        while True:
            ours.send(b'x' * 65536)
    ours.setblocking(True)
    return ours, theirs


def test_a_descriptor_whose_closing_takes_long_holds_nobody_up(daemon):
    client, other = daemon.client(PLAIN_UID), daemon.client(OTHER_UID)
    ours, theirs = lingering_socket(4)
    text = frame({'op': 'ps'})
    client.socket.sendmsg([text[:5]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack('i', ours.fileno()))])
    ours.close()                      # not the last copy: that is the daemon's, which it doesn't want
    began = time.monotonic()
    client.socket.sendall(text[5:])
    assert client.read()['ok'] is False
    for _ in range(20):
        assert other.ask(op='ps')['ok'] and client.ask(op='ps')['ok']
    assert time.monotonic() - began < 2
    theirs.close()


# --- users apart -----------------------------------------------------------------------------------------

# Attacks: D7, J1
def test_another_users_worker_can_not_be_seen_or_touched(daemon):
    process, worker = daemon.sleeper(PLAIN_UID)
    try:
        assert [w['id'] for w in daemon.workers(PLAIN_UID)] == [worker]
        assert daemon.workers(PLAIN_UID)[0]['uid'] == PLAIN_UID
        assert [w['id'] for w in daemon.workers(0)] == [worker]
        stranger = daemon.client(OTHER_UID)
        assert stranger.ask(op='ps', all=True)['workers'] == []
        for request in ({'op': 'kill', 'worker': worker, 'signal': 9}, {'op': 'logs', 'worker': worker}):
            assert stranger.ask(**request)['error']['errno'] == 3   # ESRCH: as if it weren't there
        stranger.ask(op='logs')
        assert worker not in [event['line'].get('worker') for event in stranger.events]
        assert process.poll() is None
        owner = daemon.client(PLAIN_UID)   # the control run
        assert owner.ask(op='logs', worker=worker[:6])['ok'] and owner.events[0]['line']['event'] == 'started'
        assert owner.ask(op='kill', worker=worker, signal=signal.SIGTERM)['ok']
        assert process.wait(10) == 128 + signal.SIGTERM
    finally:
        process.kill()


# Attacks: J1
def test_what_only_root_may(daemon):
    user, root = daemon.client(PLAIN_UID), daemon.client()
    for request in ({'op': 'limits', 'max_bytes': 1 << 30}, {'op': 'collect'}, {'op': 'pin', 'env': KEY, 'pinned': True}):
        assert user.ask(**request)['error']['errno'] == 1   # EPERM
    assert root.ask(op='limits', max_bytes=1 << 30)['max_bytes'] == 1 << 30   # the control run: root may
    assert root.ask(op='limits')['max_bytes'] == 1 << 30
    assert root.ask(op='collect')['ok']
    assert wait_until(lambda: daemon.status()['store']['stats'])['layers'] == 0


def test_layers_of_nobody_are_not_remembered(daemon):
    answer = daemon.client(PLAIN_UID).ask(op='remember', key=KEY, name='mine', layers=['b' * 64], data='{}', keys=[])
    assert answer['error']['errno'] == 1
    assert daemon.client(PLAIN_UID).ask(op='remember', key=KEY, name='mine', layers=[], data='{}', keys=[])['ok']
    assert daemon.client(PLAIN_UID).ask(op='env', id=KEY[:8])['record']['name'] == 'mine'
    assert daemon.client(OTHER_UID).ask(op='env', id=KEY[:8])['error']['errno'] == 2
    assert daemon.client(OTHER_UID).ask(op='lookup', keys=[KEY])['records'] == [None]
    assert daemon.client(OTHER_UID).ask(op='start', keys=[KEY])['ok'] is False


# --- workers, restarts -------------------------------------------------------------------------------------

def test_a_killed_daemon_finds_its_workers_again(daemon):
    running, worker = daemon.sleeper(PLAIN_UID, 'sleep')
    ending, other = daemon.sleeper()
    pid = {w['id']: w['pid'] for w in daemon.workers()}
    daemon.kill()
    time.sleep(0.2)
    assert running.poll() is None and ending.poll() is None       # their clients need no daemon
    ending.send_signal(signal.SIGTERM)
    assert ending.wait(10) == 128 + signal.SIGTERM                # it ends while no daemon lives
    daemon.start()
    assert {w['id']: w['pid'] for w in daemon.workers()} == {worker: pid[worker]}
    ended = [w for w in daemon.workers(all=True) if w['state'] == 'ended']
    assert [w['id'] for w in ended] == [other] and ended[0]['status'] == signal.SIGTERM
    assert daemon.wait_for_event('adopted')['worker'] == worker
    running.send_signal(signal.SIGTERM)
    assert running.wait(10) == 128 + signal.SIGTERM
    wait_until(lambda: daemon.workers() == [])
    assert workers_of(daemon.runtime) == []
    client = daemon.client()
    client.ask(op='logs', worker=worker)                          # the log goes on where it was
    assert [e['line']['event'] for e in client.events] == ['started', 'adopted', 'ended']


# Attacks: E10; control: test_a_killed_daemon_finds_its_workers_again
def test_records_that_lie_are_not_believed(stopped_daemon):
    """Not locked: whatever the file says, it has ended. A pid that is somebody else's is not adopted."""
    folder = stopped_daemon.runtime / 'workers'
    folder.mkdir(parents=True, mode=0o755)
    mine = {'format': 1, 'id': '0123456789ab', 'uid': 0, 'name': 'x', 'env': '', 'since': 1}
    (folder / '0123456789ab').write_text(json.dumps(mine) + '\n' + json.dumps({'pid': os.getpid(), 'start_time': 1}) + '\n')
    (folder / 'ffffffffffff').write_text('{"torn')
    (folder / 'eeeeeeeeeeee').write_text(json.dumps({'id': 7, 'pid': 'x'}) + '\n')
    (folder / 'not-an-id').write_text('')
    stopped_daemon.runtime.chmod(0o755)
    daemon = stopped_daemon.start()
    assert daemon.workers() == []
    assert [w['id'] for w in daemon.workers(all=True)] == ['0123456789ab']
    assert workers_of(daemon.runtime) == ['not-an-id']


def test_a_spawner_that_dies_is_replaced_and_workers_go_on(daemon):
    process, worker = daemon.sleeper()
    for round in range(3):
        old = daemon.spawner()
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: daemon.status()['spawner']['alive'] and daemon.spawner() not in (None, old))
    assert process.poll() is None and [w['id'] for w in daemon.workers()] == [worker]
    assert daemon.status()['spawner']['restarts'] == 3
    assert daemon.launcher().run('--', 'true').returncode == 0
    process.kill()
    wait_until(lambda: daemon.workers() == [])


def test_two_daemons_in_one_folder(daemon):
    second = daemon.spawn()
    assert second.wait(10) == 125
    assert 'another rtlaunchd lives here' in daemon.log()
    assert daemon.client().ask(op='ps')['ok']


def test_sigterm_drains_and_leaves_workers(daemon):
    process, worker = daemon.sleeper()
    client = daemon.client()
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 5
    assert client.is_closed() and process.poll() is None
    daemon.start()
    assert [w['id'] for w in daemon.workers()] == [worker]
    process.kill()
    wait_until(lambda: daemon.workers() == [])


def test_sighup_opens_the_log_anew(daemon):
    (daemon.runtime / 'log' / 'events.jsonl').rename(daemon.folder / 'moved')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_event('reloaded')
    assert 'reloaded' in (daemon.runtime / 'log' / 'events.jsonl').read_text()


def test_a_runtime_folder_that_vanishes_comes_back(daemon):
    process, worker = daemon.sleeper()
    shutil.rmtree(daemon.runtime)
    daemon.wait_for_event('runtime_restored')
    wait_until(lambda: os.path.exists(daemon.socket))
    assert daemon.launcher().run('--', 'true').returncode == 0
    wait_until(lambda: [w['id'] for w in daemon.workers()] == [worker])
    daemon.kill()
    daemon.start()   # a worker whose lock is gone with its file is known by pid and start time
    assert [w['id'] for w in daemon.workers()] == [worker]
    process.kill()
    wait_until(lambda: daemon.workers() == [])


def test_a_store_that_vanishes_is_told_and_comes_back(daemon):
    daemon.store.rename(daemon.folder / 'away')
    answer = daemon.client().ask(op='lookup', keys=[KEY])
    assert answer['error']['errno'] == 2 and 'gone' in answer['error']['reason'] and answer['error']['cure']
    assert 'error' in daemon.status()['store']
    (daemon.folder / 'away').rename(daemon.store)
    assert daemon.client().ask(op='lookup', keys=[KEY])['records'] == [None]


def test_a_stale_socket_is_replaced_a_file_is_not(stopped_daemon):
    stopped_daemon.runtime.mkdir(mode=0o755)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(stopped_daemon.socket)
    stale.close()
    daemon = stopped_daemon.start()
    assert os.stat(daemon.socket).st_mode & 0o777 == 0o666
    daemon.stop()
    os.unlink(daemon.socket)
    pathlib.Path(daemon.socket).write_text('mine')
    assert daemon.spawn().wait(10) == 125
    assert pathlib.Path(daemon.socket).read_text() == 'mine' and 'no socket' in daemon.log()


@pytest.mark.parametrize('options, word', [
    (['--policy', '/nowhere/x'], '/nowhere'), (['--sokcet', 'x'], '--socket'), (['--metrics', '1.2.3.4.5:6'], 'ADDR:PORT'),
    (['--cgroup', 'rtlaunch'], "from the hierarchy's root"), (['--cgroup', '/../x'], '--cgroup'),
    (['--log-level', 'loud'], 'debug, info'), (['--store'], 'needs a value')])
def test_options_that_can_not_be(stopped_daemon, options, word):
    assert stopped_daemon.spawn(*options).wait(10) == 125
    assert word in stopped_daemon.log()


def test_a_runtime_folder_that_others_can_write_is_refused(stopped_daemon):
    stopped_daemon.runtime.mkdir()
    stopped_daemon.runtime.chmod(0o777)
    assert stopped_daemon.spawn().wait(10) == 125
    assert 'others than root' in stopped_daemon.log()


# --- systemd -----------------------------------------------------------------------------------------------

def test_a_socket_of_the_service_manager_stays_over_a_restart(stopped_daemon, tmp_path):
    path = str(tmp_path / 'activated.sock')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    os.chmod(path, 0o666)
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(tmp_path / 'notify'))
    notices.settimeout(10)

    def start():
        # LISTEN_PID is known only in the child, so a shell says it.
        script = 'LISTEN_PID=$$ exec "$@"'
        stopped_daemon.runs += 1
        with open(stopped_daemon.log_name(), 'wb') as log:
            stopped_daemon.process = subprocess.Popen(
                ['sh', '-c', script, 'sh', stopped_daemon.programs / 'rtlaunchd', '--store', stopped_daemon.store,
                 '--runtime', stopped_daemon.runtime, '--metrics', 'off'], stdout=log, stderr=log,
                env={**os.environ, 'LISTEN_FDS': '1', 'NOTIFY_SOCKET': str(tmp_path / 'notify'), 'WATCHDOG_USEC': '600000'},
                preexec_fn=lambda: os.dup2(listener.fileno(), 3), close_fds=False)

    def heard(word):
        while word not in notices.recv(4096):
            pass

    start()
    heard(b'READY=1')
    assert Client(path).ask(op='ps')['ok']
    heard(b'WATCHDOG=1')
    heard(b'WATCHDOG=1')
    assert not os.path.exists(stopped_daemon.socket)
    stopped_daemon.process.send_signal(signal.SIGTERM)
    heard(b'STOPPING=1')
    assert stopped_daemon.process.wait(10) == 0
    early = Client(path, hello=False)    # nobody serves it yet
    early.send(**HELLO)
    start()
    assert early.read()['ok']


UNITS = pathlib.Path(__file__).parent.parent / 'launcher/systemd'


def analyze(*args):
    if shutil.which('systemd-analyze') is None:
        pytest.skip('systemd-analyze is not installed')
    return subprocess.run(['systemd-analyze', *args], capture_output=True, text=True)


def test_the_units_are_well_formed(tmp_path):
    for name in ('rtlaunchd.service', 'rtlaunchd.socket'):
        text = (UNITS / name).read_text().replace('@LIBEXEC@/rtlaunchd', '/bin/true')
        (tmp_path / name).write_text(text)
    done = analyze('verify', '--man=no', tmp_path / 'rtlaunchd.service', tmp_path / 'rtlaunchd.socket')
    complaints = [line for line in done.stderr.splitlines() if 'rtlaunchd' in line]
    assert complaints == []


def test_the_unit_is_as_hard_as_a_launcher_can_be(tmp_path):
    (tmp_path / 'rtlaunchd.service').write_text((UNITS / 'rtlaunchd.service').read_text().replace('@LIBEXEC@/rtlaunchd', '/bin/true'))
    done = analyze('security', '--offline=true', '--no-pager', tmp_path / 'rtlaunchd.service')
    exposure = re.search(r'Overall exposure level for \S+: ([\d.]+)', done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure.group(1)) <= 7.5, done.stdout   # what is off is explained in the unit


# --- numbers -----------------------------------------------------------------------------------------------

SAMPLE = re.compile(r'^([a-z_]+)(?:\{(.*)\})? (-?[0-9.e+-]+|\+Inf)$')


def parse(text):
    """The text format, as strictly as its specification: {(name, labels): value}, {family: type}."""
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith('# TYPE '):
            _, _, name, kind = line.split(' ')
            assert name not in types
            types[name] = kind
        elif not line.startswith('# HELP '):
            name, labels, value = SAMPLE.match(line).groups()
            family = re.sub(r'_(bucket|sum|count)$', '', name) if name not in types else name
            assert family in types, line
            pairs = tuple(sorted(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', labels or '')))
            assert (name, pairs) not in samples
            samples[name, pairs] = float(value)
    return samples, types


def test_prometheus_gets_what_it_can_read(daemon):
    launcher = daemon.launcher(PLAIN_UID)
    secret = 'hunter22-in-no-label'
    for _ in range(3):
        assert launcher.run('--env', f'TOKEN={secret}', '--', 'true').returncode == 0
    launcher.run('--', '/nonexistent')
    daemon.client().ask(op='lookup', keys=[KEY])
    daemon.client().ask(op='collect')
    wait_until(lambda: daemon.status()['store']['stats'])
    wait_until(lambda: daemon.status()['workers'] == 0)
    headers, text = daemon.scrape()
    assert headers['Content-Type'].startswith('text/plain; version=0.0.4')
    samples, types = parse(text)
    assert samples['rtlaunch_starts_total', (('result', 'started'),)] == 3
    assert samples['rtlaunch_starts_total', (('result', 'failed'),)] == 1
    assert samples['rtlaunch_start_seconds_count', ()] == 3
    assert samples['rtlaunch_start_seconds_bucket', (('le', '+Inf'),)] == 3
    phases = {labels for name, labels in samples if name == 'rtlaunch_start_phase_seconds_count'}
    assert len(phases) > 3
    for family, kind in types.items():   # buckets only grow
        if kind == 'histogram':
            for labels in {l for n, l in samples if n == family + '_count'}:
                buckets = [v for (n, l), v in samples.items() if n == family + '_bucket' and set(labels) <= set(l)]
                assert buckets == sorted(buckets) and buckets[-1] == samples[family + '_count', labels]
    assert samples['rtlaunch_lookups_total', (('kind', 'unknown'), ('result', 'miss'))] == 1
    assert samples['rtlaunch_workers', ()] == 0 and samples['rtlaunch_workers_ended_total', (('how', 'exit_0'),)] == 3
    assert samples['rtlaunch_collections_total', (('result', 'done'),)] == 1
    assert samples['rtlaunch_store_layers', ()] == 0 and samples['rtlaunch_store_free_bytes', ()] > 0
    assert 0 < samples['rtlaunch_resident_bytes', ()] < 20 << 20
    assert secret not in text and str(daemon.folder) not in text
    assert secret not in daemon.log() and secret not in (daemon.runtime / 'log/events.jsonl').read_text()


def test_http_without_manners(daemon):
    host, port = daemon.metrics_address().rsplit(':', 1)
    for request, status in ((b'GET / HTTP/1.1\r\nHost: x\r\n\r\n', b'404'), (b'POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n', b'405'),
                            (b'\x00\xff\r\n\r\n', b''), (b'GET /metrics HTTP/1.1\r\nX: ' + b'y' * 20000 + b'\r\n\r\n', b'')):
        with socket.create_connection((host, int(port)), timeout=15) as connection:
            connection.sendall(request)
            try:
                assert status in connection.recv(65536)
            except ConnectionResetError:
                assert status == b''
    assert 'rtlaunch_workers' in daemon.scrape()[1]


def test_followed_logs_end_with_the_worker(daemon):
    process, worker = daemon.sleeper()
    client = daemon.client()
    client.send(op='logs', worker=worker, follow=True)
    assert client.read()['line']['event'] == 'started'
    process.send_signal(signal.SIGTERM)
    assert client.read()['line']['event'] == 'ended'
    assert client.read()['ok']
    process.wait(10)


def test_ps_knows_what_a_worker_uses(daemon):
    script = 'import time\nx = bytearray(64 << 20)\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint("now", flush=True)\ntime.sleep(100)'
    process = daemon.launcher().popen('--', '/usr/bin/python3', '-c', script, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout.readline() == b'now\n'
    one = daemon.workers()[0]
    assert one['memory'] > 64 << 20 and one['cpu_us'] >= 250_000 and one['processes'] == 2
    assert abs(one['since'] / 1e6 - time.time()) < 30
    process.kill()


def test_an_idle_daemon_is_small(daemon):
    assert daemon.memory() < 20 << 20


def test_starting_on_ten_thousand_layers_takes_under_a_second(stopped_daemon):
    stopped_daemon.start()
    stopped_daemon.stop()
    layers = stopped_daemon.store / 'layers/sha256'
    for i in range(10_000):
        digest = f'{i:064x}'[::-1]
        (layers / digest[:2] / digest / 'tree').mkdir(parents=True)
    began = time.monotonic()
    stopped_daemon.start()
    assert time.monotonic() - began < 1
    assert stopped_daemon.memory() < 20 << 20
