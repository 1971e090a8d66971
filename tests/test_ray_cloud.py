"""Packages in a cloud's storage, fetched by what Ray itself fetches them with. The client is the cloud's own (boto3); what
answers it here is a few lines of the protocol, that want to see credentials."""

import contextlib
import http.server
import io
import threading
import zipfile

import pytest

import ray_support
from ray_support import Driven, ray_daemon, ray_programs  # noqa: F401

KEY = 'AKRTLAUNCHTEST'


class Storage(http.server.BaseHTTPRequestHandler):
    files = {}

    def answer(self, status, body, kind='application/xml', **headers):
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def do_GET(self):
        body = self.files.get(self.path.partition('?')[0])
        if KEY not in self.headers.get('Authorization', ''):
            return self.answer(403, b'<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>')
        if body is None:
            return self.answer(404, b'<Error><Code>NoSuchKey</Code><Message>The key does not exist</Message></Error>')
        if not self.headers.get('Range'):
            return self.answer(200, body, 'application/zip', ETag='"1"')
        first, _, last = self.headers['Range'].removeprefix('bytes=').partition('-')
        part = body[int(first):int(last) + 1 if last else None]
        self.answer(206, part, 'application/zip', ETag='"1"',
                    Content_Range=f'bytes {first}-{int(first) + len(part) - 1}/{len(body)}')

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def storage():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Storage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {'AWS_ENDPOINT_URL': f'http://127.0.0.1:{server.server_port}', 'AWS_ACCESS_KEY_ID': KEY,
               'AWS_SECRET_ACCESS_KEY': 'a secret of the cloud', 'AWS_DEFAULT_REGION': 'us-east-1', 'AWS_EC2_METADATA_DISABLED': 'true'}
    finally:
        server.shutdown()


def archive(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as out:
        for name, text in files.items():
            out.writestr(name, text)
    return packed.getvalue()


@pytest.fixture(scope='module', params=['stock', 'daemon', 'embedded'])
def node(request, tmp_path_factory):
    with storage() as env:
        if request.param == 'stock':
            made = ray_support.node(env=env)
        else:
            programs = request.getfixturevalue('ray_programs')
            daemon = request.getfixturevalue('ray_daemon') if request.param == 'daemon' else None
            made = ray_support.our_node(programs, daemon, store=tmp_path_factory.mktemp('store'), env=env)
        with made as one:
            yield one


SEEN = '''
connect(runtime_env={'working_dir': 's3://bucket/dir/work.zip', 'py_modules': ['s3://bucket/mod.zip']})
@ray.remote
def seen():
    import mod
    return open('data.txt').read(), mod.VALUE
answer(ray.get(seen.remote()))'''


def test_a_job_has_its_files_from_there(node):
    Storage.files.update({'/bucket/dir/work.zip': archive({'top/data.txt': 'seven'}), '/bucket/mod.zip': archive({'top/mod.py': 'VALUE = 7'})})
    assert node.drive(SEEN) == ['seven', 7]
    assert not any('a secret of the cloud' in text for text in node.logs().values())


def test_what_is_not_there_is_said(node):
    with pytest.raises(Driven) as failed:
        node.drive('''
            connect()
            @ray.remote(runtime_env={'working_dir': 's3://bucket/none.zip'})
            def seen():
                return 1
            answer(ray.get(seen.remote()))''')
    assert 'RuntimeEnvSetupError' in str(failed.value) and 's3://bucket/none.zip' in str(failed.value)
    assert 'NoSuchKey' in str(failed.value)
