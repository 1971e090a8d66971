"""conda environments that can't be, each a clear error that leaves nothing behind; and those that are written as conda's users do."""

import json

import pytest

from conda_fixtures import channel, compiled, conda  # noqa: F401
from conda_support import MINOR, Channel
from conftest import PLAIN_UID
from daemon_support import daemon, stopped_daemon  # noqa: F401
from nothing_left import nothing_left


def ask(value):
    return '--runtime-env', json.dumps({'conda': value})


LOCK = '@EXPLICIT\n'
FILES = {
    'name-only.yml': 'name: mine\n', 'prefix-only.yml': 'prefix: /opt/mine\nchannels: [x]\n', 'empty.yml': '', 'list.yml': '- one\n',
    'nothing.yml': 'dependencies:\n', 'text.yml': 'dependencies: one\n', 'nested.yml': 'dependencies: [{conda: [one]}]\n',
    'tabs.yml': 'dependencies:\n\t- one\n', 'pip.yml': 'dependencies: [python, {pip: [-r lost.txt]}]\n',
    'empty.txt': LOCK, 'ftp.txt': LOCK + 'ftp://host/linux-64/one-1-0.conda\n', 'zip.txt': LOCK + 'https://host/one-1-0.zip\n',
    'name.txt': LOCK + 'https://host/one.conda\n', 'hash.txt': LOCK + 'file:///srv/one-1-0.conda#nothing\n',
    'gone.txt': LOCK + 'file:///srv/nowhere/linux-64/one-1-0.conda\n', 'far.txt': LOCK + 'http://127.0.0.1:9/linux-64/one-1-0.conda\n',
    'twice.txt': LOCK + 'file:///srv/one-1-0.conda\nfile:///srv/one-2-0.conda\n'}
NO_PACKAGES, NO_URL = 'no packages are named', 'is no URL of a .conda or .tar.bz2 file'
BAD = {
    'name-only.yml': NO_PACKAGES, 'prefix-only.yml': NO_PACKAGES, 'empty.yml': 'expected a mapping', 'list.yml': 'expected a mapping',
    'nothing.yml': 'expected a list of packages', 'text.yml': 'expected a list of packages', 'nested.yml': 'dependencies[0]',
    'tabs.yml': 'tabs.yml:2', 'pip.yml': 'lost.txt',
    'empty.txt': 'a lock without packages', 'ftp.txt': NO_URL, 'zip.txt': NO_URL, 'name.txt': 'one.conda', 'hash.txt': 'no MD5 and no SHA-256',
    'gone.txt': '/srv/nowhere/linux-64/one-1-0.conda', 'far.txt': '127.0.0.1:9', 'twice.txt': 'is locked twice',
    'no-such.yml': 'no-such.yml', 'no-such.yaml': 'no-such.yaml'}


@pytest.fixture
def files(rt_one):
    rt_one.make_files('project', FILES)
    return rt_one


@pytest.mark.parametrize('name', BAD)
def test_a_file_that_is_wrong(files, conda, name):  # noqa: F811
    with nothing_left(files):
        said = files.fails(*ask(name), '--', 'true', cwd=files.folder / 'project')
    assert BAD[name] in said, said


@pytest.mark.parametrize('who', ['root', 'daemon user'])
@pytest.mark.parametrize('name', ['no-such-environment', '/opt/no/such/prefix', './prefix', ''])
def test_a_name_or_prefix_of_nothing(request, rt_one, who, name):
    """One that is there can be Ray's workers' alone (test_ray_run_by.py); here it is told, and what to do."""
    rt = rt_one if who == 'root' else request.getfixturevalue('daemon').launcher(PLAIN_UID)
    with nothing_left(rt):
        said = rt.fails(*ask(name), '--', 'true')
    assert 'conda' in said and (name in said if name else 'is no name, prefix or file' in said), said


@pytest.mark.parametrize('who', ['root', 'daemon user'])
def test_what_no_channel_has(request, rt_one, channel, who):  # noqa: F811
    rt = rt_one if who == 'root' else request.getfixturevalue('daemon').launcher(PLAIN_UID)
    for packages, words in [(['no-such-package-at-all'], 'no-such-package-at-all'), (['needs-old', 'needs-new'], 'exclude each other'),
                            (['one >>1'], 'one >>1'), (['one 1 2 3 4'], 'one ==1'), (['one<2>'], 'one <2 >')]:
        with nothing_left(rt):
            said = rt.fails(*ask({'channels': [str(channel)], 'dependencies': packages}), '--', 'true')
        assert words in said, said


@pytest.mark.parametrize('pin', ['one 1.0', 'one = 1.0', 'one=1.0', 'one >= 1, < 2', 'one ==1.0', 'one 1.*', 'One', 'one[version=">=1"]', 'one=1.0=0', 'one 1.0 0',
                                 '{channel}::one', ' one '])
def test_pins_as_people_write_them(rt_one, channel, pin):  # noqa: F811
    asked = {'channels': [str(channel)], 'dependencies': [pin.format(channel=channel)]}
    assert rt_one.ok(*ask(asked), '--', 'python', '-c', 'import one; print(one.WORD)') == 'first\n'


def test_an_exported_yml(rt, channel):  # noqa: F811
    """With a prefix of whoever wrote it, and pip lines in a file beside it."""
    rt.make_files('project', {'environment.yml': f'name: theirs\nchannels:\n  - nodefaults\n  - {channel.folder}\ndependencies:\n  - python={MINOR}\n'
                                                 '  - pip:\n    - -r more/lines.txt\nprefix: /home/theirs/miniconda3/envs/theirs\n',
                              'more/lines.txt': '# what it needs\n-r also.txt\n', 'more/also.txt': 'idna==3.10\n'})
    look = 'import idna, sys; print(idna.__version__, sys.prefix)'
    said = rt.ok(*ask('project/environment.yml'), '--', 'python', '-c', look, cwd=rt.folder)
    assert said == f'3.10 {rt.store}/conda\n'


def test_a_package_in_both_formats(rt_one, conda, tmp_path):  # noqa: F811
    """The newer one is taken, once."""
    both = Channel(tmp_path / 'both')
    both.add('thing', '1', {'share/thing': 'old'}, ending='.tar.bz2')
    both.add('thing', '1', {'share/thing': 'new'})
    assert rt_one.ok(*ask({'channels': [str(both)], 'dependencies': ['thing']}), '--', 'sh', '-c', 'cat "$CONDA_PREFIX/share/thing"') == 'new'
