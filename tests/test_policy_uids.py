"""`uids`: each job of root's runs as somebody of its own, who is not root."""

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


def stay(root, profile, job):
    """A worker that stays: (its client, its user)."""
    process = root.popen('--profile', profile, '--job', job, '--', 'sh', '-c', 'id -u; id -g; id -G; read x', text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ids = {int(process.stdout.readline()) for _ in range(3)}
    assert len(ids) == 1, 'user, group and groups are one number'
    return process, ids.pop()


def end(*processes):
    for process in processes:
        process.communicate('\n', timeout=120)


def test_each_job_is_a_user_of_its_own(node, root):
    a, one = stay(root, 'jobs', 'a')
    again, same = stay(root, 'jobs', 'a')
    b, two = stay(root, 'jobs', 'b')
    no, three = stay(root, 'jobs', '')
    other, four = stay(root, 'jobs', '')
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
    a, one = stay(root, 'few', 'a')
    node.kill()
    node.start()
    wait_until(lambda: [worker.get('runs_as') for worker in node.workers()] == [one], 60)
    b, two = stay(root, 'few', 'b')
    assert {one, two} == {FIRST + 5000, FIRST + 5001}
    assert root.ok('--profile', 'few', '--job', 'a', '--', 'id', '-u') == f'{one}\n'
    assert 'uids' in root.fails('--profile', 'few', '--job', 'c', '--', 'true')
    end(a)
    wait_until(lambda: len(node.workers()) == 1, 60)
    c, three = stay(root, 'few', 'c')
    assert three == one, 'free again'
    end(b, c)


def test_without_a_daemon_nobody_gets_one(programs, tmp_path):
    alone = make_launcher(programs, tmp_path, 0)
    wanted = json.dumps({'first': FIRST, 'count': 10})
    error = alone.fails('--control', f'uids={wanted}', '--', 'true')
    assert 'uids' in error and 'rtlaunchd' in error
    prefers = json.dumps({'want': 'prefer', 'first': FIRST, 'count': 10})
    assert alone.ok('--control', f'uids={prefers}', '--', 'id', '-u') == '0\n', 'the control run'


def test_others_are_refused(node, tmp_path):
    (tmp_path / 'guest').mkdir()
    guest = through(node, tmp_path / 'guest', PLAIN_UID)
    assert 'uids' in guest.fails('--profile', 'jobs', '--', 'true')
    assert guest.ok('--profile', 'ml', '--', 'id', '-u') == f'{PLAIN_UID}\n'
