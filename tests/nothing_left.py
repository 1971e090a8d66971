"""What bad input must leave behind: nothing.

    with nothing_left(rt):
        rt.fails('--image', broken.uri, '--', 'true')

looks before and after at the store (stagings, layers, records that lead to layers, holds, pins, what was pulled),
at leases that somebody still has, at mounts and at processes. What is swept in the background has some seconds.
`but`: names of layers that may stay, as regular expressions: those that are whole and somebody's to use again.
test_nothing_left.py has the controls."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import time

SECONDS = 20
FOLDERS = ('tmp', 'trash', 'layers', 'holds', 'pins', 'callers')


def store_of(rt):
    return pathlib.Path(rt.daemon.store if hasattr(rt, 'daemon') else rt.store)


def layers_of(record):
    """Of a record in the store. One without any is what was learned of an interpreter, or of an index."""
    try:
        listed = re.search(r'"layers":\[([^]]*)', record.read_text())
    except OSError:
        return set()
    return set(re.findall('[0-9a-f]{64}', listed[1]))


def is_held(lease):
    try:
        with open(lease) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def in_store(store):
    found = set()
    for folder in FOLDERS:
        depth = '*/*/*' if folder == 'layers' else '*'
        found |= {str(path.relative_to(store)) for path in (store / folder).glob(depth)}
    found |= {str(path.relative_to(store)) for path in store.glob('uv/**/images/*')}
    found |= {str(path.relative_to(store)) for path in store.glob('records/*/*') if layers_of(path)}
    found |= {f'held: {path.name}' for path in store.glob('leases/*') if is_held(path)}
    return found


def mounts():
    return {'mount ' + line.split()[4] for line in open('/proc/self/mountinfo')}


def processes():
    """By pid; what each is: a new one might not have become it yet."""
    found = {}
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            state = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
            command = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:
            continue
        if state != 'Z' and int(pid) != os.getpid():
            found[f'process {pid}'] = command
    return found


def everything(store):
    return in_store(store) | mounts() | set(processes())


def names_of_layers(store, found):
    """By their digests."""
    return {one: json.loads((store / one / 'meta.json').read_text())['name'] for one in found if one.startswith('layers/')}


def without(store, left, but):
    """Of what is left all but the named layers, and the records that lead to nothing else."""
    named = {one: name for one, name in names_of_layers(store, left).items() if any(re.search(word, name) for word in but)}
    digests = {pathlib.Path(one).name for one in named}
    whole = {one for one in left if one.startswith('records/') and layers_of(store / one) <= digests}
    return left - set(named) - whole


@contextlib.contextmanager
def nothing_left(rt, but=()):
    store = store_of(rt)
    before = everything(store)
    while hasattr(rt, 'daemon'):   # it is ready before its spawner is
        time.sleep(0.3)
        if before == (before := everything(store)):
            break
    yield
    end = time.monotonic() + SECONDS
    while left := without(store, everything(store) - before, but):
        if time.monotonic() > end:
            now = processes()
            raise AssertionError('left behind: ' + ', '.join(f'{one} {now.get(one, "")}'.strip() for one in sorted(left)))
        time.sleep(0.05)
