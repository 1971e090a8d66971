"""What `uv run` syncs, as a layer, without Ray: the policy's word on where it comes from, and nobody else's layer.
With Ray: test_ray_uv_run.py."""

import json
import os
import shutil
import subprocess

import pytest

from conftest import BIN, PLAIN_UID
from daemon_support import Daemon, through

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='only root can start rtlaunchd')


@pytest.fixture(scope='module')
def asked(programs, tmp_path_factory):
    """The field, as the agent writes it; its pyproject.toml names a page for people as well."""
    shutil.copy(BIN / 'rtlaunch-uv-run.py', programs)
    folder = tmp_path_factory.mktemp('project')
    project = ('[project]\nname = "small"\nversion = "1.0"\nrequires-python = ">=3.11"\ndependencies = ["toolz==0.12.0"]\n'
               '[project.urls]\nHomepage = "https://for-people.example/"\n')
    (folder / 'pyproject.toml').write_text(project)
    subprocess.run([BIN / 'uv', 'lock', '-q', '--python', '/usr/bin/python3'], cwd=folder, check=True)
    certificates = {name: os.environ[name] for name in ('SSL_CERT_FILE', 'SSL_CERT_DIR') if name in os.environ}
    return {'uv': str(programs / 'uv'), 'python': '/usr/bin/python3', 'show': list(certificates.values()), 'env': certificates,
            'sync': ['--frozen'], 'with': [], 'pages': [], 'pyproject': project, 'lock': (folder / 'uv.lock').read_text()}


def run(programs, folder, asked, allow, ok=True):
    (folder / 'node').mkdir(parents=True)
    for path in (folder, folder / 'node'):
        path.chmod(0o755)
    (folder / 'node/policy.json').write_text(json.dumps({'version': 1, 'allow': allow}))
    one = Daemon(programs, folder / 'node', options=['--policy', str(folder / 'node/policy.json')]).start()
    try:
        rt = through(one, folder, PLAIN_UID)
        command = ('--runtime-env', json.dumps({'uv_run': asked}), '--', 'python', '-c', 'import sys, toolz; print(toolz.__version__, sys.prefix)')
        return rt.ok(*command) if ok else rt.fails(*command)
    finally:
        one.stop()


def test_the_policy_says_where_from(programs, asked, tmp_path):
    places = sorted({'/'.join(part.split('/')[:3]) + '/*' for part in asked['lock'].split('"') if part.startswith('https://')})
    version, prefix = run(programs, tmp_path / 'some', asked, {'indexes': places}).split()
    assert version == '0.12.0' and prefix.endswith('/plugins/uv_run/project')
    said = run(programs, tmp_path / 'none', asked, {'indexes': ['https://nowhere.example/*']}, ok=False)
    assert 'nothing may be fetched from there' in said, said
    said = run(programs, tmp_path / 'fields', asked, {'fields': ['pip', 'env_vars']}, ok=False)
    assert 'uv: this field is not allowed for you' in said, said
    said = run(programs, tmp_path / 'pip', {**asked, 'uv': '/etc/shadow'}, {}, ok=False)
    assert '/etc/shadow' in said and 'Permission denied' in said, said
