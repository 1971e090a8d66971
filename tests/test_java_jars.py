"""java_jars: a real JVM finds its classes in them, on the host and in an image, embedded and through the daemon."""

import json
import os
import shutil
import zipfile

import pytest

from conftest import PLAIN_UID
from daemon_support import daemon, stopped_daemon  # noqa: F401
from image_support import Image, programs_of
from java_support import compiled, java_files, make_jar, open_to_all
from nothing_left import nothing_left
from test_image import make_embedded, way  # noqa: F401

SEEN = '''package io.example;
public class Seen {
  public static void main(String[] args) throws Exception {
    System.out.println(Seen.class.getProtectionDomain().getCodeSource().getLocation().getPath());
    System.out.println(new String(Seen.class.getResourceAsStream("/words/word.txt").readAllBytes()));
  }
}
'''
JAVA = ['java', '-XX:+UseSerialGC', '-Xshare:auto']


@pytest.fixture(scope='session')
def jars(tmp_path_factory):
    """seen.jar and words.jar: the one's class reads what the other has."""
    folder = tmp_path_factory.mktemp('jars')
    make_jar(folder / 'seen.jar', compiled(folder, SEEN))
    make_jar(folder / 'words.jar', {'words/word.txt': 'of the other'})
    open_to_all(folder)
    return folder


def run_java(way, jars, *more, env=None):  # noqa: F811
    return way.ok('--runtime-env', json.dumps({'java_jars': jars}), *more, '--', *JAVA, 'io.example.Seen', env=env).splitlines()


def test_a_jvm_finds_its_classes(way, jars, tmp_path):  # noqa: F811
    """As jars, as jars in a zip, in a folder, and in place; with the caller's own class path behind them."""
    place, word = run_java(way, [str(jars / 'seen.jar'), f'file://{jars}/words.jar'])
    assert (place, word) == ('/tmp/rtlaunch/java_jars/0/', 'of the other')
    ball = tmp_path / 'ball.zip'
    with zipfile.ZipFile(ball, 'w') as made:
        for name in ('seen.jar', 'words.jar'):
            made.write(jars / name, f'lib/{name}')
    ball.chmod(0o644)
    assert run_java(way, [f'file://{ball}']) == ['/tmp/rtlaunch/java_jars/0/seen.jar', 'of the other']
    folder = way.make_dir('lib')
    for name in ('seen.jar', 'words.jar'):
        shutil.copy(jars / name, folder / name)
    (folder / '.gitignore').write_text('*.jar\n')
    assert run_java(way, [str(folder)]) == ['/tmp/rtlaunch/java_jars/0/seen.jar', 'of the other']
    assert run_java(way, [f'local://{folder}'])[0] == f'{folder}/seen.jar'
    relative = ('--runtime-env', json.dumps({'java_jars': ['lib/seen.jar', './lib/words.jar']}), '--', *JAVA, 'io.example.Seen')
    assert way.ok(*relative, cwd=way.folder).splitlines()[1] == 'of the other'
    shutil.copy(jars / 'words.jar', way.home)
    assert run_java(way, [str(jars / 'seen.jar')], '--env', f'CLASSPATH={way.home}/words.jar')[1] == 'of the other'
    classes = way.make_files('classes', {'words/word.txt': 'where it starts'})
    assert run_java(way, [str(jars / 'seen.jar')], '--working-dir', str(classes))[1] == 'where it starts'


def test_what_is_no_jar_is_told(way, tmp_path):  # noqa: F811
    jar, text = way.make_dir('bad') / 'bad.jar', way.make_dir('bad') / 'notes.txt'
    jar.write_text('this is no zip')
    text.write_text('x')
    for path, reason in ((jar, 'not a zip file'), (text, 'not an archive we know'), (jar.parent / 'gone.jar', 'No such file')):
        with nothing_left(way):
            said = way.fails('--runtime-env', json.dumps({'java_jars': [str(path)]}), '--', 'true')
        assert str(path) in said and reason in said, said
        assert 'java_jars' in said or path == jar, said


@pytest.fixture(scope='session')
def image_with_java(tmp_path_factory):
    """The host's JVM in an image of its own: other files, another user's folder."""
    folder = tmp_path_factory.mktemp('java-image')
    folder.chmod(0o755)
    made = Image(folder, Env=['PATH=/usr/bin:/bin'], WorkingDir='/')
    made.layer({**programs_of('/bin/true'), **java_files()})
    return made.write()


def test_in_an_image(way, jars, image_with_java):  # noqa: F811
    place, word = run_java(way, [str(jars / 'seen.jar'), str(jars / 'words.jar')], '--image', image_with_java.uri)
    assert (place, word) == ('/rtlaunch/java_jars/0/', 'of the other')


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can start rtlaunchd')
def test_beside_a_ray(daemon, jars):  # noqa: F811
    """With profile ray they lie in what covers the store, as modules and plugins do."""
    rt = daemon.launcher(PLAIN_UID)
    place, word = run_java(rt, [str(jars / 'seen.jar'), str(jars / 'words.jar')], '--profile', 'ray')
    assert place.endswith('/java_jars/0/') and word == 'of the other'
