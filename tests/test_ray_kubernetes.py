"""A cluster whose tokens Kubernetes judges. Its API is a stand-in that knows one token; who asks it, how, and what
becomes of the answer is Ray's own code, in the raylet, in GCS, in workers, and behind our agent."""

import contextlib
import http.client
import http.server
import json
import os
import pathlib
import ssl
import subprocess
import threading

import pytest

from ray_support import our_node, ray_daemon, ray_programs  # noqa: F401 (fixtures)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason='the places of its secrets are root\'s')

TOKEN = 'the-service-accounts'


class Api(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        review = 'tokenreviews' in self.path
        if review:
            self.server.asked.append(body['spec']['token'])
        body['status'] = {'authenticated': body['spec']['token'] == TOKEN, 'user': {'username': 'me', 'uid': '1', 'groups': ['g']}} \
            if review else {'allowed': True}
        text = json.dumps(body).encode()
        self.send_response(201)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def secrets():
    """Where a pod has them; nothing is left there."""
    folder = pathlib.Path('/run/secrets')
    was = folder.exists()
    folder.mkdir(exist_ok=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=755', 'secrets', folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(['umount', '--lazy', folder], check=True)
        was or folder.rmdir()


@pytest.fixture
def kubernetes(tmp_path):
    key, cert = tmp_path / 'key.pem', tmp_path / 'cert.pem'
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext',
                    'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with secrets() as folder, http.server.ThreadingHTTPServer(('127.0.0.1', 0), Api) as server:
        for name, files in (('kubernetes.io', {'ca.crt': cert.read_text(), 'token': 'of-the-pod'}), ('ray.io', {'token': TOKEN})):
            (folder / name / 'serviceaccount').mkdir(parents=True)
            for file, text in files.items():
                (folder / name / 'serviceaccount' / file).write_text(text)
        server.socket, server.asked = context.wrap_socket(server.socket, server_side=True), []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.env = {'RAY_AUTH_MODE': 'token', 'RAY_ENABLE_K8S_TOKEN_AUTH': 'true', 'KUBERNETES_SERVICE_HOST': '127.0.0.1',
                      'KUBERNETES_SERVICE_PORT': str(server.server_port), 'RAY_CLUSTER_NAME': 'mine', 'RAY_CLUSTER_NAMESPACE': 'default'}
        yield server
        server.shutdown()


def test_kubernetes_judges_who_asks_the_agent(kubernetes, ray_programs, ray_daemon, tmp_path):  # noqa: F811
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work/data.txt').write_text('seven')
    with our_node(ray_programs, ray_daemon, env=kubernetes.env) as one:
        assert one.drive(f'''
            connect(runtime_env={{'working_dir': {str(tmp_path / 'work')!r}}})
            answer(ray.get(ray.remote(lambda: open('data.txt').read()).remote()))''') == 'seven'
        [file] = one.session.glob('runtime_env_agent_port_*')

        def status(token):
            line = http.client.HTTPConnection('127.0.0.1', int(file.read_text()), timeout=60)
            line.request('POST', '/get_runtime_envs_info', b'', {'Authorization': f'Bearer {token}'})
            return line.getresponse().status
        asked = len(kubernetes.asked)
        assert [status(TOKEN), status("another's"), status("another's"), status(TOKEN)] == [200, 403, 403, 200]
        assert kubernetes.asked[asked:] == ["another's"], 'an answer is kept for a while'
