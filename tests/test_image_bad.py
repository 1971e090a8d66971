"""Images that are wrong, each a clear error that leaves nothing behind; and those that only look so, as other tools make them."""

import bz2
import json
import lzma
import os
import pathlib
import random
import struct
import subprocess
import tarfile

import pytest

from conda_support import zstd
from daemon_support import daemon, stopped_daemon  # noqa: F401
from image_support import ARCHITECTURE, Image, Link, Registry, Special, digest, programs_of, tar_of
from nothing_left import nothing_left
from test_image import make_embedded, way  # noqa: F401

OTHER = {'architecture': 's390x', 'os': 'linux'}
OURS = {'architecture': ARCHITECTURE, 'os': 'linux'}


def small(folder, files=None, **run):
    return Image(folder, **run).layer(files or {'a': 'b'})


def changed(**changes):
    return lambda folder: small(folder).write(**changes)


def of_run(**run):
    return lambda folder: small(folder, **run).write()


def of_layer(files, **more):
    return lambda folder: Image(folder).layer(files, **more).write()


def without_blob(number):
    def make(folder):
        made = small(folder).layer({'c': 'd'}).write()
        made.blob_of(number).unlink()
        return made
    return make


def damaged(what):
    """A blob with another content than its name says."""
    def make(folder):
        made = small(folder, {'a': 'wrong'}).write()
        manifest = json.loads((made.folder / 'blobs/sha256' / made.listed['digest'][7:]).read_text())
        name = {'layer': manifest['layers'][0], 'config': manifest['config'], 'manifest': made.listed}[what]['digest']
        (made.folder / 'blobs/sha256' / name[7:]).write_bytes(tar_of({'a': 'evil'}))
        return made
    return make


def listed(*platforms, **more):
    """An index of so many images."""
    def make(folder):
        made, entries = small(folder).write(), []
        for number, platform in enumerate(platforms):
            one = Image(folder).layer({'number': str(number)}).write()
            entries.append({**one.listed, 'annotations': {'org.opencontainers.image.ref.name': f'v{number}'}, **({'platform': platform} if platform else {})})
        return made.index(entries, **more)
    return make


def no_document(text):
    def make(folder):
        made = small(folder).write()
        (made.folder / 'index.json').write_text(text)
        return made
    return make


def schema_1(folder):
    made = small(folder).write()
    old = made.put(json.dumps({'schemaVersion': 1, 'name': 'a', 'tag': '1', 'fsLayers': [{'blobSum': digest(b'x')}], 'history': []}).encode())
    return made.index([{'mediaType': 'application/vnd.docker.distribution.manifest.v1+prettyjws', **old}])


def foreign(folder):
    made = small(folder).layer({'c': 'd'}, kind='application/vnd.docker.image.rootfs.foreign.diff.tar.gzip').write()
    made.blob_of(1).unlink()
    return made


def hard(name, target):
    return {name: Special(type=tarfile.LNKTYPE, linkname=target)}


def two_layers(first, second):
    return lambda folder: Image(folder).layer(first).layer(second).write()


BAD = {
    'of another machine': (lambda folder: Image(folder, architecture='s390x').layer({'a': 'b'}).write(), 'is for s390x, this machine is'),
    'listed for other machines': (listed(OTHER, {**OTHER, 'architecture': 'ppc64le'}), 'is for s390x, ppc64le, this machine is'),
    'of another system': (listed({**OURS, 'os': 'windows'}), f'is for windows/{ARCHITECTURE}, this machine is'),
    'layer missing': (without_blob(1), 'its layer 2 of 2 is missing'),
    'foreign layer': (foreign, 'no registry hands it out'),
    'layer damaged': (damaged('layer'), 'layer 1 of 1 has another digest than its name says'),
    'config damaged': (damaged('config'), 'its config has another digest'),
    'manifest damaged': (damaged('manifest'), 'its manifest has another digest'),
    'lying diffID': (changed(config_changes={'rootfs': {'diff_ids': [digest(b'x')]}}), 'is another than the config says'),
    'fewer layers than said': (changed(config_changes={'rootfs': {'diff_ids': [digest(b'x'), digest(b'y')]}}), 'a layer is missing'),
    'digest of another kind': (changed(manifest_changes={'layers': [{'digest': 'sha512:' + '0' * 128}]}), 'a digest that is no SHA-256'),
    'indexes without an end': (lambda folder: listed(None)(folder).index([small(folder).write().listed], nested=9), 'without an end'),
    'two images': (listed(None, None), 'holds several images'),
    'two images of ours': (listed(OURS, OURS), 'holds several images'),
    'no image listed': (no_document('{"manifests": []}'), 'lists no image'),
    'no JSON': (no_document('nothing'), 'not valid JSON'),
    'schema 1': (schema_1, "of Docker's schema 1"),
    'no image at all': (changed(config_changes={'architecture': ''}), 'is it an image to run?'),
    'encrypted': (of_layer({'a': 'b'}, kind='application/vnd.oci.image.layer.v1.tar+gzip+encrypted'), 'is encrypted'),
    'no layers': (lambda folder: Image(folder).write(), 'has no layers'),
    'no archive': (of_layer(b'this is no archive' * 100), 'layer 1 of 1: '),
    'cut short': (of_layer(tar_of({'a': os.urandom(9000)}), packed=lambda tar: bz2.compress(tar)[:-2000]), 'layer 1 of 1: '),
    'long name': (of_layer({'x' * 300: 'y'}), 'a name is over 255 bytes'),
    'leads out': (of_layer({'../out': 'y'}), 'leads out of the image'),
    'whiteout of nothing': (of_layer({'etc/.wh.': ''}), 'a whiteout of nothing'),
    'below a link': (of_layer({'way': Link('/etc'), 'way/planted': 'x'}), 'a link, and something lies below it'),
    "link to another layer's file": (two_layers({'a': 'b'}, hard('c', 'a')), 'no file of the same layer'),
    'link to a whiteout': (of_layer({'.wh.a': '', **hard('c', '.wh.a')}), 'no file of the same layer'),
    'user is not there': (of_run(User='nobody-there'), "isn't in its /etc/passwd"),
    'group is not there': (of_run(User='0:nobody-there'), "isn't in its /etc/group"),
    'user is a number': (of_run(User=1000), '`config.User` is no text'),
    'variables are an object': (of_run(Env={'A': 'b'}), '`config.Env` is no list of strings'),
    'variables are a text': (of_run(Env='A=b'), '`config.Env` is no list of strings'),
    'folder is relative': (of_run(WorkingDir='srv'), '`config.WorkingDir` is no absolute path'),
}
# What was whole before the wrong was met stays, as the next try begins there.
KEPT = {"link to another layer's file": ['layer 1 of 2'], 'user is not there': ['layer 1 of 1'], 'group is not there': ['layer 1 of 1']}


@pytest.mark.parametrize('way', ['embedded root', 'daemon user'], indirect=True)
@pytest.mark.parametrize('kind', BAD)
def test_what_is_wrong_is_told_and_nothing_is_left(way, tmp_path, kind):  # noqa: F811
    make, words = BAD[kind]
    (tmp_path / 'bad').mkdir(mode=0o755)
    image = make(tmp_path / 'bad')
    with nothing_left(way, but=KEPT.get(kind, ())):
        said = way.fails('--image', image.uri, '--', 'true')
    assert words in said and image.uri in said, said


@pytest.mark.parametrize('way', ['embedded root', 'embedded user', 'daemon user'], indirect=True)
def test_names_of_nothing(way, tmp_path):  # noqa: F811
    """No such folder, image in it, archive, transport, registry, or image of a registry's."""
    small(tmp_path / 'good').write()
    (tmp_path / 'junk.tar').write_text('junk')
    registry = Registry(small(tmp_path / 'served').write(), 'team/tool')
    env = registry.configure(way.make_dir('registry'))
    for uri, words in {f'oci:{tmp_path}/nowhere': 'No such file', f'oci:{tmp_path}/good:v9': 'no image called `v9`', f'dir:{tmp_path}': 'manifest.json',
                       f'oci-archive:{tmp_path}/gone.tar': 'No such file', f'docker-archive:{tmp_path}/junk.tar': 'junk.tar',
                       'containers-storage:/a/b': 'no transport that is known', f'{registry.at}/team/other:1': 'check its name and tag',
                       f'docker://{registry.at}/team/tool@{digest(b"x")}': 'check its name and tag', '127.0.0.1:9/a:1': '127.0.0.1:9',
                       'no such name': 'is no name of an image'}.items():
        with nothing_left(way):
            said = way.fails('--image', uri, '--', 'true', env=env)
        assert words in said, (uri, said)


def test_a_registry_that_lies(make_embedded, tmp_path):  # noqa: F811
    """Its blobs are others than it says, or stop half way."""
    rt = make_embedded(0)
    made = small(tmp_path / 'served', {'a': os.urandom(1 << 20)}).write()
    registry = Registry(made, 'team/tool')
    env, whole = registry.configure(rt.make_dir('registry')), made.blob_of(0).read_bytes()
    for blob in (whole[::-1], whole[:-1000], b''):
        made.blob_of(0).write_bytes(blob)
        with nothing_left(rt):
            said = rt.fails('--image', f'{registry.at}/team/tool:1', '--', 'true', env=env)
        assert 'team/tool' in said


def shell():
    return {**programs_of('/bin/sh', '/usr/bin/cat', '/usr/bin/ls', '/usr/bin/stat', '/usr/bin/sha256sum'), 'bin/sh': pathlib.Path(os.path.realpath('/bin/sh'))}


def chunked(tar):
    """As zstd:chunked has it: frames, and some with nothing to unpack before, between and behind."""
    nothing = struct.pack('<II', 0x184D2A50, 5) + b'hello'
    return nothing + zstd(tar[:1000]) + nothing + zstd(tar[1000:]) + nothing


def test_every_way_to_pack_a_layer(make_embedded, tmp_path):  # noqa: F811
    """And an index in an index, layers that are empty or there twice, and variants of one machine."""
    made = Image(tmp_path / 'image', Env=['PATH=/usr/bin:/bin']).layer(shell())
    made.layer({'zstd': '1'}, zstd).layer({'chunked': '2'}, chunked).layer({'bz2': '3'}, bz2.compress).layer({'xz': '4'}, lzma.compress)
    made.layer({'plain': '5'}, packed=False).layer(bytes(1024)).layer(b'').layer({'zstd': '1'}, zstd).write()
    other = {**small(tmp_path / 'image').write().listed, 'platform': {**OURS, 'variant': 'v9'}}
    made.write().index([{**made.listed, 'platform': OURS}, other], nested=2)
    rt = make_embedded(0)
    assert rt.ok('--image', made.uri, '--', 'sh', '-c', 'cd / && cat zstd chunked bz2 xz plain') == '12345'


@pytest.mark.parametrize('way', ['embedded root', 'embedded user'], indirect=True)
def test_a_layer_that_hides_all_below(way, tmp_path):  # noqa: F811
    """An opaque root, which overlayfs itself doesn't know."""
    made = Image(tmp_path / 'image', Env=['PATH=/usr/bin:/bin']).layer({'etc/old': 'x', 'gone': 'y'})
    made.layer({**shell(), '.wh..wh..opq': ''}).layer({'new': 'z'}).write()
    for _ in range(2):   # unpacked, and known
        assert way.ok('--image', made.uri, '--', 'sh', '-c', 'ls /gone /etc/old 2>/dev/null; cat /new') == 'z'
        made.layer({'more': 'x'}).write()


@pytest.mark.parametrize('form', ['--format=gnu', '--format=pax --sparse-version=0.0', '--format=pax --sparse-version=0.1', '--format=pax --sparse-version=1.0'])
def test_holes_as_tar_writes_them(make_embedded, tmp_path, form):  # noqa: F811
    with open(tmp_path / 'sparse', 'wb') as file:
        for at in (0, 3 << 20, 9 << 20):
            file.seek(at)
            file.write(random.Random(at).randbytes(5000))
        file.truncate(16 << 20)
    tar = subprocess.run(['tar', '-C', tmp_path, '--sparse', *form.split(), '-cf', '-', 'sparse'], check=True, capture_output=True).stdout
    assert len(tar) < 1 << 20
    made = Image(tmp_path / 'image', Env=['PATH=/usr/bin:/bin']).layer(shell()).layer(tar).write()
    sum_of_it, blocks = make_embedded(0).ok('--image', made.uri, '--', 'sh', '-c', 'sha256sum </sparse; stat -c %b /sparse').splitlines()
    assert sum_of_it.split()[0] == digest((tmp_path / 'sparse').read_bytes())[7:] and int(blocks) < 4096


def test_more_variables_than_a_command_can_have(make_embedded, tmp_path):  # noqa: F811
    """Thousands are fine; what the kernel takes no more is told."""
    rt = make_embedded(0)
    made = Image(tmp_path / 'many', Env=['PATH=/usr/bin:/bin', 'PATH=/bin', 'NOTHING', *(f'A{i}={i}' for i in range(5000))]).layer(shell()).write()
    assert rt.ok('--image', made.uri, '--', 'sh', '-c', 'echo $A4999 $PATH') == '4999 /bin\n'
    large = Image(tmp_path / 'large', Env=['PATH=/usr/bin:/bin', *(f'A{i}=' + 'x' * 100_000 for i in range(100))]).layer(shell()).write()
    said = rt.fails('--image', large.uri, '--', 'sh', '-c', 'true', code=126)
    assert 'rgument list too long' in said and 'fewer or shorter variables' in said, said
