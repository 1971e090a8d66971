"""rtlaunchd is killed again and again while workers start, run and end: nothing is lost, nothing stays."""

import signal
import subprocess
import time

from conftest import PLAIN_UID
from daemon_support import daemon, stopped_daemon, wait_until, workers_of


def test_killed_every_moment_while_starts_go_on(daemon):
    keepers = [daemon.sleeper(), daemon.sleeper(PLAIN_UID)]
    commands = []
    for round in range(40):
        commands += [daemon.launcher(uid).popen('--', 'sh', '-c', 'exit 7', stdin=subprocess.DEVNULL,
                                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                     for uid in (0, PLAIN_UID)]
        time.sleep(0.01 * (round % 6))
        daemon.kill()
        daemon.start()
    for command in commands:
        error = command.communicate(timeout=60)[1].decode()
        assert command.returncode == 7 or 'again' in error, (command.returncode, error)
    assert all(process.poll() is None for process, _ in keepers)
    wait_until(lambda: sorted(w['id'] for w in daemon.workers()) == sorted(worker for _, worker in keepers), seconds=30)
    wait_until(lambda: workers_of(daemon.runtime) == sorted(worker for _, worker in keepers))
    for process, _ in keepers:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    wait_until(lambda: daemon.workers() == [] and workers_of(daemon.runtime) == [])
