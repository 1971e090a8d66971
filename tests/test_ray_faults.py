"""Everybody between a raylet and its worker is killed once, and what an install needs goes away under it."""

import contextlib
import os
import signal
import socket
import time

import pytest

from daemon_support import wait_until
from ray_support import children_of, ended, our_node, ours, ours_embedded, ray_daemon, ray_programs  # noqa: F401

ACTOR = '''
connect()
@ray.remote(num_cpus=0)
class Actor:
    def pid(self):
        import emoji
        return os.getpid()
def actor(version):
    return Actor.options(runtime_env={'pip': ['emoji==' + version]}).remote()
one = actor('2.2.0')
with open('pid.new', 'w') as out:
    out.write(str(ray.get(one.pid.remote())))
os.rename('pid.new', 'pid')
'''


def worker_of(one):
    wait_until(lambda: (one.home / 'pid').exists(), 90)
    return int((one.home / 'pid').read_text())


def idle(daemon):
    wait_until(lambda: daemon.workers() == [], 30)


@contextlib.contextmanager
def silent_index():
    """An index that takes the call and never answers."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        one.listen(50)
        yield f'http://127.0.0.1:{one.getsockname()[1]}/simple'


def test_the_daemon_killed_and_back(ours):  # noqa: F811
    driver = ours.spawn(ACTOR + '''
until(lambda: os.path.exists('dead'), 60)
during = ray.get(one.pid.remote())
open('called', 'w').close()
until(lambda: os.path.exists('back'), 60)
answer([during, ray.get(one.pid.remote()), ray.get(actor('2.2.0').pid.remote()), ray.get(actor('2.14.0').pid.remote())])''')
    pid = worker_of(ours)
    ours.daemon.kill()
    (ours.home / 'dead').touch()
    wait_until(lambda: (ours.home / 'called').exists(), 30)
    ours.daemon.start()
    (ours.home / 'back').touch()
    seen = ours.finish(driver)
    assert seen[0] == seen[1] == pid and len(set(seen)) == 3
    idle(ours.daemon)


def test_an_environment_asked_for_while_the_daemon_is_away(ours):  # noqa: F811
    ours.daemon.kill()
    driver = ours.spawn('''
        connect()
        began = time.monotonic()
        try:
            ray.get(ray.remote(lambda: 1).options(runtime_env={'pip': ['emoji==2.13.0']}).remote())
            answer(['made', ''])
        except ray.exceptions.RuntimeEnvSetupError as error:
            answer(['told', str(error)])''')
    time.sleep(3)
    ours.daemon.start()
    what, text = ours.finish(driver)
    assert what == 'made' or 'rtlaunchd' in text, text
    assert ours.drive('''
        connect()
        answer(ray.get(ray.remote(lambda: 1).options(runtime_env={'pip': ['emoji==2.12.0']}).remote()))''') == 1 if what == 'made' else True


def test_the_setup_timeout_is_one_deadline(ours):  # noqa: F811
    with silent_index() as index:
        took, text = ours.drive(f'''
            connect()
            began = time.monotonic()
            try:
                ray.get(ray.remote(lambda: 1).options(runtime_env={{
                    'pip': ['rtlaunch-slow'], 'env_vars': {{'PIP_INDEX_URL': {index!r}, 'UV_INDEX_URL': {index!r}}},
                    'config': {{'setup_timeout_seconds': 2}}}}).remote())
            except ray.exceptions.RuntimeEnvSetupError as error:
                answer([time.monotonic() - began, str(error)])''')
    assert 'timeout' in text and took < 8, (took, text)
    idle(ours.daemon)


def test_a_driver_that_dies_during_the_install(ours):  # noqa: F811
    with silent_index() as index:
        driver = ours.spawn(f'''
            connect()
            future = ray.remote(lambda: 1).options(runtime_env={{
                'pip': ['rtlaunch-slow'], 'env_vars': {{'PIP_INDEX_URL': {index!r}, 'UV_INDEX_URL': {index!r}}},
                'config': {{'setup_timeout_seconds': 100}}}}).remote()
            open('waits', 'w').close()
            ray.get(future)''')
        wait_until(lambda: (ours.home / 'waits').exists(), 30)
        time.sleep(1)
        driver.kill()
        driver.wait()
        # The install goes on, since another may want it, and holds up nobody.
        began = time.monotonic()
        assert ours.drive('''
            connect()
            answer(ray.get(ray.remote(lambda: 1).options(runtime_env={'pip': ['emoji==2.7.0']}).remote()))''') == 1
        assert time.monotonic() - began < 80
    idle(ours.daemon)


def test_a_package_that_vanished_from_the_key_value_store(ours, tmp_path):  # noqa: F811
    (tmp_path / 'file').write_text(str(time.time()))
    text = ours.drive(f'''
        connect(runtime_env={{'working_dir': {str(tmp_path)!r}, 'config': {{'eager_install': False}}}})
        uri = ray.get_runtime_context().runtime_env['working_dir']
        from ray.experimental.internal_kv import _internal_kv_del
        _internal_kv_del(uri)
        try:
            ray.get(ray.remote(lambda: 1).remote())
        except ray.exceptions.RuntimeEnvSetupError as error:
            answer(str(error))''')
    assert 'Failed to download runtime_env file package' in text and len(text.splitlines()) <= 10


def test_without_a_daemon_it_is_the_same(ours_embedded, tmp_path):  # noqa: F811
    (tmp_path / 'part.py').write_text('X = 7')
    assert ours_embedded.drive(f'''
        connect(runtime_env={{'working_dir': {str(tmp_path)!r}, 'pip': ['emoji==2.2.0']}})
        @ray.remote
        class Actor:
            def seen(self):
                import emoji, part
                return emoji.__version__, part.X, os.environ['RAY_RAYLET_PID']
        answer(ray.get(Actor.remote().seen.remote()))''') == ['2.2.0', 7, '1']


def test_a_raylet_that_died_is_told_to_drivers(ours):  # noqa: F811
    """In Ray's words, as Ray's own agent does."""
    text = ours.drive('''
        import glob, signal
        from ray._raylet import GcsErrorSubscriber
        ray.init(num_cpus=1, include_dashboard=False, logging_level='ERROR')
        node = ray._private.worker._global_node
        errors = GcsErrorSubscriber(address=node.gcs_address)
        errors.subscribe()
        raylet = node.all_processes['raylet'][0].process.pid
        for pid in open(f'/proc/{raylet}/task/{raylet}/children').read().split():
            words = open(f'/proc/{pid}/cmdline').read()
            if 'dashboard' in words.lower():   # Ray's other agent would say the same
                os.kill(int(pid), signal.SIGSTOP)
        os.kill(raylet, signal.SIGKILL)
        said, end = '', time.monotonic() + 30
        while not said and time.monotonic() < end:
            _, error = errors.poll(timeout=1)
            if error and error['type'] == 'raylet_died':
                said = error['error_message']
        answer(said)
        os._exit(0)''')
    assert 'Termination is unexpected.' in text and 'Raylet logs:' in text


@pytest.mark.parametrize('who', ['raylet', 'agent', 'everything'])
def test_who_is_killed_takes_the_node_and_leaves_nothing(ray_programs, ray_daemon, who):  # noqa: F811
    with our_node(ray_programs, ray_daemon) as one:
        driver = one.spawn(ACTOR + 'time.sleep(100)')
        worker, everything = worker_of(one), children_of(one.raylet())
        assert worker in everything or os.path.exists(f'/proc/{worker}')
        victims = {'raylet': [one.raylet()], 'agent': [one.agent()], 'everything': everything}[who]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert ended([worker, *everything], 60)   # drivers are told first, for which the agent has 30 s
        driver.kill()
        driver.wait()
    idle(ray_daemon)
