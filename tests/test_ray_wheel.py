"""The wheel beside Ray: its programs need nothing but glibc (uv: libgcc), its class switches a node over, and where it
can't, Ray's own agent goes on."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from conftest import BIN
from ray_support import PLUGINS, ROOT, VENV, command_of, install_plugin, node

WHEEL = next(iter(sorted((ROOT / 'build').glob('rtlaunch-*.whl'))), None)
GLIBC = ('ld-linux-x86-64.so.2', 'libc.so.6', 'libm.so.6', 'libresolv.so.2', 'libpthread.so.0', 'libdl.so.2', 'librt.so.1',
         'libgcc_s.so.1')   # the last is Debian's base as well, and uv's only wish

ASK = '''
    connect()
    @ray.remote(runtime_env={'env_vars': {'A': '1'}})
    def a():
        return os.environ['A']
    answer(ray.get(a.remote()))'''

# Writes down how it was started, and is Ray's own agent from there on.
STAND_IN = '''#!{python}
import json, os, sys
facts = dict(argv=sys.argv, parent=os.getppid(), python=os.environ.get('RTLAUNCH_RAY_PYTHON'), fds=dict())
for fd in range(256):
    if os.path.lexists('/proc/self/fd/%d' % fd):
        facts['fds'][fd] = os.readlink('/proc/self/fd/%d' % fd)
with open('{facts}', 'w') as out:
    json.dump(facts, out)
print('the stand-in speaks', flush=True)
del os.environ['RAY_RUNTIME_ENV_PLUGINS']
os.execv('{python}', ['{python}', '-u', '{agent}', *sys.argv[1:]])
'''


@pytest.fixture(scope='module')
def unpacked(tmp_path_factory):
    """As pip unpacks it."""
    folder = tmp_path_factory.mktemp('wheel')
    with zipfile.ZipFile(WHEEL) as wheel:
        for info in wheel.infolist():
            os.chmod(wheel.extract(info, folder), info.external_attr >> 16 & 0o777)
    return folder


def in_root(root, *command):
    enter = 'mount -t proc proc "$1/proc" && exec chroot "$@"'   # the loader finds $ORIGIN by /proc/self/exe
    return subprocess.run(['unshare', '--mount', 'sh', '-c', enter, 'sh', root, *command], timeout=20, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True)


def lacks(done):
    return any(word in str(done.stdout) + str(done.stderr) for word in ('shared libraries', 'not found'))


def test_the_programs_load_where_only_glibc_is(unpacked, tmp_path):
    (tmp_path / 'proc').mkdir()
    for name in GLIBC:
        source = pathlib.Path('/lib64' if name.startswith('ld-') else '/lib/x86_64-linux-gnu', name)
        target = tmp_path / ('lib64' if name.startswith('ld-') else 'lib/x86_64-linux-gnu') / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    shutil.copytree(unpacked / 'rtlaunch', tmp_path / 'rtlaunch')
    for program in sorted((unpacked / 'rtlaunch/bin').iterdir()):
        if program.suffix in ('.whl', '.py'):
            continue
        words = [f'/rtlaunch/bin/{program.name}', '--help']
        if program.suffix == '.so':   # the base's Python loads it
            loaded = words = [f'/lib64/{GLIBC[0]}', '--list', words[0]]
        done = in_root(tmp_path, *words)
        assert done.returncode >= 0 and not lacks(done), (program.name, done)
    shutil.rmtree(tmp_path / 'rtlaunch/lib')
    for words in (['/rtlaunch/bin/rtlaunch-build'], loaded):
        assert lacks(in_root(tmp_path, *words)), 'the control: without what the wheel brings it does not load'


def test_the_command_is_the_program(unpacked):
    done = subprocess.run([sys.executable, '-m', 'rtlaunch', '--version'], cwd=unpacked, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'rtlaunch 0.1.0\n')


def test_the_variable_keeps_the_users_plugins():
    install_plugin()
    theirs = {**os.environ, 'RAY_RUNTIME_ENV_PLUGINS': '[{"class": "their.Plugin", "priority": 3}]'}
    done = subprocess.run([VENV / 'bin/rtlaunch', 'ray', 'env'], env=theirs, capture_output=True, text=True)
    value = subprocess.run(['sh', '-c', done.stdout + 'printf %s "$RAY_RUNTIME_ENV_PLUGINS"'], capture_output=True, text=True)
    assert json.loads(value.stdout) == [{'class': 'rtlaunch.ray.Plugin'}, {'class': 'their.Plugin', 'priority': 3}]


@pytest.mark.parametrize('way', ['start', 'plugin'])
def test_rays_agent_becomes_ours(tmp_path, way):
    """At the start of its Python, or else by the class."""
    install_plugin()
    agent = next(VENV.glob('lib/python3*/site-packages/ray/_private/runtime_env/agent/main.py'))
    (tmp_path / 'rtlaunch').symlink_to(BIN / 'rtlaunch')   # workers are set up by it
    for name in ('rtlaunch-build', 'uv'):
        (tmp_path / name).symlink_to('/bin/true')
    stand_in = tmp_path / 'rtlaunch-agent'
    stand_in.write_text(STAND_IN.format(python=VENV / 'bin/python', facts=tmp_path / 'facts', agent=agent))
    stand_in.chmod(0o755)
    with node(env={'RAY_RUNTIME_ENV_PLUGINS': PLUGINS, 'RTLAUNCH_BIN': str(tmp_path), 'RTLAUNCH_RAY_START': way}) as one:
        assert one.drive(ASK) == '1'
        facts = json.loads((tmp_path / 'facts').read_text())
        assert facts['parent'] == one.raylet() and facts['python'] == str(VENV / 'bin/python')
        assert any(word.startswith('--node-id=') for word in facts['argv'])
        name = {'start': 'raylet', 'plugin': 'runtime_env_agent'}[way]   # the agent itself opens its own
        assert facts['fds']['1'].endswith(f'/{name}.out') and facts['fds']['2'].endswith(f'/{name}.err')
        assert len([fd for fd, target in facts['fds'].items() if target.startswith('pipe:')]) <= 2, facts['fds']
        assert 'the stand-in speaks' in one.log(f'{name}.out')


def test_setup_worker_is_replaced_before_ray_is_imported():
    """Only where a node was switched over, and then without Ray: its import takes most of a second."""
    install_plugin()
    [script] = VENV.glob('lib/python3*/site-packages/ray/_private/workers/setup_worker.py')
    context = '--serialized-runtime-env-context={"env_vars": {"A": "1"}}'
    show = [VENV / 'bin/python', script, 'sh', '-c', 'echo $A; env | grep RAY_CLIENT_MODE', '--language=CPP', context]

    def said(**more):
        own = {name: value for name, value in os.environ.items() if not name.startswith('RAY_')}
        return subprocess.run(show, env={**own, **more}, capture_output=True, text=True).stdout.split()
    assert said() == ['1', 'RAY_CLIENT_MODE=0']   # the control: importing Ray sets it
    assert said(RAY_RUNTIME_ENV_PLUGINS=PLUGINS) == ['1']
    assert said(RAY_RUNTIME_ENV_PLUGINS=PLUGINS, RTLAUNCH_RAY_START='plugin') == ['1', 'RAY_CLIENT_MODE=0']
    assert said(RAY_RUNTIME_ENV_PLUGINS='[{"class": "their.Plugin"}]') == ['1', 'RAY_CLIENT_MODE=0']


def test_else_rays_own_agent_goes_on(tmp_path):
    install_plugin()
    with node(env={'RAY_RUNTIME_ENV_PLUGINS': PLUGINS, 'RTLAUNCH_BIN': str(tmp_path)}) as one:
        assert one.drive(ASK) == '1'
        assert 'lacks rtlaunch-agent' in one.log('runtime_env_agent.log')
        assert 'ray::RuntimeEnvAgent' in command_of(one.agent())
