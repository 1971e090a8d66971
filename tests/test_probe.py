"""Somebody else's probe for ways out of a container (cepheus-engine, PyPI): what its enumerator sees from within, matched
against its techniques. In a network namespace without anything, as it looks for services."""

import json
import os
import shlex
import subprocess

import pytest

from conftest import Launcher, PLAIN_UID, make_venv

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='the network namespace is made by root')

# Of the kernel and its security modules a sandbox is no master.
NOT_OURS = {'kernel', 'runtime'}


@pytest.fixture(scope='module')
def probe(tmp_path_factory, uv):
    return make_venv(tmp_path_factory.mktemp('probe') / 'venv', uv, 'cepheus-engine==1.1.1')


def matches(probe, tmp_path, command, env, uid):
    """Categories of the techniques that fit what `command` (which runs a shell on its stdin) shows."""
    [script] = probe.glob('lib/python*/site-packages/cepheus/enumerator/cepheus-enum.sh')
    drop = ['setpriv', f'--reuid={uid}', f'--regid={uid}', '--clear-groups'] if uid else []
    with open(script) as enumerator:
        seen = subprocess.run(['unshare', '--net', 'sh', '-c', 'ip link set lo up; exec "$@"', 'sh', *drop, *command], stdin=enumerator, env=env,
                              capture_output=True, text=True, timeout=1200, cwd='/')
    assert seen.returncode == 0, seen.stderr
    posture = tmp_path / 'posture.json'
    posture.write_text(seen.stdout)
    said = subprocess.run([probe / 'bin/cepheus', 'analyze', '-f', 'json', posture], capture_output=True, text=True, check=True).stdout
    found = json.loads(said)
    assert found['total_techniques_checked'] >= 70
    steps = [step.get('technique', step) for chain in found['chains'] for step in chain['steps']]
    return {step['id']: step['category'] for step in steps}


# Attacks: C7, E1, G; control: test_the_probe_finds_ways_out_of_a_plain_sandbox
@pytest.mark.parametrize('uid,profile', [(0, 'ml'), (PLAIN_UID, 'ml'), (0, 'strict')], ids=['root', 'user', 'root-strict'])
def test_a_probe_finds_no_way_out(probe, programs, tmp_path, uid, profile):
    rt = Launcher(programs, tmp_path, uid)
    os.chmod(tmp_path, 0o777)
    found = matches(probe, tmp_path, rt.command('--embedded', '--profile', profile, '--', 'sh'), rt.env, uid)
    assert {name: kind for name, kind in found.items() if kind not in NOT_OURS} == {}


def test_the_probe_finds_ways_out_of_a_plain_sandbox(probe, tmp_path):
    plain = shlex.split('bwrap --bind / / --proc /proc --dev-bind /dev /dev --unshare-pid sh')
    found = matches(probe, tmp_path, plain, dict(os.environ), 0)
    assert len([name for name, kind in found.items() if kind not in NOT_OURS]) >= 5, found
