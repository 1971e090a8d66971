"""rtlaunchd --cgroup: workers, and their limits, have a place of cgroup v2 of their own. The daemon's is its
service manager's, which can't start it again there once it has been divided."""

import os
import pathlib

import pytest

from daemon_support import stopped_daemon, wait_until  # noqa: F401

CGROUPS = next((pathlib.Path(line.split()[4]) for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines()
                if ' - cgroup2 ' in line), None)
pytestmark = pytest.mark.skipif(not CGROUPS or not os.access(CGROUPS, os.W_OK), reason='no cgroup2 that we may write to')

HOG = ['python3', '-c', 'b = bytearray(200 << 20); print("had it")']


@pytest.fixture
def service():
    """A cgroup like a service's, with the daemon's processes in it."""
    folder = CGROUPS / f'service-{os.urandom(6).hex()}'
    folder.mkdir()
    yield folder
    wait_until(lambda: remove(folder), seconds=60)


def remove(folder):
    for path in [*folder.glob('*/*/'), *folder.glob('*/'), folder]:
        try:
            path.rmdir()
        except OSError:
            pass
    return not folder.exists()


def start_in(service, daemon, *options):
    return daemon.start(*options, preexec_fn=lambda: (service / 'cgroup.procs').write_text(str(os.getpid())))


def test_workers_are_where_it_says(service, stopped_daemon):
    name = f'/workers-{os.urandom(6).hex()}'
    show = ['--', 'grep', '^0::', '/proc/self/cgroup']
    daemon = start_in(service, stopped_daemon)
    assert f'0::/{service.name}/' in daemon.launcher().ok(*show), 'control: below its own'
    daemon.stop()
    start_in(service, daemon, '--cgroup', name)
    assert daemon.launcher().ok(*show).startswith(f'0::{name}/w-')
    daemon.stop()
    wait_until(lambda: not (CGROUPS / name[1:]).exists(), seconds=60)


def test_limits_need_a_place_that_is_not_the_service_managers(service, stopped_daemon):
    if 'memory' not in (CGROUPS / 'cgroup.controllers').read_text().split():
        pytest.skip('no memory controller in cgroup2')
    daemon = start_in(service, stopped_daemon)
    limited = ['--control', 'memory={"want": "require", "at_most": "64M"}', '--', *HOG]
    assert 'processes of its own' in daemon.launcher().fails(*limited), 'control'
    daemon.stop()
    start_in(service, daemon, '--cgroup', f'/workers-{os.urandom(6).hex()}')
    assert daemon.launcher().ok('--', *HOG) == 'had it\n'
    done = daemon.launcher().run(*limited)
    assert done.returncode == 137 and 'out of memory (limit 64M)' in done.stderr
