"""Every combination of the fields, on the host's Python, in an image and in a conda environment, embedded and through the
daemon, as root and as a plain user: each sees what it asked for, and nothing of what it didn't ask for."""

import itertools
import json
import os
import pathlib
import shutil
import zipfile

import pytest

from conda_fixtures import channel, compiled, conda  # noqa: F401
from conftest import PLAIN_UID, make_launcher
from daemon_support import Daemon, through
from test_image import image  # noqa: F401
from test_plugins import EXAMPLES

LOOK = '''
import json, os, sys
def seen(look):
    try:
        return bool(look())
    except (ImportError, OSError, KeyError):
        return False
def module(name):
    import importlib
    return importlib.import_module(name)
print(json.dumps({
    'pip': seen(lambda: module('idna').__version__ == '3.7'),
    'working_dir': seen(lambda: open('data.txt').read() == 'seven'),
    'py_modules': seen(lambda: module('helper').WORD == 'helped'),
    'java_jars': seen(lambda: any(os.path.exists(place + '/seen/word.txt') for place in os.environ['CLASSPATH'].split(':'))),
    'env_vars': seen(lambda: os.environ['LEVEL'] == '3'),
    'dataset': seen(lambda: open(os.environ['DATASET'] + '/a.txt').read() == 'text'),
    'image': seen(lambda: open('/srv/app/hello').read() == 'from the image\\n'),
    'conda': seen(lambda: module('one').WORD == 'first'),
}))
'''
FIELDS = ['pip', 'working_dir', 'py_modules', 'java_jars', 'env_vars', 'dataset']


@pytest.fixture(scope='module')
def plugins(tmp_path_factory):
    folder = pathlib.Path(tmp_path_factory.mktemp('matrix-plugins'))
    for path in (folder, folder.parent):
        path.chmod(0o755)
    shutil.copy(EXAMPLES / 'dataset', folder / 'dataset')
    return folder


@pytest.fixture(params=['embedded root', 'embedded user', 'daemon root', 'daemon user'])
def way(request, programs, tmp_path, plugins):
    how, who = request.param.split()
    if who == 'root' and os.geteuid() != 0:
        pytest.skip('only root can')
    uid = PLAIN_UID if who == 'user' else 0
    if how == 'embedded':
        one = make_launcher(programs, tmp_path, uid)
        one.env['RTLAUNCH_PLUGINS'] = str(plugins)
        yield one
        return
    (tmp_path / 'node').mkdir()
    (tmp_path / 'node').chmod(0o755)
    node = Daemon(programs, tmp_path / 'node', options=['--plugins', str(plugins)]).start()
    yield through(node, tmp_path, uid)
    node.stop()


def a_jar(way):
    jar = way.make_dir('jars') / 'seen.jar'
    with zipfile.ZipFile(jar, 'w') as made:
        made.writestr(zipfile.ZipInfo('seen/word.txt'), 'seen')
    return way.own(jar)


def values(way):
    return {
        'pip': ['idna==3.7'],
        'working_dir': str(way.make_files('work', {'data.txt': 'seven'})),
        'py_modules': [str(way.make_files('modules/helper', {'__init__.py': 'WORD = "helped"\n'}))],
        'java_jars': [str(a_jar(way))],
        'env_vars': {'LEVEL': '3'},
        'dataset': {'files': {'a.txt': 'text'}},
    }


def check_all(way, base, fields, python):
    have = values(way)
    for count in range(len(fields) + 1):
        for asked in itertools.combinations(fields, count):
            env = {**base, **{name: have[name] for name in asked}}
            seen = json.loads(way.ok('--runtime-env', json.dumps(env), '--', python, '-c', LOOK))
            wanted = {name.removesuffix('_uri'): True for name in [*base, *asked]}
            assert seen == {**dict.fromkeys(seen, False), **wanted}, asked


def test_on_the_host(way):
    check_all(way, {}, FIELDS, 'python3')


def test_in_an_image(way, image):  # noqa: F811
    check_all(way, {'image_uri': image.uri}, FIELDS, 'python3')


def test_in_a_conda_environment(way, channel):  # noqa: F811
    conda_env = {'channels': [str(channel)], 'dependencies': ['one']}
    check_all(way, {'conda': conda_env}, FIELDS[1:], 'python')
    with_pip = {**conda_env, 'dependencies': ['one', {'pip': ['idna==3.7']}]}
    seen = json.loads(way.ok('--runtime-env', json.dumps({'conda': with_pip}), '--', 'python', '-c', LOOK))
    assert seen['pip'] and seen['conda']


@pytest.mark.parametrize('pair', [('pip', 'uv'), ('conda', 'pip'), ('conda', 'uv'), ('conda', 'image_uri'), ('container', 'image_uri')])
def test_what_can_not_go_together_is_refused(way, image, channel, pair):  # noqa: F811
    have = {'pip': ['idna'], 'uv': ['idna'], 'conda': {'channels': [str(channel)], 'dependencies': ['one']}, 'image_uri': image.uri,
            'container': {'image': image.uri}}
    said = way.fails('--runtime-env', json.dumps({name: have[name] for name in pair}), '--', 'true')
    assert all(name in said for name in pair), said
