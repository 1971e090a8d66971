"""Every command in README.md runs as it is written there."""

import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
BLOCKS = re.findall(r'^```(?:sh)?\n(.*?)^```', (ROOT / 'README.md').read_text(), re.M | re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith('rtlaunch ')]
TARGETS = sorted({target for block in BLOCKS for target in re.findall(r'^make (\w+)', block, re.M)})


@pytest.mark.parametrize('command', COMMANDS)
def test_command(rt_one, command):
    (rt_one.home / 'main.py').write_text('import pendulum, requests\nprint(requests.__version__)\n')
    env = {**rt_one.env, 'PATH': f'{pathlib.Path(rt_one.program).parent}:{rt_one.env["PATH"]}'}
    if not command.startswith('rtlaunch run'):
        rt_one.ok('--', 'true')   # there must be a store to ask about
    done = subprocess.run(command, shell=True, env=env, cwd=rt_one.home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('target', TARGETS)
def test_target_exists(target):
    assert subprocess.run(['make', '-n', '-C', ROOT, target], capture_output=True).returncode == 0
