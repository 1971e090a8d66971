"""The channel of the tests of conda, and what solving needs beside the programs."""

import shutil
import subprocess

import pytest

from conda_support import PLACEHOLDER, Channel, Link
from conftest import BIN

PROGRAM = '''#include <stdio.h>
int main() {
  static const char path[] = "PLACEHOLDER/share/word";
  char word[64] = "";
  FILE* file = fopen(path, "r");
  if (file != NULL) fgets(word, sizeof word, file);
  printf("%s %s", path, word);
  return 0;
}
'''


@pytest.fixture(scope='session')
def conda(programs):
    """What solving needs, beside the programs."""
    shutil.copy(BIN / 'rtlaunch-conda.py', programs)
    shutil.copytree(BIN / 'rattler', programs / 'rattler', dirs_exist_ok=True)
    return programs


@pytest.fixture(scope='session')
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp('compiled')
    (folder / 'main.c').write_text(PROGRAM.replace('PLACEHOLDER', PLACEHOLDER))
    subprocess.run(['gcc', '-static', '-o', folder / 'main', folder / 'main.c'], check=True)
    return (folder / 'main').read_bytes()


@pytest.fixture(scope='session')
def channel(conda, compiled, tmp_path_factory):
    folder = tmp_path_factory.mktemp('channel')
    folder.chmod(0o755)
    made = Channel(folder / 'own')
    made.add_python()
    made.add('one', '1.0', {'site-packages/one.py': 'WORD = "first"\ndef main():\n    print("one says", WORD)\n'},
             ['python'], noarch='python', entry_points=['say-one = one:main'])
    made.add('two', '2.0', {'site-packages/two/__init__.py': 'import one\nWORD = one.WORD * 2\n',
                            'python-scripts/say-two': f'#!{PLACEHOLDER}/bin/python\nimport two\nprint(two.WORD)\n'},
             ['python', 'one >=1'], noarch='python', ending='.tar.bz2')
    made.add('tool', '3', {'bin/tool': compiled, 'share/word': 'found\n', 'share/also': Link('word'),
                           'etc/tool.conf': f'root={PLACEHOLDER}/share\n'}, binary=['bin/tool'], build='h1_0')
    made.add('scripted', '1', {'bin/.scripted-post-link.sh':
                               'echo "$PKG_NAME $PKG_VERSION $PREFIX" > "$PREFIX/share/linked"\n'
                               'tool > "$PREFIX/share/seen"\necho "read this" > "$PREFIX/.messages.txt"\n'}, ['tool'])
    made.add('broken', '1', {'bin/.broken-post-link.sh': 'echo "it went wrong" >&2; exit 3\n'})
    made.add('active', '1', {'etc/conda/activate.d/active.sh': 'export ACTIVE="$CONDA_PREFIX/active"\n'})
    made.add('lib', '1')
    made.add('lib', '2')
    made.add('needs-old', '1', depends=['lib <2'])
    made.add('needs-new', '1', depends=['lib >=2'])
    return made
