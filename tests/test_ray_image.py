"""`image_uri` and `container` under a real Ray: workers in an OCI image, by the image's own Python, with this
node's Ray where the image has none; alone and with the other fields."""

import json
import os
import pathlib
import shutil
import subprocess
import sysconfig

import pytest

from image_support import Image, programs_of
from daemon_support import Daemon
from ray_support import VENV, image_python, our_node, our_node_either_way, ray_daemon, ray_programs  # noqa: F401 (fixtures)

VERSION = sysconfig.get_python_version()
SAID = """
        def said(env, **more):
            try:
                return str(ray.get(ray.remote(lambda: 'ran').options(runtime_env=env).remote(), timeout=60))
            except ray.exceptions.RuntimeEnvSetupError as error:
                return str(error)"""


@pytest.fixture(scope='module')
def image(ray_programs, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp('images')
    folder.chmod(0o755)
    made = Image(folder / 'own', Env=['PATH=/opt/py/bin:/bin', 'LEVEL=image'], WorkingDir='/srv/app', User='1001')
    made.layer(image_python(ray_programs), packed=False)
    return made.layer({'etc/marker': 'of the image', 'srv/app/hello': 'hello'}).write()


@pytest.fixture(scope='module', params=['daemon', 'embedded'])
def one(request, ray_programs, tmp_path_factory):  # noqa: F811
    with our_node_either_way(request, ray_programs, tmp_path_factory) as made:
        yield made


def test_an_image_with_a_python_and_without_ray(one, image):
    """Its files and its Python, not the host's; Ray is the node's; objects go by shared memory both ways."""
    (one.folder / 'of-the-host').write_text('')
    env = {'image_uri': image.uri, 'env_vars': {'LEVEL': '${LEVEL}-and-more', 'PATH': '/extra:${PATH}', 'QUOTED': '$(touch /tmp/x) "\'$'}}
    found = one.drive(f'''
        connect(runtime_env={{'env_vars': {{'OF_THE_JOB': '1'}}}})
        @ray.remote(runtime_env={env!r}, num_cpus=0)
        class Actor:
            def look(self, data):
                names = ['LEVEL', 'PATH', 'QUOTED', 'OF_THE_JOB', 'HOME']
                return {{'marker': open('/etc/marker').read(), 'cwd': [os.getcwd(), *os.listdir()], 'prefix': sys.prefix,
                        'ray': [ray.__version__, ray.__file__], 'env': [os.environ.get(name) for name in names],
                        'host': [os.path.exists(path) for path in ({str(one.folder / 'of-the-host')!r}, {str(VENV / 'bin/python')!r}, '/etc/passwd')],
                        'sum': sum(data), 'pid': os.getpid(), 'uid': os.getuid(), 'more': bytes(10**6),
                        'session': ray.get_runtime_context().get_job_id()}}
            def nested(self):
                return ray.get(ray.remote(lambda: open('/etc/marker').read()).remote())
        actor = Actor.remote()
        seen = ray.get(actor.look.remote(bytes([1]) * 10**6), timeout=60)
        os.kill(seen['pid'], 0)
        assert seen.pop('more') == bytes(10**6) and seen['session'] == ray.get_runtime_context().get_job_id()
        nested = ray.get(actor.nested.remote(), timeout=60)
        ray.kill(actor)
        until(lambda: not os.path.exists(f"/proc/{{seen['pid']}}"))
        answer([seen, nested])''')
    seen, nested = found
    assert seen['marker'] == nested == 'of the image' and seen['cwd'] == ['/srv/app', 'hello']
    assert seen['prefix'] == '/opt/py' and seen['uid'] == os.getuid()
    assert seen['ray'][0] == '2.60.0' and seen['ray'][1].startswith('/opt/py/')
    assert seen['env'] == ['image-and-more', '/extra:/opt/py/bin:/bin', '$(touch /tmp/x) "\'$', '1', '/']
    assert seen['host'] == [False, False, False] and seen['sum'] == 10**6
    assert not os.path.exists('/tmp/x')


LOOK = '''
        @ray.remote
        def look():
            import idna
            open('written', 'w').write('x')
            return [idna.__version__, idna.__file__, open('main.txt').read(), os.environ['LEVEL'], open('/etc/marker').read(), ray.__version__]'''


def test_with_pip_working_dir_and_variables_on_top(one, image, tmp_path):
    """In one dict by a name that Ray's driver passes on; or a task's image in a job that has the rest."""
    (tmp_path / 'main.txt').write_text('of the job')
    rest = {'pip': ['idna==3.7'], 'working_dir': str(tmp_path), 'env_vars': {'LEVEL': '${LEVEL}!'}}
    whole = one.drive(f'''
        connect(runtime_env={ {'rtlaunch_image': image.uri, **rest}!r}){LOOK}
        answer(ray.get(look.remote(), timeout=120))''')
    inherited = one.drive(f'''
        connect(runtime_env={rest!r}){LOOK}
        answer(ray.get(look.options(runtime_env={ {'image_uri': image.uri}!r}).remote(), timeout=120))''')
    assert whole == inherited
    version, file, text, level, marker, ray_version = whole
    assert version == '3.7' and file.startswith('/opt/py/') and text == 'of the job' and level == 'image!'
    assert marker == 'of the image' and ray_version == '2.60.0'
    assert os.listdir(tmp_path) == ['main.txt']


def test_container_is_the_older_word(one, image):
    env = {'container': {'image': image.uri, 'run_options': ['--cap-drop=ALL']}}
    wrong = {'container': {'image': image.uri, 'run_options': ['--gpus=all']}}
    ran, refused = one.drive(f'''
        connect(){SAID}
        marker = ray.remote(lambda: open('/etc/marker').read()).options(runtime_env={env!r})
        answer([ray.get(marker.remote(), timeout=60), said({wrong!r})])''')
    assert ran == 'of the image' and 'container.run_options[0]' in refused and 'podman' in refused


@pytest.mark.parametrize('one', ['embedded'], indirect=True)
def test_a_python_of_the_images_by_name(one, image):
    env = {'rtlaunch_image': image.uri, 'py_executable': f'/opt/py/bin/python{VERSION} -X dev'}
    nowhere, forks = {**env, 'py_executable': '/opt/py/bin/python9'}, {**env, 'py_executable': 'uv run --isolated'}
    flags, lacking, refused = one.drive(f'''
        connect(){SAID}
        flags = ray.remote(lambda: [sys.executable, sys.flags.dev_mode]).options(runtime_env={env!r})
        answer([ray.get(flags.remote(), timeout=60), said({nowhere!r}), said({forks!r})])''')
    assert flags == [f'/opt/py/bin/python{VERSION}', True]
    assert 'the image has no such Python' in lacking and 'with an image that can\'t be' in refused


CLOSURE = """
import json, re
from importlib import metadata
found, wanted, files = set(), ['ray'], []
while wanted:
    name = re.sub(r'[-_.]+', '-', wanted.pop()).lower()
    if name in found:
        continue
    found.add(name)
    try:
        dist = metadata.distribution(name)
    except metadata.PackageNotFoundError:   # for another Python
        continue
    files += [str(dist.locate_file(file)) for file in dist.files]
    wanted += [re.match(r'[\\w.-]+', line)[0] for line in dist.requires or [] if not re.search(r';.*extra', line)]
print(json.dumps(files))
"""


@pytest.fixture(scope='module')
def image_with_ray(image, tmp_path_factory):
    """With Ray as pip has installed it, what it requires, and a mark in it."""
    site, inside = f'{VENV}/lib/python{VERSION}/site-packages/', f'opt/py/local/lib/python{VERSION}/dist-packages/'
    listed = subprocess.run([VENV / 'bin/python', '-c', CLOSURE], capture_output=True, text=True, check=True).stdout
    files = {name.replace(site, inside): pathlib.Path(name) for name in json.loads(listed)
             if name.startswith(site) and '/ray/jars/' not in name and '..' not in name and os.path.isfile(name)}
    assert f'{inside}ray/_raylet.so' in files
    return derived(image, tmp_path_factory.mktemp('with-ray') / 'own', {**files, f'{inside}ray/mark.txt': 'of the image'})


def derived(image, folder, more):
    folder.parent.chmod(0o755)
    made = Image(folder, Env=['PATH=/opt/py/bin:/bin'])
    made.layers = [image.layers[0]]
    shutil.copytree(image.folder, folder, copy_function=os.link)
    for name in ('index.json', 'oci-layout'):
        (folder / name).unlink()
    return made.layer(more, packed=False).write()


@pytest.mark.parametrize('one', ['embedded'], indirect=True)
def test_an_image_that_has_ray_of_its_own(one, image, image_with_ray):
    """Its own is run, and nothing of the node's is mounted over it; where it has none, as the control shows, that is."""
    script = """
        def look():
            mark = os.path.dirname(ray.__file__) + '/mark.txt'
            return [ray.__file__, os.path.exists(mark), any(line.split()[4].endswith('-packages/ray') for line in open('/proc/self/mountinfo'))]
        connect()
        looked = ray.remote(look)
        answer([ray.get(looked.options(runtime_env={'image_uri': uri}).remote(), timeout=90) for uri in URIS])"""
    own, brought = one.drive(script.replace('URIS', repr([image_with_ray.uri, image.uri])))
    folder = f'/opt/py/local/lib/python{VERSION}/dist-packages/ray/__init__.py'
    assert own == [folder, True, False] and brought == [folder, False, True]


@pytest.mark.parametrize('one', ['embedded'], indirect=True)
def test_what_can_not_be_is_said(one, image, ray_programs, tmp_path):  # noqa: F811
    """Each before a worker is started, in a few lines: a cause and a cure."""
    tmp_path.chmod(0o755)
    shell = Image(tmp_path / 'shell').layer({**programs_of('/bin/sh'), 'bin/sh': pathlib.Path(os.path.realpath('/bin/sh'))}).write()
    images = {}
    site = f'opt/py/local/lib/python{VERSION}/dist-packages'
    for name, more in {
            'minor': {f'opt/py/lib/python{VERSION}/sitecustomize.py': "import platform\nplatform.python_version = lambda: '3.9.1'\n"},
            'ray': {f'{site}/ray/__init__.py': "__version__ = '2.9.0'\n"},
            'old': {f'{site}/msgpack.py': 'raise ImportError("an old one")\n', f'{site}/msgpack-0.1.dist-info/METADATA': 'Name: msgpack\nVersion: 0.1\n'},
    }.items():
        images[name] = derived(image, tmp_path / name, more)
    wanted = {
        shell.uri: 'the image has no Python',
        images['minor'].uri: f"the image has Python 3.9.1, and this node's Ray {VERSION}.",
        images['ray'].uri: 'the image has Ray 2.9.0, and this node 2.60.0',
        images['old'].uri: "this node's Ray can't be imported in the image: ImportError: an old one",
        'oci:/nowhere/at/all': '/nowhere/at/all',
        'docker://127.0.0.1:1/none:1': '127.0.0.1:1',
    }
    texts = one.drive(f'''
        connect(){SAID}
        answer([said({{'image_uri': uri}}) for uri in {list(wanted)!r}])''')
    for (uri, text), said in zip(wanted.items(), texts):
        assert text in said and len(said.splitlines()) <= 10 and 'Traceback' not in said, (uri, said)
    with_conda = one.drive(f'''
        connect(){SAID}
        answer(said({ {'rtlaunch_image': image.uri, 'conda': {'dependencies': ['x']}}!r}))''')
    assert 'conda' in with_conda and 'leave one of them out' in with_conda


def test_a_jobs_rule_holds_for_who_looks_into_its_image(ray_programs, image, tmp_path_factory):  # noqa: F811
    """Else its workers alone would be refused, and its tasks wait for them for ever."""
    folder = tmp_path_factory.mktemp('ruled')
    folder.chmod(0o755)
    rules = [{'name': 'no-images', 'if': {'job': ['ray-0*']}, 'allow': {'images': []}}]
    (folder / 'policy.json').write_text(json.dumps({'version': 1, 'rules': rules}))
    daemon = Daemon(ray_programs, folder, options=['--policy', str(folder / 'policy.json')]).start()
    try:
        with our_node(ray_programs, daemon) as node:
            told = node.drive(f'''
        connect(){SAID}
        answer(said({{'image_uri': {image.uri!r}}}))''')
    finally:
        daemon.stop()
    assert 'image' in told and 'policy' in told, told
