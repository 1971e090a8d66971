"""Workers that are no Python: a JVM, in the same sandbox, with its jars from a runtime env."""

import os
import zipfile

import pytest

from image_support import Image
from java_support import compiled, java_files, make_jar, open_to_all
from ray_support import either, image_python, ours, ray_daemon, ray_programs, stock  # noqa: F401 (fixtures)

CLASS = '''package io.rtlaunch.tests;
public class Seen {
  public static String seen(String name) throws Exception {
    String text = "none";
    java.nio.file.Path data = java.nio.file.Path.of("data.txt");
    if (java.nio.file.Files.exists(data)) text = java.nio.file.Files.readString(data);
    return String.join("|", name, System.getProperty("user.dir"), String.valueOf(ProcessHandle.current().pid()),
                       String.valueOf(System.getenv("A")), text,
                       Seen.class.getProtectionDomain().getCodeSource().getLocation().getPath());
  }
}
'''


@pytest.fixture(scope='module')
def jar(tmp_path_factory):
    folder = tmp_path_factory.mktemp('java')
    open_to_all(folder)
    return make_jar(folder / 'seen.jar', compiled(folder, CLASS))


def call(one, env, code=('/nowhere',)):
    """What a Java function saw, and what its process looked like from outside. Ray wants a path to code of
    every driver that calls another language."""
    name, folder, pid, variable, data, place, command = one.drive(f'''
        import ray.cross_language
        from ray.job_config import JobConfig
        connect(job_config=JobConfig(code_search_path={list(map(str, code))!r}, runtime_env={env!r}))
        seen = ray.get(ray.cross_language.java_function('io.rtlaunch.tests.Seen', 'seen').remote('it'), timeout=90)
        parts = seen.split('|')
        answer(parts + [open(f'/proc/{{parts[2]}}/cmdline').read().split(chr(0))[0]])''', timeout=120)
    assert name == 'it' and command.split('/')[-1] == 'java', command
    return folder, variable, data, place


def test_a_java_worker_has_the_fields_of_its_env(either, jar, tmp_path):  # noqa: F811
    (tmp_path / 'data.txt').write_text('seven')
    folder, variable, data, _ = call(either, {'working_dir': str(tmp_path), 'env_vars': {'A': 'a'}}, [jar.parent])
    assert '/working_dir_files/' in folder and (variable, data) == ('a', 'seven')


def test_a_jar_by_its_uri(ours, jar):  # noqa: F811
    _, _, _, place = call(ours, {'java_jars': [f'file://{jar}'], 'env_vars': {'A': 'a'}})
    assert '/runtime_resources/java_jars_files/file_' in place


def test_a_jar_in_a_zip_beside_packages_and_a_working_dir(ours, jar, tmp_path):  # noqa: F811
    ball = tmp_path / 'ball.zip'
    with zipfile.ZipFile(ball, 'w') as made:
        made.write(jar, 'seen.jar')
        made.writestr('README', 'jars')
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'data.txt').write_text('eight')
    _, _, data, place = call(ours, {'java_jars': [f'file://{ball}'], 'working_dir': str(work), 'pip': ['emoji==2.2.0']})
    assert place.endswith('/seen.jar') and '/java_jars_files/' in place and data == 'eight'
    assert os.listdir(ours.session / 'runtime_resources/java_jars_files')
    assert not list((ours.session / 'runtime_resources/java_jars_files').rglob('*.jar')), 'the store has it'


@pytest.fixture(scope='module')
def image(ray_programs, tmp_path_factory):  # noqa: F811
    """A Python and a JVM, without Ray, whose jars are the node's."""
    folder = tmp_path_factory.mktemp('image')
    folder.chmod(0o755)
    made = Image(folder / 'own', Env=['PATH=/opt/py/bin:/usr/bin:/bin', 'A=image'], WorkingDir='/')
    return made.layer({**image_python(ray_programs), **java_files(), 'srv/data.txt': 'of the image'}, packed=False).write()


def test_a_java_worker_in_an_image(ours, image, jar, tmp_path):  # noqa: F811
    """Its JVM is the image's, and its jars and working_dir are the environment's."""
    (tmp_path / 'data.txt').write_text('nine')
    env = {'rtlaunch_image': image.uri, 'java_jars': [f'file://{jar}'], 'working_dir': str(tmp_path), 'env_vars': {'A': '${A} and more'}}
    folder, variable, data, place = call(ours, env)
    assert variable == 'image and more' and data == 'nine' and '/java_jars_files/' in place and '/working_dir_files/' in folder
    assert not told_of_no_java(ours)


def told_of_no_java(one):
    return any('the image has no `java`' in text for text in one.logs().values())


def test_an_image_without_a_jvm_is_told(ours, ray_programs, jar, tmp_path):  # noqa: F811
    """Workers of Python start in it all the same."""
    open_to_all(tmp_path)
    image = Image(tmp_path / 'own', Env=['PATH=/opt/py/bin:/bin']).layer(image_python(ray_programs), packed=False).write()
    env = {'rtlaunch_image': image.uri, 'java_jars': [f'file://{jar}']}
    assert ours.drive(f'''
        connect(runtime_env={env!r})
        answer(ray.get(ray.remote(lambda: 'ran').remote(), timeout=90))''') == 'ran'
    assert told_of_no_java(ours)
