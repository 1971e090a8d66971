"""`uids`: each job of root's runs as somebody of its own, who is not root."""

import fcntl
import json
import os
import subprocess

import pytest

from conftest import PLAIN_UID, SYSTEM_PYTHON, make_launcher
from daemon_support import Daemon, through, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='root\'s workers')

FIRST = 300000
POLICY = {'version': 1, 'choose': ['jobs', 'few', 'ml'],
          'profiles': {'jobs': {'extends': 'ml', 'uids': {'first': FIRST, 'count': 1000}},
                       'few': {'extends': 'ml', 'uids': {'first': FIRST + 5000, 'count': 2}}}}


@pytest.fixture
def node(programs, tmp_path):
    folder = tmp_path / 'node'
    folder.mkdir()
    (folder / 'policy.json').write_text(json.dumps(POLICY))
    node = Daemon(programs, folder, options=['--policy', str(folder / 'policy.json')]).start()
    yield node
    node.stop()


@pytest.fixture
def root(node, tmp_path):
    return through(node, tmp_path, 0)


def stay(root, job, *how):
    """A worker that stays: (its client, its user)."""
    process = root.popen(*how, '--job', job, '--', 'sh', '-c', 'id -u; id -g; id -G; read x', text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ids = {int(process.stdout.readline()) for _ in range(3)}
    assert len(ids) == 1, 'user, group and groups are one number'
    return process, ids.pop()


def end(*processes):
    for process in processes:
        process.communicate('\n', timeout=120)


def stay_as(root, profile, job):
    return stay(root, job, '--profile', profile)


def test_each_job_is_a_user_of_its_own(node, root):
    a, one = stay_as(root, 'jobs', 'a')
    again, same = stay_as(root, 'jobs', 'a')
    b, two = stay_as(root, 'jobs', 'b')
    no, three = stay_as(root, 'jobs', '')
    other, four = stay_as(root, 'jobs', '')
    assert one == same and len({one, two, three, four}) == 4
    assert all(FIRST <= user < FIRST + 1000 for user in (one, two, three, four))
    assert {worker['runs_as'] for worker in node.workers()} == {one, two, three, four}
    assert {worker['uid'] for worker in node.workers()} == {0}, 'they belong to root all the same'
    worker = next(worker['id'] for worker in node.workers() if worker['runs_as'] == two)
    assert root.ok('enter', worker, '--', 'id', '-u', verb='enter') == f'{two}\n'
    end(a, again, b, no, other)
    assert root.ok('--profile', 'jobs', '--', 'id', '-u', env={'HOME': '/root'}, cwd='/') != '0\n'
    assert root.ok('--profile', 'ml', '--', 'id', '-u') == '0\n', 'the control run'


def test_it_is_not_root(root, tmp_path):
    secret = root.home / 'secret'
    secret.write_text('secret')
    secret.chmod(0o600)
    project = root.make_files('project', {'main.py': 'open("made", "w").write("own"); print(open("made").read())'})
    assert root.ok('--profile', 'jobs', '--working-dir', project, '--', SYSTEM_PYTHON, 'main.py') == 'own\n'
    read = ['--working-dir', project, '--', SYSTEM_PYTHON, '-c', 'import os; os.setuid(0)']
    assert 'PermissionError' in root.run('--profile', 'jobs', *read).stderr
    assert root.run('--profile', 'jobs', '--', 'cat', '/etc/shadow').returncode != 0
    assert root.run('--profile', 'ml', '--', 'cat', '/etc/shadow').returncode == 0, 'the control run'


def test_a_range_has_an_end_and_outlives_the_daemon(node, root):
    a, one = stay_as(root, 'few', 'a')
    node.kill()
    node.start()
    wait_until(lambda: [worker.get('runs_as') for worker in node.workers()] == [one], 60)
    b, two = stay_as(root, 'few', 'b')
    assert {one, two} == {FIRST + 5000, FIRST + 5001}
    assert root.ok('--profile', 'few', '--job', 'a', '--', 'id', '-u') == f'{one}\n'
    assert 'uids' in root.fails('--profile', 'few', '--job', 'c', '--', 'true')
    end(a)
    wait_until(lambda: len(node.workers()) == 1, 60)
    c, three = stay_as(root, 'few', 'c')
    assert three == one, 'free again'
    end(b, c)


def asked(count, first=FIRST + 20000):
    return '--control', 'uids=' + json.dumps({'first': first, 'count': count})


@pytest.fixture
def alone(programs, tmp_path):
    (tmp_path / 'alone').mkdir()
    return make_launcher(programs, tmp_path / 'alone', 0)


def test_without_a_daemon_each_job_is_one_too(alone):
    a, one = stay(alone, 'a', *asked(1000))
    again, same = stay(alone, 'a', *asked(1000))
    b, two = stay(alone, 'b', *asked(1000))
    no, three = stay(alone, '', *asked(1000))
    other, four = stay(alone, '', *asked(1000))
    assert one == same and len({one, two, three, four}) == 4
    assert all(FIRST + 20000 <= user < FIRST + 21000 for user in (one, two, three, four))
    end(a, again, b, no, other)
    project = alone.make_files('project', {'main.py': 'open("made", "w").write("own"); print(open("made").read())'})
    assert alone.ok(*asked(9), '--working-dir', project, '--', SYSTEM_PYTHON, 'main.py') == 'own\n'
    assert alone.run(*asked(9), '--', 'cat', '/etc/shadow').returncode != 0
    assert alone.ok('--', 'id', '-u') == '0\n' and alone.ok('--', 'cat', '/etc/shadow'), 'the control run'


def test_without_a_daemon_a_range_has_an_end_too(alone, programs, tmp_path):
    few = asked(2)
    a, one = stay(alone, 'a', *few)
    b, two = stay(alone, 'b', *few)
    assert {one, two} == {FIRST + 20000, FIRST + 20001}
    assert alone.ok(*few, '--job', 'a', '--', 'id', '-u') == f'{one}\n'
    assert 'uids' in alone.fails(*few, '--job', 'c', '--', 'true')
    a.kill()   # whoever is killed, its worker ends, and with it the hold
    a.wait()
    wait_until(lambda: alone.run(*few, '--job', 'c', '--', 'true').returncode == 0, 60)
    c, three = stay(alone, 'c', *few)
    assert three == one, 'free again'
    end(b, c)
    stranger = subprocess.Popen(['sleep', '1000'], user=FIRST + 20000, group=FIRST + 20000, extra_groups=[])
    wait_until(lambda: alone.run(*few, '--', 'id', '-u').stdout == f'{FIRST + 20001}\n', 60)   # the other one is somebody
    stranger.kill()
    stranger.wait()


def test_daemons_and_who_starts_without_one_share_a_range(node, root, alone):
    few = asked(2, FIRST + 5000)
    a, one = stay_as(root, 'few', 'a')
    same, joined = stay(alone, 'a', *few)
    assert joined == one, 'one job is one user'
    b, two = stay(alone, 'b', *few)
    assert {one, two} == {FIRST + 5000, FIRST + 5001}
    for refused in (lambda: alone.fails(*few, '--job', 'c', '--', 'true'), lambda: root.fails('--profile', 'few', '--job', 'c', '--', 'true')):
        assert 'uids' in refused()
    end(same)
    node.kill()   # nor does it take a daemon to know
    assert alone.ok(*few, '--job', 'a', '--', 'id', '-u') == f'{one}\n'
    assert 'uids' in alone.fails(*few, '--job', 'c', '--', 'true')
    node.start()
    wait_until(lambda: [worker.get('runs_as') for worker in node.workers()] == [one], 60)
    end(b)   # its pid 1 may be a moment behind
    wait_until(lambda: root.run('--profile', 'few', '--job', 'c', '--', 'id', '-u').stdout == f'{two}\n', 60)
    end(a)


def test_who_stops_while_it_chooses_holds_up_nobody_for_long(root):
    folder = os.open('/run/rtlaunch/uids', os.O_RDONLY) if os.path.isdir('/run/rtlaunch/uids') else None
    if folder is None:
        root.ok('--profile', 'jobs', '--', 'true')
        folder = os.open('/run/rtlaunch/uids', os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert '/run/rtlaunch/uids' in root.fails('--profile', 'jobs', '--', 'true')
    os.close(folder)
    root.ok('--profile', 'jobs', '--', 'true')
    assert root.run('--profile', 'ml', '--', 'ls', '/run/rtlaunch/uids').stdout == '', 'no worker gets at it, not even one of root\'s'


def test_a_plain_user_gets_none(programs, tmp_path):
    (tmp_path / 'user').mkdir()
    user = make_launcher(programs, tmp_path / 'user', PLAIN_UID)
    error = user.fails(*asked(10), '--', 'true')
    assert 'uids' in error and 'root' in error
    prefers = json.dumps({'want': 'prefer', 'first': FIRST, 'count': 10})
    assert user.ok('--control', f'uids={prefers}', '--', 'id', '-u') == f'{PLAIN_UID}\n', 'the control run'


def test_others_are_refused(node, tmp_path):
    (tmp_path / 'guest').mkdir()
    guest = through(node, tmp_path / 'guest', PLAIN_UID)
    assert 'uids' in guest.fails('--profile', 'jobs', '--', 'true')
    assert guest.ok('--profile', 'ml', '--', 'id', '-u') == f'{PLAIN_UID}\n'
