"""conda environments through rtlaunchd: made for one user, with his rights, and started for him."""

import json
import os

import pytest

from conda_fixtures import channel, compiled, conda  # noqa: F401
from conftest import PLAIN_UID
from daemon_support import daemon, stopped_daemon, through  # noqa: F401

OTHER_UID = 23456
LOOK = 'import os, sys, one, idna; print(os.getuid(), sys.prefix, one.WORD, idna.__version__, os.environ["ACTIVE"])'


def user_of(daemon, folder, uid):
    folder.mkdir()
    return through(daemon, folder, uid)


def asked(channel, pip='idna==3.10'):
    return json.dumps({'conda': {'channels': [str(channel)], 'dependencies': ['one', 'active', 'scripted', {'pip': [pip]}]}})


@pytest.mark.parametrize('uid', [0, PLAIN_UID])
def test_run_and_exec(daemon, channel, tmp_path, uid):
    rt = through(daemon, tmp_path, uid)
    prefix = f'{daemon.store}/conda'
    expected = f'{uid} {prefix} first 3.10 {prefix}/active\n'
    assert rt.ok('--runtime-env', asked(channel), '--', 'python', '-c', LOOK) == expected
    rt.ok('env', 'create', '--name', 'kept', '--runtime-env', asked(channel), verb='env')
    assert rt.ok('exec', 'kept', '--', 'python', '-c', LOOK, verb='exec') == expected
    assert rt.ok('exec', 'kept', '--', 'tool', verb='exec') == f'{prefix}/share/word found\n'


def test_a_channel_that_the_caller_may_not_read(daemon, channel, tmp_path):
    closed = tmp_path / 'closed'
    closed.mkdir(mode=0o700)
    os.symlink(channel.folder, closed / 'channel')
    text = json.dumps({'conda': {'channels': [str(closed / 'channel')], 'dependencies': ['one']}})
    assert 'channel' in user_of(daemon, tmp_path / 'user', PLAIN_UID).fails('--runtime-env', text, '--', 'true')
    user_of(daemon, tmp_path / 'root', 0).ok('--runtime-env', text, '--', 'python', '-c', 'import one')


def test_one_users_local_packages_are_not_anothers(daemon, channel, tmp_path):
    """Layers of local files are looked up by who asked; what is in them is on the disk once."""
    first = user_of(daemon, tmp_path / 'first', PLAIN_UID)
    first.ok('--runtime-env', asked(channel), '--', 'true')
    second = user_of(daemon, tmp_path / 'second', OTHER_UID)
    assert 'conda: resolve' in second.run('--runtime-env', asked(channel), '--', 'true').stderr
    assert 'conda: resolve' not in first.run('--runtime-env', asked(channel), '--', 'true').stderr
