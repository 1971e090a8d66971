"""`rtlaunch policy export --oci`: crun, an OCI runtime, runs what it writes, and what is inside is what our own worker has."""

import json
import os
import shutil
import subprocess

import pytest

from conftest import CALL, SYSTEM_PYTHON, make_launcher

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason='containers of root'),
              pytest.mark.skipif(not shutil.which('crun'), reason='crun is not installed')]

LOOK = CALL + '''
import errno, json, os, socket, resource
def writes(path):
    try:
        open(path + '/made-by-a-test', 'x').close()
        os.unlink(path + '/made-by-a-test')
        return True
    except OSError:
        return False
status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
print(json.dumps({
    'sets': [int(status[name], 16) for name in ('CapEff', 'CapPrm', 'CapInh', 'CapBnd', 'CapAmb')], 'no_new_privs': int(status['NoNewPrivs']),
    'filter': status['Seccomp'].strip(), 'ids': [os.getuid(), os.getgid()], 'map': open('/proc/self/uid_map').read().split(),
    'interfaces': len(open('/proc/net/dev').read().splitlines()), 'core': resource.getrlimit(resource.RLIMIT_CORE),
    'usr': writes('/usr'), 'tmp': [writes('/tmp'), os.path.exists('/tmp/of-the-host')], 'null': os.stat('/dev/null').st_rdev, 'opened': open('/dev/null', 'w').closed,
    'kcore': os.access('/proc/kcore', os.R_OK) and os.path.getsize('/proc/kcore') > 0, 'sys': writes('/proc/sys'),
    'calls': {name: call(*words) == 0 for name, words in {
        'namespaces': (272, 0x10000000), 'clock': (272, 0x80), 'thread': (272, 0x400), 'route': (41, 16, 3, 0), 'generic': (41, 16, 3, 16),
        'unix': (41, 1, 1, 0), 'personality': (135, 0xffffffff), 'old': (135, 0x400000), 'uring': (425, 0, 0), 'keys': (250, 0, -3, 0),
        'kcmp': (312, os.getpid(), os.getpid(), 0, 0, 0), 'pid': (39,)}.items()}}))
'''
IN_A_MOUNT_NAMESPACE = '''
mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && mkdir -p "$1/root" && mount --rbind / "$1/root" &&
mount -t tmpfs none /run && exec crun --cgroup-manager=disabled run -b "$1" rtlaunch-test'''


def run_by_crun(bundle, config, command):
    bundle.mkdir()
    config['root']['path'] = str(bundle / 'root')
    config['process']['args'] = command
    config['linux'].pop('resources')   # cgroups are not what is looked at
    (bundle / 'config.json').write_text(json.dumps(config))
    done = subprocess.run(['unshare', '--mount', '--fork', 'sh', '-c', IN_A_MOUNT_NAMESPACE, 'sh', bundle], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize('more', [[], ['--control', 'own_user=require']], ids=['plain', 'own_user'])
@pytest.mark.parametrize('profile', ['strict', 'ml', 'debug'])
def test_a_runtime_makes_of_it_what_we_do(programs, tmp_path, profile, more):
    rt = make_launcher(programs, tmp_path, 0)
    open('/tmp/of-the-host', 'w').close()
    asked = ['--profile', profile, *more]
    config = json.loads(rt.ok('policy', 'export', '--oci', *asked, verb='policy'))
    command = [SYSTEM_PYTHON, '-c', LOOK]
    theirs = run_by_crun(tmp_path / 'bundle', config, command)
    ours = json.loads(rt.ok('--embedded', *asked, '--', *command, input=''))
    assert theirs == ours
    assert ours['calls']['pid'] and ours['calls']['thread'] and not ours['calls']['namespaces'], 'the control run'


def test_what_it_has_no_words_for_is_told(programs, tmp_path):
    rt = make_launcher(programs, tmp_path, 0)
    open_list = json.loads(rt.ok('policy', 'export', '--oci', '--profile', 'ray', verb='policy'))
    assert 'rtlaunch.control.no_terminal_input' in open_list['annotations'] and 'rtlaunch.control.syscalls' not in open_list['annotations']
    names = [name for rule in open_list['linux']['seccomp']['syscalls'] if rule['action'] == 'SCMP_ACT_ALLOW' for name in rule['names']]
    assert 'read' in names and 'mount' not in names and 'io_uring_setup' not in names
