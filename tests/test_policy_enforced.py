"""What the policy gives is what a worker gets, through the daemon and without it; what asks for more is
refused, by name, whoever asks and however. test_policy.py has the commands."""

import ctypes
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import PLAIN_UID, make_launcher
from daemon_support import Client, Daemon, Start, as_user, open_folder, rights_of_the_unit, through, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='a policy is root\'s')

GUEST = PLAIN_UID
POLICY = {
    'version': 1,
    'profiles': {'team': {'extends': 'ml', 'upper_bytes': '10M'}},
    'rules': [{'name': 'guests', 'if': {'user': [GUEST]}, 'profile': 'strict', 'choose': ['strict', 'ml'],
               'ceiling': {'network': 'none'},
               'allow': {'fields': ['pip', 'working_dir', 'env_vars'], 'indexes': ['https://mirror.example/*'],
                         'mounts': ['/srv/nothing-here']}},
              {'name': 'at-home', 'if': {'user': [54321]}, 'allow': {'mounts': ['/srv/nothing-here']}},
              {'name': 'nightly', 'if': {'job': ['night*']}, 'ceiling': {'no_home': 'require'}}]}


class Node:
    def __init__(self, programs, folder):
        folder.mkdir(exist_ok=True)
        self.file = folder / 'policy.json'
        self.write(POLICY)
        self.daemon = Daemon(programs, folder, options=['--policy', str(self.file)]).start()

    def write(self, policy):
        self.file.write_text(policy if isinstance(policy, str) else json.dumps(policy))

    def reload(self, event):
        before = len(self.daemon.events(event))
        self.daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(self.daemon.events(event)) > before)
        return self.daemon.events(event)[-1]


@pytest.fixture
def node(programs, tmp_path):
    node = Node(programs, tmp_path / 'node')
    yield node
    node.daemon.stop()


@pytest.fixture
def guest(node, tmp_path):
    return through(node.daemon, tmp_path, GUEST)


@pytest.fixture
def root(node, tmp_path):
    (tmp_path / 'root').mkdir()
    return through(node.daemon, tmp_path / 'root', 0)


INTERFACES = 'cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d " " | sort | tr "\\n" " "'


def test_the_default_of_the_rule_is_what_a_worker_gets(guest, root):
    assert guest.ok('--', 'sh', '-c', INTERFACES).split() == ['lo']
    assert guest.run('--', 'touch', guest.home / 'x').returncode != 0, 'strict has a read-only home'
    # The control run: another user, whom the rule doesn't bind.
    root.ok('--', 'touch', root.home / 'x')
    assert not (guest.home / 'x').exists() and (root.home / 'x').exists()


def test_what_widens_is_refused_named_and_audited(guest, node):
    said = guest.fails('--profile', 'ray', '--', 'true')
    assert 'profile ray' in said and 'guests' in said and 'strict, ml' in said
    assert 'network' in guest.fails('--profile', 'ml', '--', 'true'), 'ml has the host\'s network'
    assert 'devices' in guest.fails('--control', 'devices=["/dev/sda"]', '--', 'true')
    assert 'network' in guest.fails('--control', 'network=host', '--', 'true')
    assert 'no such profile' in guest.fails('--profile', 'nope', '--', 'true')
    audit = [event for event in node.daemon.events('failed') if event.get('step') == 'policy']
    assert len(audit) == 5 and all(event['uid'] == GUEST for event in audit)
    assert {'profile ray', 'network', 'devices'} <= {event['object'] for event in audit}


def test_a_request_may_tighten(root):
    assert root.ok('--control', 'network=none', '--', 'sh', '-c', INTERFACES).split() == ['lo']
    assert root.ok('--', 'sh', '-c', INTERFACES).split() != ['lo']
    assert root.run('--profile', 'strict', '--', 'touch', root.home / 'y').returncode != 0
    assert root.run('--job', 'nightly', '--', 'touch', root.home / 'y').returncode != 0
    root.ok('--job', 'daily', '--', 'touch', root.home / 'y')


def lacking(programs, folder, rights):
    """What of the profiles a daemon couldn't give, by profile and user."""
    folder.mkdir()
    daemon = Daemon(programs, folder)
    daemon.rights, found = rights, {}
    daemon.start()
    for uid in (0, GUEST):
        (folder / str(uid)).mkdir()
        client = through(daemon, folder / str(uid), uid)
        for profile in ('strict', 'ml', 'debug', 'ray'):
            client.ok('--profile', profile, '--control', 'own_user=prefer', '--control', 'own_clock=prefer', '--', 'true')
            found[profile, uid] = daemon.events('started')[-1]['not_applied']
    daemon.stop()
    return found


def test_what_its_unit_leaves_the_daemon_is_enough(programs, tmp_path):
    found = lacking(programs, tmp_path / 'unit', rights_of_the_unit())
    assert found == lacking(programs, tmp_path / 'all', [])
    assert not any(name in told for told in found.values() for name in ('time_namespace', 'user_namespace'))


OWN_USER = 'readlink /proc/self/ns/user; tr -s " " " " < /proc/self/uid_map; id -u; grep CapBnd /proc/self/status; stat -c %u /etc/shadow'


@pytest.mark.parametrize('uid', [0, GUEST], ids=['root', 'guest'])
def test_a_worker_with_a_user_namespace_of_its_own(uid, node, root, guest):
    client = guest if uid else root
    plain = client.ok('--', 'sh', '-c', OWN_USER).split()
    assert plain[0] == os.readlink('/proc/self/ns/user') and plain[-1] == '0', 'the control run'
    own = client.ok('--control', 'own_user=require', '--', 'sh', '-c', OWN_USER).split()
    assert own[0] != plain[0] and own[1:4] == [str(uid), str(uid), '1'] and own[4] == str(uid)
    assert int(own[6], 16) == 0 and own[7] == ('65534' if uid else '0')
    stays = client.popen('--control', 'own_user=require', '--', 'sh', '-c', 'readlink /proc/self/ns/user; read x', stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    own = stays.stdout.readline().decode().strip()
    [worker] = node.daemon.workers()
    entered = client.ok('enter', worker['id'], '--', 'sh', '-c', OWN_USER, verb='enter').split()
    assert entered[0] not in (plain[0], own) and int(entered[6], 16) == 0, 'nor does who enters it get more'
    stays.communicate(b'\n')


def test_only_listed_variables_reach_a_strict_worker(guest):
    env = {'SECRET_OF_MINE': 'x', 'LC_TIME': 'C', 'LD_LIBRARY_PATH': '/nowhere'}
    told = guest.ok('--env', 'GIVEN=1', '--', 'env', env=env).splitlines()
    assert 'GIVEN=1' in told and 'LC_TIME=C' in told
    assert not any(line.startswith(('SECRET_OF_MINE', 'LD_LIBRARY_PATH')) for line in told)
    assert 'SECRET_OF_MINE=x' in guest.ok('--embedded', '--', 'env', env=env).splitlines()


def start_by_hand(daemon, uid, document, **asked):
    output, theirs = os.pipe()
    line, their_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory, null = os.memfd_create('document'), os.open('/dev/null', os.O_RDWR)
    os.write(memory, document)
    with as_user(uid):
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)   # dumpable: before Linux 6.5 the daemon looks at who we are in /proc
        client = Client(daemon.socket)
        answer = client.ask([memory, null, theirs, theirs, their_line.fileno()], op='start', keys=[], name='test', **asked)
    their_line.close()
    for fd in (theirs, memory, null):
        os.close(fd)
    text = b''
    while answer['ok'] and (data := os.read(output, 65536)):
        text += data
    os.close(output)
    line.close()
    client.close()
    return answer, text.decode()


# Attacks: J3
def test_whoever_speaks_the_protocol_himself_gets_no_more(node, guest):
    """The document says: files, /tmp and network of the host. The policy says what there is."""
    command = ['sh', '-c', f'{INTERFACES}; touch /tmp/left-behind; ls /tmp']
    shared = Start(node.daemon, *command, options=['--profile', 'ray']).document
    pathlib.Path('/tmp/of-the-host').touch()
    answer, text = start_by_hand(node.daemon, GUEST, shared)
    assert answer['ok'] and text.split()[0] == 'lo' and 'left-behind' in text, (answer, text)
    assert 'of-the-host' not in text and not pathlib.Path('/tmp/left-behind').exists()
    for asked, object in (({'profile': 'ray'}, 'profile ray'), ({'controls': {'network': 'host'}}, 'network'),
                          ({'controls': {'private_tmp': 'off'}}, 'private_tmp')):
        answer, _ = start_by_hand(node.daemon, GUEST, shared, **asked)
        assert not answer['ok'] and answer['error']['object'] == object and answer['error']['errno'] == 1, answer
    with_home = Start(node.daemon, *command).document   # whose home is to be changed inside
    answer, _ = start_by_hand(node.daemon, GUEST, with_home)
    assert not answer['ok'] and 'changed inside' in answer['error']['reason'], answer
    # The control run: the same document of somebody who may.
    answer, text = start_by_hand(node.daemon, 0, shared, profile='ray')
    assert answer['ok'] and 'of-the-host' in text and pathlib.Path('/tmp/left-behind').exists(), (answer, text)


# Attacks: J3
def test_a_link_in_ones_home_does_not_open_what_it_leads_to(guest, programs, tmp_path):
    """The document says that `open` in the home may be changed inside, which it may; then that is a link."""
    user, uid = 'rtl-guest', 54321
    home, shared = tmp_path / 'home', tmp_path / 'shared'
    for folder, mode in ((home, 0o755), (shared, 0o1777)):
        folder.mkdir()
        folder.chmod(mode)
    os.chown(home, uid, uid)
    (tmp_path / 'passwd').write_text(pathlib.Path('/etc/passwd').read_text() + f'{user}:x:{uid}:{uid}::{home}:/bin/sh\n')
    subprocess.run(['mount', '--bind', tmp_path / 'passwd', '/etc/passwd'], check=True)
    node = Node(programs, tmp_path / 'of-that-passwd')
    try:
        (home / 'open').mkdir()
        document = Start(node.daemon, 'touch', str(shared / 'made'), str(home / 'open/made'),
                         env={'HOME': str(home / 'open')}).document
        os.chown(home / 'open', uid, uid)
        start_by_hand(node.daemon, uid, document)
        assert (home / 'open/made').exists() and not (shared / 'made').exists(), 'what it may'
        subprocess.run(['rm', '-r', home / 'open'], check=True)
        (home / 'open').symlink_to(shared)
        answer, _ = start_by_hand(node.daemon, uid, document)
        assert not answer['ok'] and 'changed inside' in answer['error']['reason'], answer
        assert not (shared / 'made').exists()
        subprocess.run(['touch', home / 'open/made'], user=uid, group=uid, extra_groups=[], check=True)
        assert (shared / 'made').exists(), 'the control run: outside he may'
    finally:
        node.daemon.stop()
        subprocess.run(['umount', '/etc/passwd'], check=True)


# Attacks: J3
def test_what_is_brought_in_lies_where_the_policy_lets_it(node, guest, root, tmp_path):
    secret = guest.make_files('brought', {'file': 'of the host'})
    show = ['--', 'cat', '/srv/file']
    error = guest.fails('--bind', f'{secret}=/srv', *show)
    assert 'brought in' in error and str(secret) in error
    by_hand = Start(node.daemon, *show[1:], options=['--bind', f'{secret}=/srv'], env={'HOME': '/'}).document
    answer, _ = start_by_hand(node.daemon, GUEST, by_hand)
    assert not answer['ok'] and 'brought in' in answer['error']['reason'], answer
    assert root.ok('--bind', f'{secret}=/srv', '--', 'cat', '/srv/file') == 'of the host', 'the control run: whom no list binds'


def test_a_directory_in_place_is_not_changed_in_a_strict_worker(root):
    said = root.fails('--profile', 'strict', '--working-dir', 'local:///root', '--', 'true')
    assert '/root' in said and 'policy' in said


def test_reload_takes_a_good_file_and_keeps_the_old_for_a_bad_one(node, guest):
    changed = json.loads(json.dumps(POLICY))
    changed['rules'][0]['choose'].append('debug')
    changed['rules'][0].pop('ceiling')
    node.write(changed)
    assert node.reload('policy')['rules'] == len(POLICY['rules'])
    guest.ok('--profile', 'ml', '--', 'true')
    assert node.daemon.status()['policy']['file'] == str(node.file)

    def still_the_changed_one(reason):
        event = node.reload('policy_refused')
        assert reason in json.dumps(event), event
        assert reason in node.daemon.status()['policy']['error']
        guest.ok('--profile', 'ml', '--', 'true')
        assert 'guests' in guest.fails('--profile', 'ray', '--', 'true')
    node.write('{"version": 1, "rules": [{"nam": "x"}]}')
    still_the_changed_one('rules[0]')
    node.write(' ' * (10 << 20))
    still_the_changed_one('larger than 1 MiB')
    node.write({'version': 1})
    os.chown(node.file, GUEST, 0)
    still_the_changed_one(f'belongs to user {GUEST}')
    os.chown(node.file, 0, 0)
    node.file.chmod(0o666)
    still_the_changed_one('others than root can write')
    node.file.chmod(0o644)
    node.file.unlink()
    still_the_changed_one('policy.json')
    node.write(POLICY)
    node.reload('policy')
    assert 'error' not in node.daemon.status()['policy']
    assert 'network' in guest.fails('--profile', 'ml', '--', 'true')


# Attacks: J4
def test_starts_while_the_policy_is_written_get_the_old_one_or_the_new_one(node, guest):
    """Half written, empty, wide open but by somebody else, and one tight policy after the other: no moment in which more is
    given than by the tight ones."""
    tight = [json.dumps({**POLICY, 'rules': POLICY['rules'][:1] + [{'name': f'r{i}'}]}) for i in range(2)]
    open_to_all = json.dumps({'version': 1})
    show = ['--profile', 'ml', '--', 'sh', '-c', INTERFACES]

    def hold_back(turn):
        node.write(tight[turn % 2])
        node.daemon.process.send_signal(signal.SIGHUP)
        node.file.write_text(tight[turn % 2][:turn * 37 % 200])   # as an editor does that writes in place
        node.daemon.process.send_signal(signal.SIGHUP)
        theirs = node.file.with_name('theirs')
        theirs.write_text(open_to_all)
        os.chown(theirs, GUEST, 0)
        theirs.rename(node.file)
        node.daemon.process.send_signal(signal.SIGHUP)
    for turn in range(10):
        node.file.unlink(missing_ok=True)
        trials = []
        for _ in range(3):
            hold_back(turn)
            trials.append(guest.popen(*show, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        for trial in trials:
            said, why = trial.communicate(timeout=240)
            assert trial.returncode == 125 and 'network' in why and said == '', (said, why)
    node.file.unlink()
    node.write(open_to_all)   # the control run: root's own word
    node.reload('policy')
    assert guest.ok(*show).split() != ['lo']


def test_a_storm_of_signals_stops_nobody(node, guest):
    ended = threading.Event()

    def storm():
        while not ended.is_set():
            node.daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.001)
    sender = threading.Thread(target=storm)
    sender.start()
    try:
        for _ in range(5):
            assert guest.ok('--', 'sh', '-c', INTERFACES).split() == ['lo']
            assert 'network' in guest.fails('--profile', 'ml', '--', 'true')
    finally:
        ended.set()
        sender.join()
    assert node.daemon.process.poll() is None and not node.daemon.events('policy_refused')


def acl(uid):
    """acl(5): `uid` may do all."""
    anybody = 2**32 - 1
    entries = [(1, 7, anybody), (2, 7, uid), (4, 5, anybody), (16, 7, anybody), (32, 5, anybody)]
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)


@pytest.mark.parametrize('how', ['another user\'s', 'writable by others', 'in a folder of another user\'s', 'a link',
                                 'in a folder that others may write to', 'in a folder that its group may write to',
                                 'an ACL lets somebody write', 'an ACL of the folder lets somebody write', 'a pipe', 'a folder',
                                 'not there', 'no policy'])
def test_a_daemon_without_a_policy_to_trust_does_not_start(programs, tmp_path, how):
    of_node, folder = open_folder(tmp_path), tmp_path / 'etc'
    folder.mkdir()
    file = folder / 'policy.json'
    file.write_text('{"version": 2}' if how == 'no policy' else '{"version": 1}')
    if how == 'another user\'s':
        os.chown(file, GUEST, 0)
    if how == 'writable by others':
        file.chmod(0o662)
    if how == 'in a folder of another user\'s':
        os.chown(folder, GUEST, 0)
    if how == 'in a folder that others may write to':
        folder.chmod(0o777)
    if how == 'in a folder that its group may write to':
        folder.chmod(0o775)
    if how.startswith('an ACL'):
        os.setxattr(folder if 'folder' in how else file, 'system.posix_acl_access', acl(GUEST))
        assert subprocess.run(['test', '-w', folder if 'folder' in how else file], user=GUEST, group=GUEST, extra_groups=[]).returncode == 0
    if how in ('a pipe', 'a folder'):
        file.unlink()
        os.mkfifo(file) if how == 'a pipe' else file.mkdir()
    if how == 'a link':
        file.rename(folder / 'real.json')
        file.symlink_to('real.json')
    if how == 'not there':
        file.unlink()
    daemon = Daemon(programs, of_node, options=['--policy', str(file)])
    process = daemon.spawn()
    assert process.wait(20) == 125
    assert str(folder) in daemon.log(), daemon.log()


def test_explain_is_what_a_start_gets(node, guest, root):
    for launcher, uid in ((guest, GUEST), (root, 0)):
        client = node.daemon.client(uid)
        given = client.ask(op='profile')['verdict']
        client.close()
        told = json.loads(launcher.ok('policy', 'explain', '--policy', node.file, '--user', uid, '--json', verb='policy'))
        assert {key: told[key] for key in given} == given
        process = launcher.popen('--', 'sleep', '1000')
        worker = wait_until(lambda: [w for w in node.daemon.workers(uid) if (w['name'], w['uid']) == ('sleep', uid)])[0]
        assert worker['profile'] == told['profile']
        process.terminate()
        process.wait()


def test_fields_and_indexes_before_anything_is_fetched(guest, node):
    builds = node.daemon.status()['builds']['total']
    assert 'uv' in guest.fails('--runtime-env', '{"uv": ["idna"]}', '--', 'true')
    assert node.daemon.status()['builds']['total'] == builds, 'not even a builder was started'
    said = guest.fails('--pip', 'idna', '--', 'true', env={'PIP_INDEX_URL': 'https://elsewhere.example/simple'})
    assert 'elsewhere.example' in said and 'mirror.example' in said
    said = guest.fails('--pip', 'idna @ https://elsewhere.example/idna-3.4-py3-none-any.whl', '--', 'true',
                       env={'PIP_INDEX_URL': 'https://mirror.example/simple'})
    assert 'elsewhere.example' in said
    said = guest.fails('--working-dir', 'https://elsewhere.example/x.zip', '--', 'true')
    assert 'elsewhere.example' in said
    assert '/tmp' in guest.fails('--working-dir', 'local:///tmp', '--', 'true')


PLACES = [['--working-dir', 's3://elsewhere.example/x.zip'], ['--working-dir', 'gs://elsewhere.example/x.zip'],
          ['--working-dir', 'azure://elsewhere.example/x.zip'], ['--working-dir', 'abfss://c@elsewhere.example/x.zip'],
          ['--working-dir', 'http://mirror.example@elsewhere.example/x.zip'],
          ['--working-dir', 'https://mirror.example/../elsewhere.example/x.zip'],
          ['--pip', 'x @ git+https://elsewhere.example/x.git'], ['--pip', '-e git+https://elsewhere.example/x.git#egg=x'],
          ['--pip', 'x', '--pip', '--extra-index-url https://elsewhere.example/simple'],
          ['--pip', 'x', '--pip', '-i https://elsewhere.example/simple'],
          ['--pip', 'x', '--pip', '--find-links=https://elsewhere.example/links'],
          ['--pip', 'https://elsewhere.example/x-1.tar.gz'],
          ['--runtime-env', '{"pip": {"packages": ["x"], "pip_install_options": ["--index-url", "https://elsewhere.example"]}}'],
          ['--runtime-env', '{"pip": {"packages": ["x"], "pip_install_options": ["-fhttps://elsewhere.example"]}}']]
SETTINGS = ['PIP_INDEX_URL', 'PIP_EXTRA_INDEX_URL', 'PIP_FIND_LINKS']


def test_what_is_not_listed_is_not_fetched_however_it_is_named(guest, node):
    index = {'PIP_INDEX_URL': 'https://mirror.example/simple', 'RTLAUNCH_RAY_PYTHON': '/usr/bin/python3'}
    project = guest.make_files('project', {'r.txt': 'x @ https://elsewhere.example/x-1.tar.gz\n'})
    included = ['--runtime-env', json.dumps({'working_dir': str(project), 'pip': ['-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/r.txt']})]
    trials = [(words, {}) for words in [*PLACES, included]]
    trials += [(['--pip', 'x'], {name: 'https://elsewhere.example/simple'}) for name in SETTINGS]
    trials.append((['--pip', 'x @ ${PLACE}'], {'PLACE': 'https://elsewhere.example/x-1.tar.gz'}))
    for words, env in trials:
        said = guest.fails(*words, '--', 'true', env={**index, **env})
        assert 'elsewhere.example' in said and 'may serve' in said, (words, env, said)


def test_who_enters_a_worker_is_held_to_its_profile(node, root):
    for profile, none in (('strict', True), ('ml', False)):
        process = root.popen('--profile', profile, '--', 'sleep', '1000')
        worker = wait_until(lambda: [w['id'] for w in node.daemon.workers()
                                     if w['profile'] == profile and w['state'] == 'running'])[0]
        told = root.ok('enter', worker, '--', 'grep', 'CapEff', '/proc/self/status', verb='enter')
        assert (told.split()[-1] == '0' * 16) == none
        process.terminate()
        process.wait()


def test_embedded_requests_tighten_too(programs, tmp_path):
    for uid in (0, PLAIN_UID):
        (tmp_path / str(uid)).mkdir()
        alone = make_launcher(programs, tmp_path / str(uid), uid)
        assert alone.ok('--profile', 'strict', '--', 'sh', '-c', INTERFACES).split() == ['lo']
        assert alone.run('--profile', 'strict', '--', 'touch', alone.home / 'x').returncode != 0
        alone.ok('--', 'touch', alone.home / 'x')
        assert 'devices' in alone.fails('--control', 'devices=["/dev/sda"]', '--', 'true')
        assert 'no such profile' in alone.fails('--profile', 'nope', '--', 'true')
