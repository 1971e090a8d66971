"""Plugins (installers/plugin.h): the examples in shell, Python and C++, wherever a command is started; and
what a bad one comes to: an error that names it and its step, and nothing left behind."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from conftest import PLAIN_UID
from daemon_support import Daemon, through, wait_until
from nothing_left import nothing_left

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / 'installers/examples'

BAD = '''#!/usr/bin/python3
import json, os, sys, time
request = json.load(sys.stdin)
op, value, layer = request['op'], request['value'], request.get('layer')
if value.get('at', 'build') != op:
    print('{}')
    sys.exit()
how = value['how']
if how == 'crash':
    os.kill(os.getpid(), 11)
if how == 'status':
    sys.exit('no more patience')
if how == 'hang':
    time.sleep(3600)
if how == 'garbage':
    sys.stdout.buffer.write(b'\\x00\\xff garbage')
    sys.exit()
if how == 'flood':
    for _ in range(1 << 10):
        sys.stdout.buffer.write(b'x' * (1 << 20))
if how == 'flood stderr':
    for _ in range(1 << 10):
        sys.stderr.buffer.write(b'x' * (1 << 20))
if how == 'leave children':
    if os.fork() == 0:
        os.setsid()
        time.sleep(3600)
if how == 'look':
    seen = {'uid': os.getuid(), 'sees': list(filter(os.path.exists, value['paths'])), 'home': os.listdir(os.environ['HOME']),
            'env': sorted(os.environ), 'net': open('/proc/net/dev').read().count(':')}
    open(layer + '/seen', 'w').write(json.dumps(seen))
if how == 'write':
    for path in ('/usr/x', '/etc/x', '/build/plugin'):
        try:
            open(path, 'w')
            sys.exit(path + ' can be written')
        except OSError:
            pass
if how == 'plant':
    open(layer + '/tool', 'w').close()
    os.chmod(layer + '/tool', 0o6755)
    os.mkfifo(layer + '/pipe')
    os.symlink('/etc/shadow', layer + '/link')
if how == 'fill':
    with open(layer + '/big', 'wb') as big:
        for _ in range(10 << 10):
            big.write(b'x' * (1 << 20))
print(json.dumps(value.get('answer', {})))
'''


@pytest.fixture(scope='module')
def plugins(tmp_path_factory):
    """A folder of plugins that is root's and open to all, as an administrator would make it."""
    folder = pathlib.Path(tmp_path_factory.mktemp('plugins', numbered=True))
    for path in (folder, folder.parent):
        path.chmod(0o755)
    for name in ('greet', 'dataset'):
        shutil.copy(EXAMPLES / name, folder / name)
    subprocess.run(['g++', '-std=c++20', '-o', folder / 'niceness', EXAMPLES / 'niceness.cc'], check=True)
    (folder / 'bad').write_text(BAD)
    (folder / 'bad').chmod(0o755)
    (folder / 'no.field').write_text('')
    return folder


@pytest.fixture
def own(rt, plugins):
    """Embedded, as root and rootless."""
    rt.env['RTLAUNCH_PLUGINS'] = str(plugins)
    return rt


@pytest.fixture
def own_one(rt_one, plugins):
    rt_one.env['RTLAUNCH_PLUGINS'] = str(plugins)
    return rt_one


@pytest.fixture
def node(programs, tmp_path, plugins):
    if os.geteuid() != 0:
        pytest.skip('rtlaunchd has to be started by root')
    (tmp_path / 'node').mkdir()
    (tmp_path / 'node').chmod(0o755)
    one = Daemon(programs, tmp_path / 'node', options=['--plugins', str(plugins)]).start()
    yield one
    one.stop()


def env(**fields):
    return ['--runtime-env', json.dumps(fields)]


def check_examples(rt):
    assert rt.ok(*env(greet='hello'), '--', 'greet', 'world') == 'hello, world\n'
    files = {'files': {'a.txt': 'text'}}
    assert rt.ok(*env(dataset=files), '--', 'sh', '-c', 'cat $DATASET/a.txt') == 'text'
    assert rt.ok(*env(dataset={**files, 'at': '/srv'}), '--', 'cat', '/srv/a.txt') == 'text'
    assert rt.ok(*env(niceness=7), '--', 'nice') == '7\n'
    both = env(greet='hello', niceness=3, dataset=files, env_vars={'PATH': '/elsewhere:${PATH}'})
    assert rt.ok(*both, '--', 'sh', '-c', 'greet "$(nice) $(cat $DATASET/a.txt)"; echo $PATH').split('\n')[0] == 'hello, 3 text'
    assert rt.run(*env(dataset=files), '--', 'sh', '-c', 'echo x > $DATASET/new').returncode != 0


def test_the_examples_embedded(own):
    check_examples(own)
    kinds = [layer['kind'] for layer in own.ask('store', 'ls')]
    assert kinds.count('plugin') == 3   # one value of dataset's, wherever it is shown; greet's; the empty one


@pytest.mark.parametrize('uid', [0, PLAIN_UID])
def test_bad_ones_through_the_daemon(node, tmp_path, uid):
    rt = through(node, tmp_path, uid)
    for bad, words in [({'how': 'crash'}, 'crashed by signal 11'), ({'how': 'lie', 'at': 'launch', 'answer': {'prefix': 3}}, 'no list of texts')]:
        with nothing_left(rt):
            assert words in rt.fails(*env(bad=bad), '--', 'true')


@pytest.mark.parametrize('uid', [0, PLAIN_UID])
def test_the_examples_through_the_daemon(node, tmp_path, uid):
    rt = through(node, tmp_path, uid)
    check_examples(rt)
    said = rt.fails(*env(greet='$(id)'), '--', 'true')
    assert 'plugin greet: validate: is no plain text' in said and 'write letters and digits' in said
    created = json.loads(rt.ok('env', 'create', *env(greet='hi'), '--json', verb='env'))
    assert rt.ok('exec', created['id'], '--', 'greet', 'you', verb='exec') == 'hi, you\n'


@pytest.mark.parametrize('uid', [0, PLAIN_UID])
def test_their_places_beside_a_ray(node, tmp_path, uid):
    """With profile ray the host's files are shared, and a layer lies in what covers the store, or where it says."""
    rt = through(node, tmp_path, uid)
    files = {'files': {'a.txt': 'text'}}
    asked = ('--profile', 'ray', *env(greet='hello', dataset=files), '--')
    assert rt.ok(*asked, 'greet', 'you') == 'hello, you\n'
    place, text = rt.ok(*asked, 'sh', '-c', 'echo $DATASET; cat $DATASET/a.txt').splitlines()
    assert place.endswith('/plugins/dataset') and not os.path.exists(place) and text == 'text'
    assert rt.ok('--profile', 'ray', *env(dataset={**files, 'at': '/srv'}), '--', 'cat', '/srv/a.txt') == 'text'
    assert not os.path.exists('/srv/a.txt')


def test_only_the_administrators_count_for_a_daemon(node, tmp_path, plugins):
    rt = through(node, tmp_path, PLAIN_UID)
    mine = rt.make_dir('mine')
    shutil.copy(EXAMPLES / 'greet', mine / 'mine')
    rt.own(mine / 'mine')
    rt.env['RTLAUNCH_PLUGINS'] = str(mine)
    assert 'unknown field `mine`' in rt.fails(*env(mine='x'), '--', 'true')
    assert rt.ok('--embedded', *env(mine='x'), '--', 'greet', 'y', env={'RTLAUNCH_STORE': str(rt.folder / 'st')}) == 'x, y\n'   # the control


def test_nothing_is_run_twice(own_one, plugins, tmp_path):
    own_one.ok(*env(greet='again'), '--', 'true')
    before = {layer['digest']: layer['created'] for layer in own_one.ask('store', 'ls')}
    said = own_one.run('--json', *env(greet='again'), '--', 'true').stderr
    assert '"progress"' not in said
    assert {layer['digest']: layer['created'] for layer in own_one.ask('store', 'ls')} == before
    # Another program is another key; equal content is the same layer.
    mine = tmp_path / 'changed'
    mine.mkdir()
    (mine / 'greet').write_text((EXAMPLES / 'greet').read_text() + '# another\n')
    (mine / 'greet').chmod(0o755)
    assert '"progress"' in own_one.run('--json', *env(greet='again'), '--', 'true', env={'RTLAUNCH_PLUGINS': str(mine)}).stderr
    own_one.ok('store', 'gc', '--all', verb='store')
    assert own_one.ask('store', 'ls') == []
    assert own_one.ok(*env(greet='again'), '--', 'greet', 'x') == 'again, x\n'


@pytest.mark.parametrize('how, at, words', [
    ('crash', 'build', 'crashed by signal 11'),
    ('crash', 'validate', 'crashed by signal 11'),
    ('status', 'key', 'ended with status 1: no more patience'),
    ('garbage', 'build', 'its answer is no JSON object'),
    ('flood', 'launch', 'answered more than 1 MiB'),
    ('flood stderr', 'build', 'wrote more than 64 MiB to stderr')])
def test_a_bad_one_is_an_error_that_names_it_and_its_step(own, how, at, words):
    with nothing_left(own):
        said = own.fails(*env(bad={'how': how, 'at': at}), '--', 'true')
    assert f'plugin bad: {at}: {words}' in said, said


def test_one_that_hangs_is_ended_in_time(own_one):
    with nothing_left(own_one):
        said = own_one.fails(*env(bad={'how': 'hang'}, config={'setup_timeout_seconds': 3}), '--', 'true')
    assert 'plugin bad: build: setup takes longer than allowed' in said


def command(pid):
    try:
        return pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')[1]
    except (OSError, IndexError):
        return b''


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can make a small disk')
def test_one_that_fills_the_disk_is_ended(own_one):
    """10 GB, on 200 MB: it is told why, the room is there again, and others go on."""
    os.mkdir(own_one.store, 0o700)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=200m,mode=700', 'none', own_one.store], check=True)
    own_one.ok(*env(greet='before'), '--', 'true')
    free = shutil.disk_usage(own_one.store).free
    with nothing_left(own_one):
        said = own_one.fails(*env(bad={'how': 'fill'}), '--', 'true')
    assert 'plugin bad: build: it fills the disk of the store' in said and 'make room' in said, said
    wait_until(lambda: shutil.disk_usage(own_one.store).free > free - (8 << 20), 60)
    assert own_one.ok(*env(greet='after'), '--', 'greet', 'x') == 'after, x\n'


def test_children_that_it_leaves_end_with_it(own_one):
    own_one.ok(*env(bad={'how': 'leave children'}), '--', 'true')
    wait_until(lambda: not any(command(pid) == b'/build/plugin' for pid in filter(str.isdigit, os.listdir('/proc'))), 60)


@pytest.mark.parametrize('at, answer, words', [
    ('build', {'made': ['bin/tool']}, 'says that `bin/tool` is in its layer'),
    ('build', {'made': ['../../etc/passwd']}, 'says that `../../etc/passwd` is in its layer'),
    ('build', {'made': 3}, '`made` is no list of texts'),
    ('build', [], 'its answer is no JSON object'),
    ('key', {'key': 3}, '`key` is no text'),
    ('launch', {'prefix': ['${LAYER}/tool']}, 'says that `tool` is in its layer'),
    ('launch', {'prefix': 'x'}, '`prefix` is no list of texts'),
    ('launch', {'env': {'A=B': 'x'}}, '`env` is no object of texts'),
    ('launch', {'env': {'A': 1}}, '`env` is no object of texts'),
    ('launch', {'at': ['/a/../etc']}, 'is no absolute path'),
    ('launch', {'env': {'A': 'x' * 70000}}, 'more than 64 KiB'),
    ('validate', {'error': 'not \x1b today', 'cure': 'tomorrow'}, 'not ? today')])
def test_one_that_lies_is_an_error(own_one, at, answer, words):
    with nothing_left(own_one):
        said = own_one.fails(*env(bad={'how': 'lie', 'at': at, 'answer': answer}), '--', 'true')
    assert f'plugin bad: {at}: ' in said and words in said, said


def test_where_it_runs_is_a_build(own, plugins):
    own.env['A_SECRET'] = 'x'
    paths = [str(own.home), str(plugins), '/root', '/usr/bin']
    assert all(map(os.path.exists, paths))   # the control
    said = own.ok(*env(bad={'how': 'look', 'at': 'build', 'paths': paths}, env_vars={'ANOTHER': 'y'}), '--', 'sh', '-c',
                  'cat /tmp/rtlaunch/plugins/bad/seen')
    seen = json.loads(said)
    assert seen['uid'] != 0 and seen['home'] == [] and seen['net'] == 1
    assert not {'A_SECRET', 'ANOTHER', 'RTLAUNCH_STORE'} & set(seen['env'])
    assert seen['sees'] == ['/usr/bin']
    own.ok(*env(bad={'how': 'write'}), '--', 'true')


def test_what_it_plants_is_left_out(own_one):
    show = 'cd /tmp/rtlaunch/plugins/bad && ls && stat -c %a tool && readlink link'
    assert own_one.ok(*env(bad={'how': 'plant'}), '--', 'sh', '-c', show).split() == ['link', 'tool', '755', '/etc/shadow']


def test_a_program_that_others_could_have_written_is_refused(own_one, plugins, tmp_path):
    open_one = tmp_path / 'open'
    open_one.mkdir()
    shutil.copy(EXAMPLES / 'greet', open_one / 'greet')
    own_one.env['RTLAUNCH_PLUGINS'] = str(open_one)
    assert own_one.ok(*env(greet='x'), '--', 'greet', 'y') == 'x, y\n'   # the control
    for path, mode in ((open_one / 'greet', 0o757), (open_one, 0o777)):
        path.chmod(mode)
        with nothing_left(own_one):
            assert 'others than root can write there' in own_one.fails(*env(greet='x'), '--', 'true')
        path.chmod(0o755)
    os.chown(open_one / 'greet', PLAIN_UID, PLAIN_UID)
    assert f'belongs to user {PLAIN_UID}' in own_one.fails(*env(greet='x'), '--', 'true')


def test_the_policy_says_who_may_use_which(programs, tmp_path, plugins):
    if os.geteuid() != 0:
        pytest.skip('a policy is root\'s')
    folder = tmp_path / 'node'
    folder.mkdir()
    folder.chmod(0o755)
    rules = [{'name': 'some', 'if': {'user': [PLAIN_UID]}, 'allow': {'plugins': ['gre*']}},
             {'name': 'none', 'if': {'user': [PLAIN_UID + 1]}, 'allow': {'fields': ['pip']}}]
    (folder / 'policy.json').write_text(json.dumps({'version': 1, 'rules': rules}))
    daemon = Daemon(programs, folder, options=['--plugins', str(plugins), '--policy', str(folder / 'policy.json')]).start()
    try:
        some = through(daemon, tmp_path, PLAIN_UID)
        assert some.ok(*env(greet='x'), '--', 'greet', 'y') == 'x, y\n'
        assert 'this plugin is not allowed for you: gre* are' in some.fails(*env(niceness=3), '--', 'true')
        (tmp_path / 'none').mkdir()
        none = through(daemon, tmp_path / 'none', PLAIN_UID + 1)
        assert 'plugins: this field is not allowed for you: pip are' in none.fails(*env(greet='x'), '--', 'true')
    finally:
        daemon.stop()


@pytest.mark.parametrize('text, words', [
    ('#!/no/such/interpreter\n', "can't be started: it exists, but the interpreter or loader that it names doesn't"),
    ('#!/bin/sh\n', 'its answer is no JSON object'), ('#!/bin/sh\necho {}; echo {}\n', 'its answer is no JSON object'),
    ('#!/bin/sh\necho \'{"key": "a", "key": "b"}\'\n', 'its answer is no JSON object'), ('#!/bin/sh\nprintf \'{"a": "\\377"}\'\n', 'its answer is no JSON object'),
    ('#!/bin/sh\nkill $$\n', 'crashed by signal 15'), ('#!/bin/sh\ncat >/dev/null; exec 1>&-; sleep 0.3; exit 3\n', 'ended with status 3')])
def test_programs_that_are_none(own_one, tmp_path, text, words):
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'odd').write_text(text)
    (mine / 'odd').chmod(0o755)
    with nothing_left(own_one):
        said = own_one.fails(*env(odd='x'), '--', 'true', env={'RTLAUNCH_PLUGINS': str(mine)})
    assert f'plugin odd: validate: {words}' in said and f'mend the plugin: {mine}/odd' in said, said


def test_an_unknown_field_is_one_still(own_one):
    said = own_one.fails(*env(gret='x'), '--', 'true')
    assert 'unknown field `gret`' in said and 'did you mean `greet`?' in said
    assert 'unknown field' in own_one.fails('--runtime-env', '{"no.field": 1}', '--', 'true')
    own_one.ok('--runtime-env', '{"greet": null}', '--', 'true')
