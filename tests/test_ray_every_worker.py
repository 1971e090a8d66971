"""Where a node says that every worker is shut in (RTLAUNCH_RAY_SANDBOX_ALL=1), those without a runtime env are, too,
in every language and in Ray's own business: spilling, jobs, retries."""

import pytest

from ray_support import node, our_node, ray_daemon, ray_programs  # noqa: F401 (fixtures)

ALL = {'RTLAUNCH_RAY_SANDBOX_ALL': '1'}
LOOK = '''
@ray.remote(num_cpus=0)
class Actor:
    def look(self):
        status = dict(line.split(':', 1) for line in open('/proc/self/status'))
        others = [pid for pid in filter(str.isdigit, os.listdir('/proc')) if int(pid) not in (1, os.getpid())]
        return [status['Seccomp'].strip(), len(others) > 5, os.environ['RAY_RAYLET_PID']]
    def pid(self):
        return os.getpid()
'''
SHUT_IN, PLAIN = ['2', False, '1'], '0'


@pytest.fixture(scope='module', params=['daemon', 'embedded'])
def shut_in(request, ray_programs, tmp_path_factory):  # noqa: F811
    if request.param == 'daemon':
        with our_node(ray_programs, request.getfixturevalue('ray_daemon'), env=ALL) as one:
            yield one
        return
    with our_node(ray_programs, store=tmp_path_factory.mktemp('every') / 'store', env=ALL) as one:
        yield one


def test_one_without_a_runtime_env(shut_in):
    seen, variables, same = shut_in.drive(LOOK + '''
connect()
one, other = Actor.remote(), Actor.options(runtime_env={'env_vars': {'A': '1'}}).remote()
pid = ray.get(one.pid.remote())
same = 'ray::Actor' in open(f'/proc/{pid}/cmdline').read()   # what the raylet knows it by
answer([ray.get(one.look.remote()), ray.get(other.look.remote()), same])''')
    assert seen == SHUT_IN and variables == SHUT_IN and same


def test_elsewhere_it_is_a_plain_one(ray_programs, ray_daemon):  # noqa: F811
    with our_node(ray_programs, ray_daemon) as one:
        seen = one.drive(LOOK + 'connect()\nanswer(ray.get(Actor.remote().look.remote()))')
    assert seen[0] == PLAIN and seen[1]


def test_they_do_all_that_workers_do(shut_in):
    """Big values by plasma, a nested task, an error, one that is killed and tried again, values that are spilled."""
    done = shut_in.drive('''
connect()
@ray.remote(num_cpus=0)
def inner(data):
    return sum(data)
@ray.remote(num_cpus=0)
def outer():
    return ray.get(inner.remote(ray.put(bytes(range(256)) * 4096)))
@ray.remote(num_cpus=0)
def wrong():
    raise ValueError('this')
@ray.remote(num_cpus=0, max_retries=2)
def dies_once(path):
    if not os.path.exists(path):
        open(path, 'w').close()
        os.kill(os.getpid(), 9)
    return 'again'
try:
    ray.get(wrong.remote())
except ValueError as error:
    said = str(error).splitlines()[-1]
answer([ray.get(outer.remote()), said, ray.get(dies_once.remote(f'/tmp/died-{os.getpid()}'))])''')
    assert done == [sum(range(256)) * 4096, 'ValueError: this', 'again']
