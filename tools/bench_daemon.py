"""`tools/bench daemon`: what a start through rtlaunchd costs, alone and in a crowd. A daemon of its own, on
a store, a socket and a runtime folder in the bench's scratch folder."""

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import time

BWRAP = ['bwrap', '--bind', '/', '/', '--proc', '/proc', '--dev', '/dev', '--unshare-pid', 'true']
CROWD, LAYERS, SECONDS = 1000, 10_000, 5


def start(words):
    actions = [(os.POSIX_SPAWN_OPEN, fd, '/dev/null', os.O_RDWR, 0) for fd in (0, 1, 2)]
    return os.posix_spawn(words[0], words, os.environ, file_actions=actions)


class Daemon:
    def __init__(self, programs, folder, *options):
        self.programs, self.store, self.runtime, self.options = programs, folder / 'store', folder / 'run', options
        self.socket, self.process = str(self.runtime / 'rtlaunchd.sock'), None

    def run(self):
        """Seconds until it answers. Its runtime folder is in memory, as /run is."""
        self.runtime.mkdir(exist_ok=True)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=755', 'tmpfs', self.runtime], check=True)
        began = time.perf_counter()
        self.process = subprocess.Popen(
            [self.programs / 'rtlaunchd', '--store', self.store, '--runtime', self.runtime, '--metrics', 'off',
             *self.options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd='/')
        while subprocess.run([self.programs / 'rtlaunch', 'status', '--socket', self.socket], capture_output=True).returncode:
            if self.process.poll() is not None or time.perf_counter() - began > 60:
                raise SystemExit('rtlaunchd does not start')
        return time.perf_counter() - began

    def client(self, *args):
        verb = 2 if args[0] in ('env', 'store') else 1
        return [str(self.programs / 'rtlaunch'), *args[:verb], '--socket', self.socket, *map(str, args[verb:])]

    def ask(self, *args):
        return json.loads(subprocess.run(self.client(*args, '--json'), capture_output=True, check=True).stdout or 'null')

    def memory(self):
        for line in open(f'/proc/{self.process.pid}/status'):
            if line.startswith('VmRSS'):
                return int(line.split()[1]) / 1024

    def starts(self):
        """From request to exec done, in seconds, of the last starts, as the daemon has measured them."""
        out = subprocess.run(self.client('logs', '--json'), capture_output=True, text=True, check=True).stdout
        events = [json.loads(line) for line in out.splitlines()]
        return [event['us'] / 1e6 for event in events if event.get('event') == 'started']

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        subprocess.run(['umount', '--lazy', self.runtime], stderr=subprocess.DEVNULL)  # it may have been stopped before


def measured(daemon, command, spawned, count=150):
    """The daemon's own times of `count` starts, one after the other."""
    for _ in range(count):
        spawned(command)
    return daemon.starts()[-count:]


@contextlib.contextmanager
def crowd(daemon, environment, count):
    """So many commands that run, each with its client."""
    pids = []
    try:
        while len(pids) < count:
            pids.append(start(daemon.client('exec', environment, '--', 'sleep', '1000')))
            if len(pids) % 32 == 0:
                wait_for_workers(daemon, len(pids))
        wait_for_workers(daemon, count)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        wait_for_workers(daemon, 0, most=True)


def wait_for_workers(daemon, count, most=False):
    deadline = time.time() + 60
    while time.time() < deadline:
        running = daemon.ask('status')['workers']
        if running <= count if most else running >= count:
            return
        time.sleep(0.02)
    raise SystemExit(f'{running} workers instead of {count}')


def add_layers(store, count):
    """Copies of one small layer under other names: who looks for layers sees `count` more."""
    layers = store / 'layers/sha256'
    [pattern, *_] = sorted(layers.glob('*/*'), key=lambda layer: (layer / 'manifest').stat().st_size)
    for _ in range(count):
        name = f'{random.getrandbits(256):064x}'
        folder = layers / name[:2] / name
        (folder / 'tree').mkdir(parents=True)
        for part in ('manifest', 'meta.json'):
            shutil.copyfile(pattern / part, folder / part)
        (store / 'leases' / name).touch()


def per_start(command, at_once, seconds):
    """Seconds a start, with so many always under way."""
    running, done, began = set(), 0, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds or running:
        while len(running) < at_once and now - began < seconds:
            running.add(start(command))
        pid, status = os.waitpid(-1, 0)
        running.discard(pid)
        done += 1
        if status:
            raise SystemExit(f'{command} failed: {status}')
    return (time.perf_counter() - began) / done


def measure(bench, programs, row, absolute, spawned):
    folder = bench.fresh('node')
    folder.mkdir()
    daemon = Daemon(programs, folder)
    daemon.run()
    fields = ['--python', bench.base / 'bin/python', '--pip', 'emoji==2.14.0', '--working-dir', bench.project]
    environment = daemon.ask('env', 'create', *fields)['id']
    run, execute = daemon.client('run', *fields, '--', 'true'), daemon.client('exec', environment, '--', 'true')
    try:
        wait_for_bytecode(daemon, environment, run, spawned)
        against_bwrap(run, execute, row, spawned)
        absolute('rtlaunchd: memory, idle', [daemon.memory()], 20, 'MB')
        alone = statistics.median(measured(daemon, execute, spawned))
        absolute('rtlaunchd: request to exec done', [alone], 0.001, 'ms')
        absolute('rtlaunchd: a start, 64 at once', [per_start(execute, 64, SECONDS)], 1 / 200, 'ms')
        wait_for_workers(daemon, 0, most=True)
        with crowd(daemon, environment, CROWD):
            row(f'the same among {CROWD:,} live sandboxes', measured(daemon, execute, spawned), [alone], 'alone', 2, 'ms')
            absolute(f'rtlaunchd: memory with {CROWD:,} workers', [daemon.memory()], 50, 'MB')
        daemon.stop()
        add_layers(daemon.store, LAYERS)
        absolute(f'rtlaunchd: start-up on {LAYERS:,} layers', [daemon.run()], 1, 's')
        row(f'a start with {LAYERS:,} layers in the store', measured(daemon, execute, spawned), [alone], 'few layers', 2, 'ms')
    finally:
        daemon.stop()


def wait_for_bytecode(daemon, environment, run, spawned):
    """It is made in a lull. Until the environment has it, each `exec` asks for it while its command runs."""
    deadline = time.time() + 60
    while time.time() < deadline:
        spawned(run)
        known = {entry['id']: entry['what']['fields']['pip'] for entry in daemon.ask('env', 'ls')}
        if known[environment]['bytecode'] and not daemon.ask('status')['housekeeping']:
            return
        time.sleep(0.5)
    raise SystemExit('no bytecode was made')


def against_bwrap(run, execute, row, spawned):
    """Both come after bwrap, and bwrap after both: each pays for what the one before it has left to the kernel."""
    ran, executed, theirs = [], [], []
    for _ in range(200):
        for command, times in ((execute, executed), (BWRAP, theirs), (run, ran), (BWRAP, theirs)):
            times.append(spawned(command))
    row('`exec ENV -- true` through rtlaunchd', executed, theirs, 'bwrap, pid namespace only', 0.6, 'ms')
    row('`run -- true` through rtlaunchd', ran, theirs, 'bwrap, pid namespace only', 0.6, 'ms')
