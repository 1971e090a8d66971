"""rtlaunchd for tests: on a store, a runtime folder and a socket of its own below tmp_path, ended by its
pid. `Client` speaks the protocol by hand, with as few manners as a test wants.

    from daemon_support import daemon  # a fixture

    def test_it(daemon):
        client = daemon.client()
        assert client.ask(op='ps')['workers'] == []
"""

import array
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import time
import urllib.request

import pytest

from conftest import PLAIN_UID, Launcher, become, make_launcher

HELLO = {'op': 'hello', 'version': 1, 'client': 'test'}


def frame(message):
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack('<I', len(text)) + text


class Client:
    def __init__(self, path, hello=True, timeout=30):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)   # blocks while the queue of those to be accepted is full
        self.socket.settimeout(timeout)
        self.buffer = b''
        self.events = []
        self.hello = self.ask(**HELLO) if hello else None

    def send(self, fds=(), **message):
        parts = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
        self.socket.sendmsg([frame(message)], parts)

    def read(self):
        """The next frame, or nothing at the end of the connection."""
        while len(self.buffer) < 4 or len(self.buffer) < 4 + struct.unpack('<I', self.buffer[:4])[0]:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.buffer += data
        end = 4 + struct.unpack('<I', self.buffer[:4])[0]
        text, self.buffer = self.buffer[4:end], self.buffer[end:]
        return json.loads(text)

    def ask(self, fds=(), **message):
        self.send(fds, **message)
        while (answer := self.read()) is not None and 'ok' not in answer:
            self.events.append(answer)
        return answer

    def is_closed(self):
        return self.read() is None

    def close(self):
        self.socket.close()


def wait_until(condition, seconds=10, every=0.02):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(every)
    raise AssertionError(f'{condition} has not become true in {seconds} s')


def rights_of_the_unit():
    """What a daemon that systemd starts has."""
    unit = pathlib.Path(__file__).parent.parent / 'launcher/systemd/rtlaunchd.service'
    allowed = re.search(r'^CapabilityBoundingSet=(.*)$', unit.read_text(), re.M)[1].lower().replace('cap_', '+').split()
    return ['setpriv', '--bounding-set', ','.join(['-all', *allowed])]


class Daemon:
    rights = []   # a command around it

    def __init__(self, programs, folder, options=()):
        self.programs, self.folder = programs, folder
        self.store, self.runtime = folder / 'store', folder / 'run'
        self.socket = str(self.runtime / 'rtlaunchd.sock')
        self.options, self.process, self.runs = list(options), None, 0
        self.launchers = {}

    def log_name(self):
        return self.folder / f'log.{self.runs}'

    def spawn(self, *options, **more):
        self.runs += 1
        with open(self.log_name(), 'wb') as log:
            return subprocess.Popen([*self.rights, self.programs / 'rtlaunchd', '--store', self.store, '--runtime', self.runtime,
                                     '--metrics', '127.0.0.1:0', *self.options, *options],
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, **more)

    def start(self, *options, **more):
        self.process = self.spawn(*options, **more)
        wait_until(lambda: self.events('ready') or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()
        return self

    def log(self):
        return self.log_name().read_text()

    def all_logs(self):
        """With what sanitizers say, the spawner's too: its stderr is the daemon's."""
        return ''.join((self.folder / f'log.{run}').read_text(errors='replace') for run in range(1, self.runs + 1))

    def events(self, name):
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith('{')]
        return [line for line in lines if line.get('event') == name]

    def wait_for_event(self, name, **facts):
        def found():
            return [e for e in self.events(name) if all(e.get(k) == v for k, v in facts.items())]
        return wait_until(found)[0]

    def client(self, uid=0, **more):
        """Connected as `uid`: the credentials are those of the moment of connect(2)."""
        with as_user(uid):
            return Client(self.socket, **more)

    def status(self):
        return self.client().ask(op='status')['status']

    def metrics_address(self):
        return self.events('ready')[-1]['metrics']

    def scrape(self):
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f'http://{self.metrics_address()}/metrics', timeout=10) as page:
            return page.headers, page.read().decode()

    def memory(self):
        text = pathlib.Path(f'/proc/{self.process.pid}/status').read_text()
        return int(re.search(r'VmRSS:\s*(\d+)', text).group(1)) * 1024

    def descriptors(self):
        return len(os.listdir(f'/proc/{self.process.pid}/fd'))

    def spawner(self):
        children = pathlib.Path(f'/proc/{self.process.pid}/task/{self.process.pid}/children').read_text()
        return int(children.split()[0]) if children.split() else None

    def launcher(self, uid=0):
        """`rtlaunch` for `uid`, with this daemon."""
        if uid not in self.launchers:
            folder = self.folder / f'user{uid}'
            folder.mkdir()
            os.chown(folder, uid, uid)
            launcher = Launcher(self.programs, folder, uid)
            del launcher.env['RTLAUNCH_STORE']
            launcher.env['RTLAUNCH_SOCKET'] = self.socket
            launcher.daemon = self
            self.launchers[uid] = launcher
        return self.launchers[uid]

    def sleeper(self, uid=0, name='sleep'):
        """A worker that sleeps; (its client's process, its id)."""
        before = {w['id'] for w in self.workers()}
        process = self.launcher(uid).popen('--', name, '1000', stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.PIPE)
        new = wait_until(lambda: process.poll() is not None or
                         [w['id'] for w in self.workers() if w['id'] not in before and w['state'] == 'running'])
        assert new is not True, process.stderr.read()
        return process, new[0]

    def workers(self, uid=0, **more):
        client = self.client(uid)
        answer = client.ask(op='ps', **more)
        client.close()
        return answer['workers']

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=40):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout)
        return self.process.returncode if self.process else None


class Start:
    """What a client sends with `start`, kept to be sent again, many times, from one process."""

    def __init__(self, daemon, *command, options=(), env=None):
        folder = daemon.folder / 'capture'
        folder.mkdir(exist_ok=True)
        path = str(folder / 'sock')
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            client = subprocess.Popen([daemon.programs / 'rtlaunch', 'run', '--socket', path, *options, '--', *command],
                                      env={'PATH': os.environ['PATH'], 'HOME': str(folder), **(env or {})}, cwd='/',
                                      stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            connection = listener.accept()[0]
        os.unlink(path)
        connection.sendall(frame({'ok': True, 'version': 1, 'server': 'test', 'store': str(daemon.store),
                                  'tools': str(daemon.programs), 'pid': 1}))
        fds = []
        while len(fds) < 5:
            _, parts, _, _ = connection.recvmsg(1 << 16, 1024)
            for level, kind, data in parts:
                fds += array.array('i', data[:len(data) // 4 * 4])
        self.document = os.pread(fds[0], 8 << 20, 0)
        connection.close()
        client.kill()
        client.wait()
        for fd in fds:
            os.close(fd)

    def send(self, client):
        """Our end of the line: closed, it ends the worker."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        document, null = os.memfd_create('document'), os.open('/dev/null', os.O_RDWR)
        os.write(document, self.document)
        client.send([document, null, null, null, theirs.fileno()], op='start', keys=[], name='test')
        theirs.close()
        os.close(document)
        os.close(null)
        return ours


@contextlib.contextmanager
def as_user(uid):
    """The effective ids of this thread's process: connect(2) is done with them."""
    if uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def through(daemon, folder, uid):
    """`rtlaunch` of that user, with this daemon and no store of its own that would say otherwise."""
    launcher = make_launcher(daemon.programs, folder, uid)
    launcher.env['RTLAUNCH_SOCKET'] = daemon.socket
    launcher.env.pop('RTLAUNCH_STORE', None)
    launcher.daemon = daemon
    return launcher


def own_daemon(programs, folder):
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    return Daemon(programs, folder).start()


def workers_of(folder):
    return sorted(os.listdir(folder / 'workers')) if (folder / 'workers').is_dir() else []


def open_folder(tmp_path):
    """One below tmp_path that every user can reach, for a daemon."""
    for path in [tmp_path, *tmp_path.parents]:
        if path in (pathlib.Path('/tmp'), pathlib.Path('/')):
            break
        path.chmod(0o755)
    folder = tmp_path / 'node'
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def stopped_daemon(programs, tmp_path):
    """Not started yet; whatever it becomes is ended after the test."""
    if os.geteuid() != 0:
        pytest.skip('rtlaunchd has to be started by root')
    one = Daemon(programs, open_folder(tmp_path))
    yield one
    if one.process and one.process.poll() is None:
        one.kill()


@pytest.fixture
def daemon(stopped_daemon):
    return stopped_daemon.start()


@pytest.fixture
def fake_builder(stopped_daemon, tmp_path):
    """A daemon whose rtlaunch-build is a shell script: fake_builder('echo ...') starts it."""
    folder = tmp_path / 'fake'
    folder.mkdir(mode=0o755)
    for name in ('rtlaunch', 'rtlaunchd', 'rtlaunch-spawner', 'uv'):
        os.link(stopped_daemon.programs / name, folder / name)
    stopped_daemon.programs = folder

    def start(script, *options):
        (folder / 'rtlaunch-build').write_text('#!/bin/sh\n' + script)
        (folder / 'rtlaunch-build').chmod(0o755)
        return stopped_daemon.start(*options)
    return start
