"""The ways into a cluster: three raylets on one machine, Ray Client, jobs by `ray job submit`, the lists and
the doctor."""

import json
import os
import re
import subprocess

import pytest

from ray_support import VENV, Driven, our_node, ours_env, ray_daemon, ray_programs  # noqa: F401
from test_ray import builds

CLUSTER = '''
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1, 'include_dashboard': False})
nodes = [cluster.head_node] + [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, logging_level='ERROR', log_to_driver=False,
         runtime_env={'pip': ['emoji==2.2.0'], 'working_dir': WORK})
@ray.remote(num_cpus=1)
def seen():
    import emoji
    return emoji.__version__, open('data.txt').read(), ray.get_runtime_context().get_node_id()
answer(ray.get([seen.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote()
                for node in nodes]))
ray.shutdown()
cluster.shutdown()
'''


@pytest.fixture(scope='module')
def watched(ray_programs, ray_daemon):  # noqa: F811
    """A node with its dashboard."""
    with our_node(ray_programs, ray_daemon, dashboard=True) as one:
        yield one


def until_forked(watched, script):
    """Ray's proxy forks in a process with gRPC's threads, and now and then that child hangs before it is any program, for half a
    minute; all that is in its log is gRPC's word of its closed descriptors. What one of ours says would stand there too."""
    for _ in range(2):
        try:
            return watched.drive(script)
        except Driven as failed:
            said = ''.join(text for name, text in watched.logs().items() if re.fullmatch(r'ray_client_server_2\d+\.err', name))
            others = [line for line in said.splitlines() if '(event_engine)' not in line and 'fork_posix.cc' not in line]
            if 'Starting Ray client server failed' not in str(failed) or any(others):
                raise
    return watched.drive(script)


def test_ray_client(watched, tmp_path):
    (tmp_path / 'data.txt').write_text('seven')
    assert until_forked(watched, f'''
        ray.init('ray://127.0.0.1:{watched.client_port}', runtime_env={{
            'pip': ['emoji==2.2.0'], 'working_dir': {str(tmp_path)!r}, 'env_vars': {{'A': '1'}}}})
        @ray.remote
        def seen():
            import emoji
            return emoji.__version__, open('data.txt').read(), os.environ['A']
        answer(ray.get(seen.remote()))''') == ['2.2.0', 'seven', '1']


def submit(watched, env, *command):
    return watched.ray('job', 'submit', '--address', f'http://{watched.dashboard}', '--runtime-env', env, '--', *command,
                       timeout=120)


def test_a_job_from_a_json_file(watched, tmp_path):
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'main.py').write_text('''
import os, emoji, ray
print("driver:", emoji.__version__, os.environ["LEVEL"], os.path.basename(__file__))
ray.init()
@ray.remote
def task():
    import emoji
    return emoji.__version__, os.environ["LEVEL"]
print("task:", *ray.get(task.remote()))
''')
    env = tmp_path / 'env.json'
    env.write_text(json.dumps({'working_dir': str(work), 'pip': ['emoji==2.2.0'], 'env_vars': {'LEVEL': 'info'}}))
    done = submit(watched, env, 'python', 'main.py')
    assert 'driver: 2.2.0 info main.py' in done.stdout and 'task: 2.2.0 info' in done.stdout, done.stdout + done.stderr
    assert 'succeeded' in done.stdout


def test_a_job_that_can_not_be_set_up_says_why(watched, tmp_path):
    env = tmp_path / 'env.json'
    env.write_text(json.dumps({'pip': ['rtlaunch-does-not-exist-3']}))
    done = submit(watched, env, 'python', '-c', 'print(1)')
    assert done.returncode != 0 and 'rtlaunch-does-not-exist-3' in done.stdout + done.stderr


def test_the_list_of_environments(watched):
    watched.drive('''
        connect()
        @ray.remote(num_cpus=0)
        class Actor:
            def pid(self):
                return os.getpid()
        actor = Actor.options(runtime_env={'pip': ['emoji==2.2.0'], 'env_vars': {'LISTED': '1'}}).remote()
        ray.get(actor.pid.remote())
        done = __import__('subprocess').run(['ray', 'list', 'runtime-envs', '--address', %r, '--format', 'json', '--detail'],
                                            capture_output=True, text=True)
        mine = [env for env in json.loads(done.stdout) if 'LISTED' in json.dumps(env)]
        assert mine and mine[0]['success'] and mine[0]['ref_cnt'] == 1, done
        answer(1)''' % f'http://{watched.dashboard}')


def test_three_raylets_make_an_environment_once(ray_programs, ray_daemon, watched, tmp_path):  # noqa: F811
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'data.txt').write_text(str(tmp_path))
    before = builds(watched)
    env = {**ours_env(ray_programs, ray_daemon.socket), 'TMPDIR': '/tmp'}
    seen = watched.drive(f'WORK = {str(work)!r}\n' + CLUSTER, env=env)
    assert [one[:2] for one in seen] == [['2.2.0', str(tmp_path)]] * 3 and len({one[2] for one in seen}) == 3
    after = builds(watched)
    assert after['pip'] - before['pip'] <= 1 and after['working_dir'] - before.get('working_dir', 0) == 1


def test_the_doctor_finds_nothing_missing(ray_programs, ray_daemon, watched):  # noqa: F811
    done = subprocess.run([VENV / 'bin/rtlaunch', 'ray', 'doctor'], env={**watched.env}, capture_output=True, text=True)
    assert done.returncode == 0 and 'missing' not in done.stdout, done.stdout + done.stderr
    assert 'one pid inside and outside' in done.stdout


def test_the_doctor_says_what_is_missing(tmp_path):
    env = {'PATH': os.environ['PATH'], 'HOME': str(tmp_path), 'RTLAUNCH_BIN': str(tmp_path)}
    done = subprocess.run([VENV / 'bin/rtlaunch', 'ray', 'doctor'], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and f'{tmp_path} lacks rtlaunch, rtlaunch-agent' in done.stdout, done.stdout + done.stderr
