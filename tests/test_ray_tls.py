"""A cluster that speaks TLS alone: packages come out of its key-value store by its certificates."""

import subprocess

import pytest

from ray_support import our_node, ray_daemon, ray_programs  # noqa: F401


@pytest.fixture(scope='module')
def certificates(tmp_path_factory):
    """An authority, and what it has signed for 127.0.0.1; Ray's variables for them."""
    folder = tmp_path_factory.mktemp('tls')
    folder.chmod(0o755)
    files = {name: folder / name for name in ('ca.crt', 'ca.key', 'node.crt', 'node.key', 'node.csr', 'names')}
    files['names'].write_text('subjectAltName=IP:127.0.0.1,DNS:localhost\n')

    def openssl(*words):
        subprocess.run(['openssl', *map(str, words)], check=True, capture_output=True)
    openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', 2, '-subj', '/CN=authority', '-keyout', files['ca.key'], '-out', files['ca.crt'])
    openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=localhost', '-keyout', files['node.key'], '-out', files['node.csr'])
    openssl('x509', '-req', '-days', 2, '-in', files['node.csr'], '-CA', files['ca.crt'], '-CAkey', files['ca.key'], '-CAcreateserial',
            '-extfile', files['names'], '-out', files['node.crt'])
    for one in files.values():
        one.chmod(0o644)
    return {'RAY_USE_TLS': '1', 'RAY_TLS_SERVER_CERT': str(files['node.crt']), 'RAY_TLS_SERVER_KEY': str(files['node.key']),
            'RAY_TLS_CA_CERT': str(files['ca.crt'])}


WORK = '''
connect(runtime_env={'working_dir': WORK})
@ray.remote(runtime_env={'env_vars': {'A': '1'}})
def seen():
    return open('data.txt').read(), os.environ['A']
answer(ray.get(seen.remote()))'''


def test_packages_come_over_tls(ray_programs, ray_daemon, certificates, tmp_path):  # noqa: F811
    (tmp_path / 'data.txt').write_text('seven')
    with our_node(ray_programs, ray_daemon, env=certificates) as one:
        assert one.drive(f'WORK = {str(tmp_path)!r}\n' + WORK) == ['seven', '1']


