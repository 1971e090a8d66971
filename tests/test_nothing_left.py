"""The controls of nothing_left: each thing that could be left behind is seen."""

import fcntl
import json
import os
import pathlib
import subprocess

import pytest

import nothing_left as looked
from nothing_left import nothing_left, store_of


def staging(rt):
    """Of somebody who is still at it: others are swept."""
    folder = store_of(rt) / 'tmp'
    lock = open(folder / '1234.lock', 'w')
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / '1234').mkdir()
    return lock


def record(rt):
    path = store_of(rt) / 'records/ab'
    path.mkdir(parents=True)
    (path / 'cd.json').write_text(json.dumps({'head': {'layers': ['0' * 64]}}, separators=(',', ':')))


def lease(rt):
    file = open(next((store_of(rt) / 'leases').iterdir()))
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def mount(rt):
    folder = rt.make_dir('mounted')
    subprocess.run(['mount', '-t', 'tmpfs', 'none', folder], check=True)


def process(rt):
    return subprocess.Popen(['sleep', '60'])


def layer(rt):
    rt.ok('--working-dir', rt.make_files('other', {'b': 'x'}), '--', 'true')


def pulled(rt):
    (store_of(rt) / 'uv/images/1234').mkdir(parents=True)


@pytest.mark.parametrize('what, word', [
    (staging, 'tmp/1234, tmp/1234.lock'), (record, 'records/ab/cd.json'), (lease, 'held: '), (mount, 'mount /'), (process, 'process [0-9]+ sleep 60'), (layer, 'layers/'),
    (pulled, 'images/1234')])
def test_what_is_left_is_seen(rt_one, monkeypatch, what, word):
    if what is mount and os.geteuid() != 0:
        pytest.skip('only root can mount')
    rt_one.ok('--working-dir', rt_one.make_files('project', {'a': 'x'}), '--', 'true')
    monkeypatch.setattr(looked, 'SECONDS', 1)
    with nothing_left(rt_one):
        pass
    with pytest.raises(AssertionError, match=word):
        with nothing_left(rt_one):
            kept = what(rt_one)
    if what is process:
        kept.kill(), kept.wait()
    if what is mount:
        subprocess.run(['umount', rt_one.folder / 'mounted'], check=True)


def test_what_may_stay(rt_one):
    with nothing_left(rt_one, but=['project']):
        rt_one.ok('--working-dir', rt_one.make_files('project', {'a': 'x'}), '--', 'true')
    assert pathlib.Path(rt_one.store).exists()
