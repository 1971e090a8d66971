"""How rtlaunchd has layers built: in turns, told of, ended with whoever asked. rtlaunch-build is a shell
script here; the real one is tested elsewhere."""

import errno
import json
import os
import pathlib
import signal
import time

import pytest

from conftest import PLAIN_UID
from daemon_support import HELLO, fake_builder, stopped_daemon, wait_until

OTHER_UID = 23456
DONE = 'echo \'{"event":"done"}\'\n'
PROGRESS = '{"event":"progress","layer":"pip","phase":"download","object":"numpy","done":1,"total":2}'


def request(content=b'{}'):
    fd = os.memfd_create('request')
    os.write(fd, content)
    return fd


def make(client, *fields):
    return client.ask([request()], op='make', fields=list(fields))


def processes(word):
    """Pids whose command line has `word`."""
    found = []
    for folder in pathlib.Path('/proc').iterdir():
        try:
            if folder.name.isdigit() and word in (folder / 'cmdline').read_bytes().split(b'\0'):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def test_a_builder_knows_whom_it_builds_for(fake_builder, tmp_path):
    daemon = fake_builder(f'echo "$@" >> {tmp_path}/arguments; cat >> {tmp_path}/documents; env > {tmp_path}/env\n'
                          f'echo \'{PROGRESS}\'\n{DONE}')
    client = daemon.client(PLAIN_UID)
    assert client.ask([request(b'{"a":1}')], op='make', fields=['pip', 'py_modules[0]'])['ok']
    lines = sorted((tmp_path / 'arguments').read_text().splitlines())[:2]
    assert lines == [f'make {field} --caller {PLAIN_UID}:{PLAIN_UID}: --store {daemon.store} --plugins /etc/rtlaunch/plugins'
                     for field in ('pip', 'py_modules[0]')]
    assert (tmp_path / 'documents').read_text().startswith('{"a":1}{"a":1}')   # each reads it from its start
    assert 'RTLAUNCH' not in (tmp_path / 'env').read_text()
    assert sorted(e['field'] for e in client.events if e['event'] == 'made') == ['pip', 'py_modules[0]']
    assert json.loads(PROGRESS) in client.events
    built = daemon.wait_for_event('built', field='pip')
    assert built['uid'] == PLAIN_UID and built['request']


def test_the_first_failure_ends_the_others_and_is_told_as_it_is(fake_builder):
    error = {'event': 'error', 'step': 'pip', 'errno': 0, 'object': 'nope', 'reason': 'no such package',
             'cure': 'check the name', 'exit_code': 125}
    daemon = fake_builder(f"if [ $2 = uv ]; then echo '{json.dumps(error)}'; exit 125; fi\nexec sleep 1000\n")
    began = time.monotonic()
    answer = make(daemon.client(), 'pip', 'uv')
    assert time.monotonic() - began < 5
    assert answer['error'] == {**{k: v for k, v in error.items() if k != 'event'}, 'again': False}
    wait_until(lambda: daemon.status()['builds']['running'] == 0)


@pytest.mark.parametrize('script, word', [
    ('exit 0\n', 'without an answer'), ('kill -9 $$\n', 'signal 9'), ('echo nonsense\n', 'no event'),
    ('head -c 3000000 /dev/zero; exit 3\n', 'without an answer')])
def test_a_builder_that_breaks_is_told(fake_builder, script, word):
    daemon = fake_builder(script)
    answer = make(daemon.client(), 'pip')
    assert answer['ok'] is False and word in answer['error']['reason'], answer
    assert daemon.client().ask(op='ps')['ok']


def test_what_a_builder_says_may_pass_is_for_its_caller_to_try_again(fake_builder):
    """Clients ask again by themselves, without a word, for what the daemon lacks."""
    error = {'event': 'error', 'step': 'download', 'errno': errno.EAGAIN, 'object': 'x.zip', 'reason': 'the server answered 503',
             'cure': 'try again later', 'exit_code': 125}
    daemon = fake_builder(f"echo '{json.dumps(error)}'")
    said = make(daemon.client(), 'pip')['error']
    assert said['errno'] == errno.EAGAIN and not said['again']


def test_progress_that_nobody_reads_is_dropped(fake_builder):
    daemon = fake_builder(f"yes '{PROGRESS}' | head -n 300000\n{DONE}")
    client = daemon.client()
    before = daemon.memory()
    client.send([request()], op='make', fields=['pip'])
    wait_until(lambda: daemon.events('built'), seconds=30)
    assert daemon.memory() - before < 4 << 20
    while 'ok' not in (answer := client.read()):
        client.events.append(answer)
    assert answer['ok'] and 0 < len(client.events) < 300_000


def test_builds_take_turns_and_users_leave_room_for_others(fake_builder, tmp_path):
    (tmp_path / 'wait').touch()
    daemon = fake_builder(f'while [ -e {tmp_path}/wait ]; do sleep 0.05; done\n{DONE}')
    clients = [daemon.client(PLAIN_UID) for _ in range(10)]
    for number, client in enumerate(clients, 1):   # one after the other, or anyone may be the last
        client.send([request()], op='make', fields=['pip'])
        wait_until(lambda: (b := daemon.status()['builds'])['running'] + b['queued'] == number)
    builds = daemon.status()['builds']
    assert (builds['running'], builds['queued']) == (4, 6)
    assert clients[9].read() == {'event': 'queued'}
    other = daemon.client(OTHER_UID)
    other.send([request()], op='make', fields=['uv'])
    wait_until(lambda: daemon.status()['builds']['running'] == 5)   # he need not wait for them
    clients[5].close()                                              # who leaves the queue leaves it
    wait_until(lambda: daemon.status()['builds']['queued'] == 5)
    (tmp_path / 'wait').unlink()
    for client in clients[:5] + clients[6:] + [other]:
        while 'ok' not in (answer := client.read()):
            pass
        assert answer['ok']


def test_a_build_ends_with_whoever_asked(fake_builder):
    daemon = fake_builder('exec sleep 1234\n')
    for leave in (lambda c: c.close(), lambda c: c.send(op='ps')):   # and who talks out of turn
        client = daemon.client()
        client.send([request()], op='make', fields=['pip'])
        wait_until(lambda: processes(b'1234'))
        leave(client)
        wait_until(lambda: not processes(b'1234'))
        wait_until(lambda: daemon.status()['builds']['running'] == 0)
    assert daemon.status()['connections'] == 1


def test_a_spawner_that_dies_in_a_build_says_again(fake_builder):
    daemon = fake_builder('exec sleep 1234\n')
    client = daemon.client()
    client.send([request()], op='make', fields=['pip'])
    wait_until(lambda: processes(b'1234'))
    os.kill(daemon.spawner(), signal.SIGKILL)
    while 'ok' not in (answer := client.read()):
        pass
    assert answer['error']['again'] is True
    wait_until(lambda: not processes(b'1234'))   # builders die with it
    wait_until(lambda: daemon.status()['spawner']['alive'])


def test_a_drain_lets_builds_finish_and_takes_no_new_ones(fake_builder):
    daemon = fake_builder(f'sleep 2\n{DONE}')
    builder, late = daemon.client(), daemon.client()
    builder.send([request()], op='make', fields=['pip'])
    wait_until(lambda: daemon.status()['builds']['running'] == 1)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_event('draining')
    assert make(late, 'pip')['error']['again'] is True
    while 'ok' not in (answer := builder.read()):
        pass
    assert answer['ok']
    assert daemon.process.wait(10) == 0


def test_housekeeping_is_one_at_a_time_and_waits_for_builds(fake_builder, tmp_path):
    script = f'''echo "begin $1" >> {tmp_path}/log; sleep 0.5; echo "end $1" >> {tmp_path}/log
case $1 in store) echo '{{"layers":[],"bytes":0}}';; *) {DONE.strip()};; esac
'''
    daemon = fake_builder(script)
    client, root = daemon.client(), daemon.client()
    client.send([request()], op='make', fields=['pip'])
    wait_until(lambda: (tmp_path / 'log').exists())
    root.ask(op='collect')
    root.ask(op='collect')
    daemon.wait_for_event('background', job='collect')
    wait_until(lambda: daemon.status()['housekeeping'] is False)
    lines = (tmp_path / 'log').read_text().split('\n')[:-1]
    assert lines[:2] == ['begin make', 'end make']
    assert lines[2::2] == ['begin store'] * (len(lines) // 2 - 1)
    assert lines[3::2] == ['end store'] * (len(lines) // 2 - 1)
