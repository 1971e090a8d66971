"""What hangs, hangs alone: a caller's descriptors lie on a file system whose close(2) never returns."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from conftest import PLAIN_UID
from daemon_support import Start, daemon, stopped_daemon, wait_until  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists('/dev/fuse'), reason='needs root and FUSE')


@pytest.fixture
def hang(tmp_path):
    """hang(daemon, count, document, op=...): a process of PLAIN_UID's sends that with descriptors of a file
    that hangs. It is the only one of ours that has them: whoever does hangs at its end."""
    folder, senders = tmp_path / 'mnt', []
    folder.mkdir()
    server = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name('hung_fuse.py'), folder],
                              stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == 'mounted\n'

    def start(daemon, count, document, **request):
        reader, writer = os.pipe()
        senders.append(os.fork())
        if senders[-1] == 0:
            fd, kept = os.open(folder / 'file', os.O_RDWR), []
            for _ in range(count):
                kept.append(daemon.client(PLAIN_UID))
                kept.append(send(kept[-1], document, [fd] * 3, **request))
            os.write(writer, b'sent')
            signal.pause()
        assert os.read(reader, 4) == b'sent'
        time.sleep(1)   # for all of them to hang where they will: these starts hang themselves, at their exec
    yield start
    server.kill()
    server.wait()
    for pid in senders:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    subprocess.run(['umount', '-l', folder], check=True)


def send(client, document, stdio, **request):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = os.memfd_create('document')
    os.write(memory, document)
    client.send([memory, *stdio, theirs.fileno()], **request)
    theirs.close()
    os.close(memory)
    return ours


def may_use(pid):
    """That process isn't stuck in the file system, and has nothing of it."""
    names = [os.readlink(f'/proc/{pid}/fd/{fd}') for fd in os.listdir(f'/proc/{pid}/fd')]
    return 'fuse' not in pathlib.Path(f'/proc/{pid}/wchan').read_text() and not any('/mnt/file' in name for name in names)


def test_a_hanging_close_holds_up_nobody_else(daemon, hang):
    document, spawner = Start(daemon, 'sleep', '100').document, daemon.spawner()
    hang(daemon, 5, document, op='start', keys=[], name='hung')
    assert len(daemon.workers(PLAIN_UID)) == 5
    began = time.monotonic()
    assert daemon.launcher(PLAIN_UID + 1).ok('--', 'echo', 'fine') == 'fine\n'
    assert daemon.launcher().ok('--', 'echo', 'fine') == 'fine\n'
    assert time.monotonic() - began < 10
    assert daemon.spawner() == spawner and may_use(spawner)


def test_a_visit_with_a_hanging_close_holds_up_nobody_else(daemon, hang):
    process, worker = daemon.sleeper(PLAIN_UID)
    document, spawner = Start(daemon, 'sleep', '100').document, daemon.spawner()
    hang(daemon, 3, document, op='enter', worker=worker)
    began = time.monotonic()
    assert daemon.launcher(PLAIN_UID + 1).ok('--', 'echo', 'fine') == 'fine\n'
    assert time.monotonic() - began < 10 and daemon.spawner() == spawner and may_use(spawner)
    process.kill()
    process.wait()


def test_files_on_a_network_like_file_system_work(daemon, tmp_path):
    """tmpfs has no block device either: its files go the same long way, and nothing is lost."""
    folder = tmp_path / 'tmpfs'
    folder.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', 'none', folder], check=True)
    try:
        launcher = daemon.launcher()
        for i in range(5):
            with open(folder / 'out', 'wb') as out, open('/etc/hostname', 'rb') as given:
                assert launcher.popen('--', 'sh', '-c', 'cat; echo end', stdin=given, stdout=out).wait() == 0
            assert (folder / 'out').read_text() == pathlib.Path('/etc/hostname').read_text() + 'end\n'
        with open(folder / 'out', 'wb') as out:
            assert launcher.popen('--', 'no-such-command', stdout=out, stderr=subprocess.DEVNULL).wait() == 127
        process, worker = daemon.sleeper(0)
        with open(folder / 'out', 'wb') as out:
            done = subprocess.run([launcher.program, 'enter', worker, '--', 'sh', '-c', 'echo inside; exit 4'], env=launcher.env,
                                  stdin=subprocess.DEVNULL, stdout=out)
        assert done.returncode == 4 and (folder / 'out').read_text() == 'inside\n'
        process.kill()
        process.wait()
        children = pathlib.Path(f'/proc/{daemon.spawner()}/task/{daemon.spawner()}/children')
        wait_until(lambda: len(children.read_text().split()) <= 4)   # those made ahead: every courier is gone
    finally:
        subprocess.run(['umount', '-l', folder], check=True)
