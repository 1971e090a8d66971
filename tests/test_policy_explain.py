"""What `policy explain` says is what a worker finds: each profile that is shipped, and one with all off, is looked at from
within, control by control, and compared with what the same user finds outside."""

import errno
import json
import os
import subprocess

import pytest

from conftest import CALL, PLAIN_UID, SYSTEM_PYTHON, make_launcher
from daemon_support import Daemon, through

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='as root and as another user')

SHIPPED = ['strict', 'ml', 'debug', 'ray']
# Where one is wanted all are given.
FILES = ['private_tmp', 'private_dev', 'private_ipc', 'own_hostname', 'read_only_root', 'masked_proc']
# What the kernel answers may stand in for.
CALLS = ['no_new_namespaces', 'no_debug', 'no_io_uring', 'no_userfaultfd', 'no_bpf', 'no_terminal_input', 'common_sockets', 'own_keyring']
OFF = [*FILES, *CALLS, 'no_home', 'own_clock', 'own_user', 'no_mounts', 'no_capabilities', 'no_foreign_code', 'no_outside_signals',
       'no_outside_sockets', 'environment', 'rlimits', 'syscalls', 'network', 'pids']
REFUSED = (errno.EPERM, errno.ENOSYS, errno.EACCES)

LOOK = CALL + '''
import json, os, resource, sys
def ns(name):
    return os.readlink('/proc/self/ns/' + name)
status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
print(json.dumps({
    'private_tmp': os.path.exists(sys.argv[1]), 'private_dev': os.stat('/dev').st_dev, 'private_ipc': ns('ipc'), 'own_hostname': ns('uts'),
    'read_only_root': os.statvfs('/usr').f_flag & os.ST_RDONLY, 'masked_proc': os.statvfs('/proc/sys').f_flag & os.ST_RDONLY,
    'own_processes': ns('pid'), 'own_clock': ns('time'), 'own_user': ns('user'), 'network': ns('net'),
    'no_home': os.access(os.environ['HOME'], os.W_OK), 'rlimits': resource.getrlimit(resource.RLIMIT_CORE)[1],
    'environment': 'OF_THE_CALLER' in os.environ, 'no_new_privileges': status['NoNewPrivs'].strip(),
    'capabilities': int(status['CapEff'], 16), 'filter': status['Seccomp'].strip(),
    'no_new_namespaces': call(272, 0x10000000), 'no_debug': call(312, os.getpid(), os.getpid(), 0, 0, 0), 'no_io_uring': call(425, 0, 0),
    'no_userfaultfd': call(323, 0xffff), 'no_bpf': call(321, 0xffff, 0, 0), 'no_terminal_input': call(16, 0, 0x5412, 0),
    'common_sockets': call(41, 16, 3, 16), 'own_keyring': call(250, 0, -3, 0)}))
'''


@pytest.fixture(scope='module')
def node(programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('node')
    folder.chmod(0o755)
    loose = {'extends': 'ray', **{name: 'off' for name in OFF}}
    (folder / 'policy.json').write_text(json.dumps({'version': 1, 'profiles': {'loose': loose}, 'choose': [*SHIPPED, 'loose']}))
    daemon = Daemon(programs, folder, options=['--policy', str(folder / 'policy.json')]).start()
    yield daemon
    daemon.stop()


def wanted(control):
    value = control['value']
    return value != 'off' and not (isinstance(value, dict) and (value.get('want') == 'off' or value.get('mode') == 'host'))


@pytest.mark.parametrize('uid', [0, PLAIN_UID], ids=['root', 'user'])
@pytest.mark.parametrize('profile', [*SHIPPED, 'loose'])
def test_what_is_explained_is_what_is_found(node, tmp_path, profile, uid):
    client = through(node, tmp_path, uid)
    marker = f'/tmp/marker-{profile}-{uid}'
    open(marker, 'w').close()
    client.env['OF_THE_CALLER'] = '1'
    look = [SYSTEM_PYTHON, '-c', LOOK, marker]
    more = {'user': uid, 'group': uid, 'extra_groups': []} if uid else {}
    outside = json.loads(subprocess.run(look, env=client.env, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, **more).stdout)
    inside = json.loads(client.ok('--profile', profile, '--', *look, input=''))
    told = json.loads(client.ok('policy', 'explain', '--policy', node.folder / 'policy.json', '--user', uid, '--profile', profile,
                                '--json', verb='policy'))['controls']
    want = {name: wanted(control) for name, control in told.items()}
    for name in FILES:
        want[name] = any(want[other] for other in FILES)
    lacks = node.events('started')[-1]['not_applied']
    wrong = {}
    for name, found in inside.items():
        if name not in want or (name == 'own_clock' and 'time_namespace' in lacks):
            continue
        as_outside = found == outside[name]
        if want[name] and as_outside and not (name in CALLS and found in REFUSED):
            wrong[name] = 'is said to be on'
        if not want[name] and not as_outside and not (name in CALLS and want['syscalls']):
            wrong[name] = 'is said to be off'
    assert wrong == {}, (inside, outside)
    assert inside['filter'] == ('2' if want['syscalls'] else '0') and inside['no_new_privileges'] == '1'
    assert (inside['capabilities'] == 0) == (want['no_capabilities'] or uid != 0)
    os.unlink(marker)


def test_without_a_daemon_it_is_the_same(programs, tmp_path):
    """The built-in policy: by the profile's own word, and as the daemon's workers were."""
    for uid in (0, PLAIN_UID):
        (tmp_path / str(uid)).mkdir()
        client = make_launcher(programs, tmp_path / str(uid), uid)
        for profile in SHIPPED:
            found = json.loads(client.ok('--embedded', '--profile', profile, '--', SYSTEM_PYTHON, '-c', LOOK, '/nothing', input=''))
            told = json.loads(client.ok('policy', 'explain', '--profile', profile, '--json', verb='policy'))['controls']
            assert (found['network'] != os.readlink('/proc/self/ns/net')) == wanted(told['network'])
            assert bool(found['read_only_root']) == wanted(told['read_only_root'])
            assert found['filter'] == '2' and (not wanted(told['no_new_namespaces']) or found['no_new_namespaces'] in REFUSED)
            assert (found['capabilities'] == 0) == (wanted(told['no_capabilities']) or uid != 0)
