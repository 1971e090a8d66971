"""Workers of an unmodified Ray in the sandbox that `--profile ray` is: its own agent is told to start Python by
`rtlaunch exec`, and everything that Ray does with a worker works as it does without."""

import contextlib
import os
import signal
import subprocess
import textwrap

import pytest

from conftest import PLAIN_UID, make_launcher
from daemon_support import own_daemon, through, wait_until
from ray_support import VENV, Node, children_of, command_of, ended

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='rtlaunchd is for root')

ACTOR = textwrap.dedent('''
    import signal
    connect()
    @ray.remote(runtime_env={'py_executable': os.environ['EXECUTABLE']})
    class Actor:
        def look(self):
            import idna
            return dict(pid=os.getpid(), seen=[n for n in os.listdir('/proc') if n.isdigit()], idna=idna.__version__,
                        raylet=os.environ['RAY_RAYLET_PID'], cwd=os.getcwd(), files=sorted(os.listdir('.')))
        def echo(self, value):
            return value
        def child(self):
            import subprocess
            return subprocess.check_output(['sh', '-c', 'echo $PPID'], text=True).strip()
    actor = Actor.remote()
    ''')


def with_actor(script):
    return ACTOR + textwrap.dedent(script)


class PlainNode(Node):
    """A node of a user's, with Ray where that user can read it."""

    def __init__(self, **more):
        super().__init__(**more)
        venv = self.folder / 'venv'
        venv.mkdir()
        subprocess.run(['mount', '--bind', VENV, venv], check=True)   # in the tests' own mount namespace
        self.python = str(venv / 'bin/python')
        self.env['PATH'] = self.env['PATH'].replace(str(VENV), str(venv))
        for path in (self.folder, self.home, *self.home.rglob('*')):
            os.chown(path, PLAIN_UID, PLAIN_UID)

    def command(self):
        become = ['setpriv', f'--reuid={PLAIN_UID}', f'--regid={PLAIN_UID}', '--clear-groups']
        return [*become, self.python, '-m', 'ray.scripts.scripts', *super().command()[1:]]

    def remove(self):
        self.stop()
        subprocess.run(['umount', '-l', self.folder / 'venv'], check=True)
        super().remove()


class Sandboxed:
    """A node, an environment, and how the first shall start Python in the second."""

    def __init__(self, one, rt, *options):
        self.node, self.stopped = one, False
        project = rt.make_files('project', {'data.txt': 'x'})
        self.place = rt.make_dir('place')
        made = rt.ok('env', 'create', '--python', one.python, '--pip', 'idna==3.7', '--working-dir', project, *options, verb='env')
        words = [rt.program, 'exec', made.strip(), '--profile', 'ray', '--die-with-parent', '--working-dir-at', self.place,
                 *options, '--', one.python]
        self.env = {'EXECUTABLE': ' '.join(map(str, words))}

    def drive(self, script):
        return self.node.drive(script, env=self.env)

    def clients(self):
        return [pid for pid in children_of(self.node.raylet()) if '--profile ray' in command_of(pid)]


@pytest.fixture(scope='module', params=['embedded', 'daemon', 'plain user'])
def sandboxed(request, programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('sandboxed')
    with contextlib.ExitStack() as stack:
        one = PlainNode() if request.param == 'plain user' else Node()
        stack.callback(one.remove)
        one.start()
        if request.param == 'daemon':
            daemon = own_daemon(programs, folder / 'node')
            stack.callback(daemon.stop)
            yield Sandboxed(one, through(daemon, folder, 0), '--socket', daemon.socket)
        else:
            rt = make_launcher(programs, folder, PLAIN_UID if request.param == 'plain user' else 0)
            yield Sandboxed(one, rt, '--embedded', '--store', rt.store)


def test_an_actor_sees_only_itself_and_serves_calls(sandboxed):
    seen, outside, echoed, parent = sandboxed.drive(with_actor('''
        seen = ray.get(actor.look.remote())
        outside = open(f'/proc/{seen["pid"]}/status').read()
        big = b'x' * 10_000_000   # by shared memory
        answer([seen, outside, ray.get(actor.echo.remote(ray.put(big))) == big, ray.get(actor.child.remote())])'''))
    assert f'NSpid:\t{seen["pid"]}\t{seen["pid"]}\n' in outside, 'one number inside and outside'
    assert sorted(map(int, seen['seen'])) == [1, seen['pid']]
    assert (seen['raylet'], seen['idna'], seen['cwd'], seen['files']) == ('1', '3.7', str(sandboxed.place), ['data.txt'])
    assert echoed and parent == str(seen['pid'])
    wait_until(lambda: not sandboxed.clients(), 30)   # the driver has ended, so have its workers


def test_without_it_the_host_is_in_sight(sandboxed):
    seen = sandboxed.drive('''
        connect()
        @ray.remote
        def look():
            return [int(n) for n in os.listdir('/proc') if n.isdigit()]
        answer(ray.get(look.remote()))''')
    assert sandboxed.node.raylet() in seen


def test_ray_kill_ends_it(sandboxed):
    assert sandboxed.drive(with_actor('''
        pid = ray.get(actor.look.remote())['pid']
        ray.kill(actor)
        until(lambda: not os.path.exists(f'/proc/{pid}'))
        try:
            ray.get(actor.echo.remote(1))
        except ray.exceptions.ActorDiedError:
            answer('died')''')) == 'died'
    wait_until(lambda: not sandboxed.clients(), 30)


def test_a_kill_from_outside_is_noticed(sandboxed):
    assert sandboxed.drive(with_actor('''
        os.kill(ray.get(actor.look.remote())['pid'], signal.SIGKILL)
        try:
            ray.get(actor.echo.remote(1))
        except ray.exceptions.ActorDiedError:
            answer('died')''')) == 'died'
    wait_until(lambda: not sandboxed.clients(), 30)


def test_tasks_run_and_their_workers_are_used_again(sandboxed):
    pids = sandboxed.drive('''
        connect()
        @ray.remote(runtime_env={'py_executable': os.environ['EXECUTABLE']})
        def pid(value):
            return os.getpid()
        answer([ray.get(pid.remote(i)) for i in range(20)])''')
    assert len(set(pids)) <= 3


def test_a_task_that_ends_its_process_is_an_error_and_tried_again(sandboxed):
    assert sandboxed.drive('''
        connect()
        @ray.remote(runtime_env={'py_executable': os.environ['EXECUTABLE']}, max_retries=1)
        def fragile(path):
            if not os.path.exists(path):
                open(path, 'w').close()
                os._exit(7)
            return 'second'
        answer(ray.get(fragile.remote(os.environ['HOME'] + f'/once-{os.getpid()}')))''') == 'second'


def test_workers_end_with_their_raylet(sandboxed):
    """The last: the node is none any more."""
    one = sandboxed.node
    driver = one.spawn(with_actor('''
        open(os.environ['NODE_ANSWER'], 'w').write(str(ray.get(actor.look.remote())['pid']))
        time.sleep(60)'''), env=sandboxed.env)
    wait_until(lambda: driver.answer.read_text() or driver.poll() is not None, 60)
    worker, tree = int(driver.answer.read_text()), sandboxed.clients()
    assert tree and '--profile ray' not in command_of(worker)
    os.kill(one.raylet(), signal.SIGKILL)
    assert ended([worker, *tree])
    driver.kill()
    driver.wait()
