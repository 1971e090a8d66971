"""Every command in README.md runs as it is written there."""

import os
import pathlib
import re
import shutil
import subprocess
import zipfile

import pytest

from conda_fixtures import channel, compiled, conda  # noqa: F401
from conftest import PLAIN_UID, become
from daemon_support import daemon, stopped_daemon, through  # noqa: F401
from test_image import image  # noqa: F401

ROOT = pathlib.Path(__file__).parent.parent
FENCED = re.findall(r'^```(\w*)\n(.*?)^```', (ROOT / 'README.md').read_text(), re.M | re.S)
ALL_BLOCKS = [text for kind, text in FENCED if kind in ('', 'sh') and not text.startswith('# beside Ray\n')]   # test_ray_readme.py
NODE = [block for block in ALL_BLOCKS if block.startswith('# with rtlaunchd\n')]
BLOCKS = [block for block in ALL_BLOCKS if block not in NODE]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if re.match(r'(\w+=\S+ )?rtlaunch ', line)]
TARGETS = sorted({target for block in BLOCKS for target in re.findall(r'^make (\w+)', block, re.M)})


@pytest.fixture
def there(rt_one, request):
    """The folder that README speaks of."""
    (rt_one.home / 'main.py').write_text('import pendulum, requests\nprint(requests.__version__)\n')
    (rt_one.home / 'helper').mkdir()
    (rt_one.home / 'helper/__init__.py').write_text('')
    with zipfile.ZipFile(rt_one.home / 'tool.jar', 'w') as made:
        made.writestr('tool/Tool.class', '')
    shutil.copytree(ROOT / 'installers/examples', rt_one.home / 'plugins')
    shutil.copytree(request.getfixturevalue('image').folder, rt_one.home / 'image')
    (rt_one.home / 'channel').symlink_to(str(request.getfixturevalue('channel')).removeprefix('file://'))
    return rt_one.home


@pytest.mark.parametrize('command', COMMANDS)
def test_command(rt_one, there, command):
    env = {**rt_one.env, 'PATH': f'{pathlib.Path(rt_one.program).parent}:{rt_one.env["PATH"]}'}
    if not command.startswith('rtlaunch run'):
        rt_one.ok('--', 'true')   # there must be a store to ask about
    done = subprocess.run(command, shell=True, env=env, cwd=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('target', TARGETS)
def test_target_exists(target):
    assert subprocess.run(['make', '-n', '-C', ROOT, target], capture_output=True).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can start rtlaunchd')
@pytest.mark.parametrize('uid', [0, PLAIN_UID])
def test_commands_of_a_node(daemon, tmp_path, uid):
    (tmp_path / 'user').mkdir(mode=0o755)
    user = through(daemon, tmp_path / 'user', uid)
    env = {**user.env, 'PATH': f'{pathlib.Path(user.program).parent}:{user.env["PATH"]}'}
    assert len(NODE) == 1
    for command in NODE[0].splitlines()[1:]:
        done = subprocess.run(command, shell=True, env=env, cwd=user.home, capture_output=True, text=True,
                              preexec_fn=become(uid))
        assert done.returncode == 0, (command, done.stderr)
