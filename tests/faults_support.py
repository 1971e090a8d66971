"""What tests of faults have in common: a daemon that is measured and broken, commands that count how often
they ran, and how much of each test is run. RTLAUNCH_SOAK=1 (`make soak`) runs all of it, `make test` a
part that takes seconds. RTLAUNCH_SOAK_SECONDS: turns() goes on for so long instead, for programs that
sanitizers have made slow.

    node.settle()                        # what there is when nothing happens
    ... start, kill ...
    node.expect_settled()                # the same again: nothing is left
"""

import contextlib
import itertools
import os
import pathlib
import random
import signal
import subprocess
import threading
import time

import pytest

from daemon_support import Daemon, open_folder, wait_until  # noqa: F401

SOAK = os.environ.get('RTLAUNCH_SOAK') == '1'
SECONDS = int(os.environ.get('RTLAUNCH_SOAK_SECONDS', '0'))


def amount(bounded, full):
    return full if SOAK else bounded


def turns(bounded, full):
    if not SECONDS:
        yield from range(amount(bounded, full))
        return
    end = time.monotonic() + SECONDS
    yield from itertools.takewhile(lambda _: time.monotonic() < end, itertools.count())


# --- what there is on this machine ---------------------------------------------------------------------------

def stat_of(pid):
    """[state, parent, ...]: the name before may hold spaces and parentheses."""
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()


def processes():
    """{pid: parent} of all that live; what has ended and is ours to reap doesn't count."""
    found = {}
    for name in os.listdir('/proc'):
        with contextlib.suppress(OSError):
            if name.isdigit():
                state, parent = stat_of(name)[:2]
                if state not in 'ZX' or int(parent) not in (1, os.getpid()):
                    found[int(name)] = int(parent)
    return found


def children_of(pid):
    return sorted(child for child, parent in processes().items() if parent == pid)


def lines_of(path):
    return len(pathlib.Path(path).read_text().splitlines())


def mount_namespaces(pids):
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(os.readlink(f'/proc/{pid}/ns/mnt'))
    return len(found)


def files_below(folder, without=()):
    """Names of all files, the ones that grow by themselves left out."""
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in without]
        found += [os.path.relpath(os.path.join(path, name), folder) for name in folders + files
                  if not name.startswith(('index.sqlite', 'durable.log', 'log', 'events.'))]
    return sorted(found)


def bytes_below(folder):
    blocks = 0
    for path, _, files in os.walk(folder):
        for name in files:
            if not name.startswith(('index.sqlite', 'durable.log')):
                with contextlib.suppress(OSError):
                    blocks += os.lstat(os.path.join(path, name)).st_blocks
    return blocks * 512


def memory_files():
    """Bytes of all tmpfs of the machine, others' too."""
    for line in pathlib.Path('/proc/meminfo').read_text().splitlines():
        if line.startswith('Shmem:'):
            return int(line.split()[1]) * 1024


# --- a daemon that is measured and broken -----------------------------------------------------------------------

class Node(Daemon):
    """`alive` workers, which answer: each echoes what it is told."""

    def __init__(self, programs, folder):
        super().__init__(programs, folder)
        self.alive, self.before = [], None

    def cgroup(self):
        """The folder of its leaves, by one of those that the spawner has made ahead; None without cgroup2."""
        hierarchy = next((line.split()[4] for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines()
                          if ' - cgroup2 ' in line), None)
        for child in children_of(self.spawner()) if hierarchy else []:
            with contextlib.suppress(OSError):
                for line in pathlib.Path(f'/proc/{child}/cgroup').read_text().splitlines():
                    if line.startswith('0::') and '/w-' in line:
                        return pathlib.Path(hierarchy + line[3:].rpartition('/')[0])
        return None

    def footprint(self):
        """All that a start could leave."""
        spawner, running, cgroup = self.spawner(), processes(), self.cgroup()
        return {'mounts of the host': lines_of('/proc/self/mountinfo'),
                'mounts of the spawner': lines_of(f'/proc/{spawner}/mountinfo'),
                'processes': len(running), 'mount namespaces': mount_namespaces(running),
                'descriptors of the daemon': self.descriptors(),
                'descriptors of the spawner': len(os.listdir(f'/proc/{spawner}/fd')),
                'cgroup leaves': len([e for e in cgroup.iterdir() if e.is_dir()]) if cgroup else 0,
                'runtime folder': files_below(self.runtime), 'store': files_below(self.store, ('uv', 'locks')),
                'bytes of the store': bytes_below(self.store)}

    def settle(self):
        """Remembers what there is, once two looks say the same; but for what waits for a start that came twice, which
        is given up after two seconds."""
        time.sleep(2.2)
        last = None
        for _ in range(100):
            with contextlib.suppress(OSError):
                now = self.footprint()
                if now == last and len(children_of(self.spawner())) >= 2:
                    self.before = now
                    return
                last = now
            time.sleep(0.1)
        raise AssertionError(f'it never comes to rest: {last}')

    def difference(self):
        try:
            now = self.footprint()
        except (OSError, TypeError) as gone:   # of a spawner that is just being replaced
            return {'spawner': ('there', str(gone))}
        fewer = ('descriptors of the daemon', 'descriptors of the spawner')   # one that has just begun keeps less ready
        return {name: (was, now[name]) for name, was in self.before.items()
                if now[name] != was and not (name in fewer and now[name] < was)}

    def expect_settled(self, seconds=60):
        end = time.monotonic() + seconds
        while self.difference() and time.monotonic() < end:
            time.sleep(0.03)
        left = self.difference()
        left = {name: (sorted(set(was) - set(now)), sorted(set(now) - set(was))) if isinstance(was, list) else (was, now)
                for name, (was, now) in left.items()}
        assert not left, f'before and after differ: {left}\n{self.log()[-3000:]}'

    # --- workers that answer ---

    def add_worker(self, *options, uid=0):
        script = 'while read line; do echo "$line $(cat told 2>/dev/null)"; done; exit 7'
        known = {w['id'] for w in self.workers()}
        process = self.launcher(uid).popen(*options, '--', 'sh', '-c', script, stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
        self.alive.append(process)
        assert self.says(process).startswith('there')
        process.worker = wait_until(lambda: [w['id'] for w in self.workers() if w['id'] not in known and w['state'] == 'running'])[0]
        return process

    @staticmethod
    def says(process):
        process.stdin.write('there\n')
        answer = process.stdout.readline()
        assert answer, f'a worker was lost: {process.poll()} {process.stderr.read()}'
        return answer

    def expect_alive(self, text='there'):
        for process in self.alive:
            assert self.says(process).startswith(text)

    def end_workers(self):
        """Each of its own accord, with the status that it chose."""
        while self.alive:
            process = self.alive.pop()
            process.stdin.close()
            assert process.wait(15) == 7, process.stderr.read()

    # --- breaking it ---

    def kill_spawner(self):
        os.kill(self.spawner(), signal.SIGKILL)

    def start_if_dead(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.1)
            self.start()

    def restart(self):
        self.kill()
        self.start()

    def collect_all(self):
        """Everything that nobody uses, as an administrator would, without the daemon."""
        root = self.launcher(0)
        done = subprocess.run([root.program, 'store', 'gc', '--all', '--json', '--store', self.store], env=root.env,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def expect_collectable(self):
        """Nobody uses any layer; who has just ended does so for a moment longer."""
        wait_until(lambda: self.collect_all() and not self.layers(), every=0.05)

    def expect_workers(self):
        """Those that are alive and, once what has just ended has gone, nobody else. {id: pid}"""
        wanted = {process.worker for process in self.alive}
        with contextlib.suppress(AssertionError):
            wait_until(lambda: {w['id'] for w in self.workers()} == wanted)
        found = {w['id']: w['pid'] for w in self.workers()}
        assert set(found) == wanted
        return found

    def layers(self):
        return sorted(path.name for path in (self.store / 'layers/sha256').glob('*/*'))

    def finish(self):
        for process in self.alive:
            process.kill()
        if self.process and self.process.poll() is None:
            self.stop()


class Supervisor(threading.Thread):
    """What systemd does, in a hurry: starts the daemon, kills it about `life` later, and again."""

    def __init__(self, node, life=0.05):
        super().__init__()
        self.node, self.life, self.kills, self.done = node, life, 0, threading.Event()

    def run(self):
        chance = random.Random(1)
        while not self.done.wait(chance.uniform(0, 2 * self.life)):
            self.node.kill()
            self.kills += 1
            self.node.start()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()


class Marks:
    """Commands that say that they ran: exactly once, or never when the launcher says to try again."""

    def __init__(self, launcher):
        self.launcher, self.folder = launcher, launcher.make_dir('home/marks')
        self.count = self.ran = self.refused = 0
        self.lock = threading.Lock()

    def command(self, status=3, options=()):
        with self.lock:
            self.count += 1
            path = self.folder / str(self.count)
        return path, [*options, '--', 'sh', '-c', f'echo x >> {path}; exit {status}']

    def judge(self, path, process, error, status=3, killed=False):
        """`killed`: part of this very start was killed, so that it may be told so."""
        lines = path.read_text().splitlines() if path.exists() else []
        told = process.returncode, lines, error
        if process.returncode == status:
            assert lines == ['x'], told
        elif killed and process.returncode in (125, 137):
            assert len(lines) <= 1 and (process.returncode == 137 or 'error: ' in error), told
        else:
            assert process.returncode == 125 and 'try again' in error and 'Traceback' not in error, told
            assert not lines or 'may have begun' in error, told
        with self.lock:
            self.ran += process.returncode == status
            self.refused += process.returncode != status

    def run(self, *options, status=3):
        path, command = self.command(status, options)
        process = self.launcher.run(*command, timeout=60)
        self.judge(path, process, process.stderr, status)


class Stepper:
    """tests/guests/stepper.c: kills `victims` at the nth system call that `watched` make together."""

    def __init__(self, program, nth, victims, watched):
        self.process = subprocess.Popen([program, str(nth), ','.join(map(str, victims)), *map(str, watched)],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == 'ready\n', self.process.stderr.read()

    def killed(self, meanwhile):
        """Waits for its kill, or for the end of `meanwhile` and a little; the calls that it counted, or None."""
        while self.process.poll() is None:
            if meanwhile.poll() is not None:
                time.sleep(0.02)
                self.process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.002)
        word, number = self.process.stdout.readline().split()[:2]
        self.process.wait(20)
        self.process.stdout.close()
        self.process.stderr.close()
        return int(number) if word == 'counted' else None


@contextlib.contextmanager
def small_disk(path, megabytes, files=20000):
    """A file system that is soon full."""
    path.mkdir(mode=0o755, exist_ok=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={megabytes}m,nr_inodes={files},mode=755', 'small', path], check=True)
    try:
        yield path
    finally:
        subprocess.run(['umount', '--lazy', path], check=True)


def fill(path, leave):
    """Leaves that many bytes; the file that does it."""
    filler = path / 'filler'
    info = os.statvfs(path)
    with open(filler, 'wb') as file:
        os.posix_fallocate(file.fileno(), 0, max(1, info.f_bavail * info.f_bsize - leave))
    return filler


@pytest.fixture
def node(programs, tmp_path):
    if os.geteuid() != 0:
        pytest.skip('rtlaunchd has to be started by root')
    one = Node(programs, open_folder(tmp_path)).start()
    yield one
    one.finish()
