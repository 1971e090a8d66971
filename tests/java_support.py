"""Jars for tests, with classes that are compiled here."""

import os
import pathlib
import re
import shutil
import subprocess
import zipfile

import pytest

from image_support import Link, programs_of


def open_to_all(path):
    for folder in [path, *path.parents][:-2]:
        folder.chmod(0o755)


def make_jar(path, files):
    with zipfile.ZipFile(path, 'w') as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def java_files():
    """The host's JVM, for an image."""
    if not shutil.which('java'):
        pytest.skip('no java: tools/setup installs openjdk-17-jdk-headless')
    home = pathlib.Path(os.path.realpath('/usr/bin/java')).parent.parent
    files = {str(path)[1:]: path for path in home.rglob('*') if path.is_file() and path.suffix not in ('.jsa', '.jmod')
             and path.name != 'src.zip'}
    for path in [*home.glob('lib/*.so'), *home.glob('lib/server/*.so'), home / 'bin/java']:
        files.update({os.path.normpath(name): file for name, file in programs_of(str(path)).items() if '.so' in name})
    # The JDK's own settings lie below /etc, and it reads them through links.
    for etc in pathlib.Path('/etc').glob('java-*-openjdk'):
        files.update({str(path)[1:]: path for path in etc.rglob('*') if path.is_file()})
    return {**files, 'usr/bin/java': Link(str(home / 'bin/java'))}


def compiled(folder, source):
    """Name in a jar → bytes, of the one class that the text has."""
    if not shutil.which('javac'):
        pytest.skip('no javac: tools/setup installs openjdk-17-jdk-headless')
    package, name = re.search(r'package (\S+);', source)[1], re.search(r'class (\w+)', source)[1]
    (folder / f'{name}.java').write_text(source)
    subprocess.run(['javac', '--release', '11', '-d', folder / 'out', folder / f'{name}.java'], check=True)
    inside = f'{package.replace(".", "/")}/{name}.class'
    return {inside: (folder / 'out' / inside).read_bytes()}
