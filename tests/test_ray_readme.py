"""What README.md says about Ray is done as it is written there."""

import re
import subprocess
import textwrap
import zipfile

from image_support import Image
from profilers_support import profilers
from ray_support import PLUGINS, ROOT, VENV, Node, image_python, our_node, ours_env, ray_daemon, ray_programs  # noqa: F401

BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```', (ROOT / 'README.md').read_text(), re.M | re.S)
(EXAMPLES,) = [text for kind, text in BLOCKS if kind == 'python']
(SHELL,) = [text.splitlines()[1:] for kind, text in BLOCKS if text.startswith('# beside Ray\n')]


def test_the_examples(ray_programs, ray_daemon, tmp_path):  # noqa: F811
    profilers(tmp_path / 'bin')
    with our_node(ray_programs, ray_daemon, env={'PATH': f'{tmp_path}/bin:{VENV}/bin:/usr/bin:/bin'}) as one:
        run_examples(one, ray_programs)


def run_examples(one, programs):
    with zipfile.ZipFile('/tmp/project.zip', 'w') as project:
        project.writestr('main.py', '')
    Image('/tmp/image', Env=['PATH=/opt/py/bin']).layer(image_python(programs), packed=False).write()
    done = subprocess.run([one.python, '-c', textwrap.dedent(EXAMPLES)], cwd=one.home, timeout=120, capture_output=True,
                          text=True, env={**one.env, 'RAY_ADDRESS': one.address})
    assert done.returncode == 0, done.stderr


class Started(Node):
    """By the wheel's command, with nothing in its environment that switches it over."""

    def command(self):
        words = super().command()
        assert [words[0], words[1]] == [f'{VENV}/bin/ray', 'start'] and SHELL[2] == 'rtlaunch ray start --head'
        return [f'{VENV}/bin/rtlaunch', 'ray', *words[1:]]


def test_rtlaunch_ray_start(ray_programs, ray_daemon):  # noqa: F811
    env = ours_env(ray_programs, ray_daemon.socket)
    assert env.pop('RAY_RUNTIME_ENV_PLUGINS') == PLUGINS
    one = Started(env=env)
    try:
        one.start()
        assert one.drive("""
            connect()
            answer(ray.get(ray.remote(lambda: os.environ['RAY_RAYLET_PID']).options(
                runtime_env={'pip': ['emoji==2.14.0']}).remote()))""") == '1', 'in the sandbox'
    finally:
        one.remove()
