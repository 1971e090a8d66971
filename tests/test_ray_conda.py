"""A conda environment as a Ray worker's, made by the agent: with the node's Python version and its Ray."""

import os

import pytest

from conda_fixtures import channel, compiled, conda  # noqa: F401
from conda_support import VERSION, Link
from ray_support import VENV, our_node_either_way, ray_daemon, ray_programs  # noqa: F401 (fixtures)


def add_ray(channel):
    """What is installed beside the node's Ray, as one package: metadata, and links to the rest."""
    site = VENV / f'lib/python{VERSION.rpartition(".")[0]}/site-packages'
    files = {}
    for path in sorted(site.iterdir()):
        name = f'site-packages/{path.name}'
        if path.name.endswith('.dist-info') and not path.name.startswith('rtlaunch'):
            files.update({f'{name}/{part}': (path / part).read_bytes() for part in ('METADATA', 'RECORD', 'INSTALLER')
                          if (path / part).exists()})
        elif not path.name.startswith(('rtlaunch', '__pycache__', 'pip', 'one', 'distutils-precedence')):
            files[name] = Link(path)
    channel.add('ray-default', '2.60.0', files, ['python'], noarch='python')


@pytest.fixture(scope='module', params=['daemon', 'embedded'])
def one(request, conda, ray_programs, channel, tmp_path_factory):
    add_ray(channel)
    with our_node_either_way(request, ray_programs, tmp_path_factory) as made:
        yield made


def test_a_worker_in_a_conda_environment(one, channel):
    env = {'conda': {'channels': [str(channel)], 'dependencies': ['one', 'ray-default', 'active']}, 'env_vars': {'A': 'b'}}
    found = one.drive(f'''
        connect(runtime_env={env!r})
        @ray.remote(num_cpus=0)
        class Actor:
            def look(self):
                import one
                return [one.WORD, sys.prefix, sys.executable, os.environ['ACTIVE'], os.environ['A'], ray.__version__]
        answer(ray.get(Actor.remote().look.remote(), timeout=120))''')
    word, prefix, executable, active, variable, version = found
    assert (word, variable, version) == ('first', 'b', '2.60.0')
    assert prefix.endswith('/conda') and executable.startswith(prefix + '/bin/python') and active == prefix + '/active'
    assert not os.path.exists(prefix + '/bin')


def test_one_that_cannot_be_made(one, channel):
    env = {'conda': {'channels': [str(channel)], 'dependencies': ['needs-old', 'needs-new']}}
    text = one.drive(f'''
        connect(runtime_env={env!r})
        try:
            answer(ray.get(ray.remote(lambda: 1).remote(), timeout=120))
        except ray.exceptions.RuntimeEnvSetupError as error:
            answer(str(error))''')
    assert 'exclude each other' in text and 'needs-old 1' in text and 'needs-new 1' in text
