"""What is asked of a package index, and when: a small one of our own says."""

import base64
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import threading
import time
import zipfile

import pytest

from conftest import PLAIN_UID, make_launcher
from daemon_support import daemon, stopped_daemon  # noqa: F401 (fixtures)
from nothing_left import nothing_left, store_of


class Index:
    """Wheels by name and version, with PEP 691 pages and PEP 658 metadata. `asked` is what was, in order; `hashes` says
    otherwise than is true."""

    def __init__(self, folder, address='127.0.0.1'):
        self.folder, self.files, self.asked, self.gates, self.hashes = folder, {}, [], {}, {}
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self):
                index.asked.append(self.path)
                if gate := index.gates.get(self.path):
                    gate()
                kind, body = index.answer(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header('Content-Type', kind)
                self.send_header('Content-Length', str(len(body or b'')))
                self.end_headers()
                self.wfile.write(body or b'')

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f'http://{address}:{self.server.server_port}/simple'

    def add(self, name, version, requires=(), data=b'', record=True):
        """`data`: what a file of it holds. `record`: whether RECORD tells the truth of it."""
        info, module = f'{name}-{version}.dist-info', f'{name}.py'
        metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
        metadata += ''.join(f'Requires-Dist: {other}\n' for other in requires)
        files = {module: f'VERSION = "{version}"\n', f'{info}/METADATA': metadata,
                 f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
        recorded = {path: text.encode() for path, text in files.items()}
        if data:
            files[f'{name}.bin'], recorded[f'{name}.bin'] = data, data if record else b'other'
        lines = [f'{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")},{len(text)}'
                 for path, text in recorded.items()]
        files[f'{info}/RECORD'] = '\n'.join([*lines, f'{info}/RECORD,,', ''])
        path = self.folder / f'{name}-{version}-py3-none-any.whl'
        with zipfile.ZipFile(path, 'w') as wheel:
            for file, text in files.items():
                wheel.writestr(file, text)
        self.files[path.name] = (path.read_bytes(), metadata.encode())

    def answer(self, path):
        name = path.strip('/').rsplit('/', 1)[-1]
        if path.startswith('/simple/'):
            files = [{'filename': file, 'url': f'/files/{file}', 'core-metadata': True,
                      'hashes': {'sha256': self.hashes.get(file) or hashlib.sha256(wheel).hexdigest()}, 'size': len(wheel)}
                     for file, (wheel, _) in self.files.items() if file.startswith(name + '-')]
            page = {'meta': {'api-version': '1.1'}, 'name': name, 'files': files, 'versions': []}
            return 'application/vnd.pypi.simple.v1+json', json.dumps(page).encode() if files else None
        wheel, metadata = self.files.get(name.removesuffix('.metadata'), (None, None))
        return 'application/octet-stream', metadata if name.endswith('.metadata') else wheel

    def wheels(self):
        return [path for path in self.asked if path.endswith('.whl')]

    def pages(self):
        return [path.strip('/').split('/')[-1] for path in self.asked if path.startswith('/simple/')]


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / 'wheels'
    folder.mkdir()
    made = Index(folder)
    yield made
    made.server.shutdown()


def install(rt, index, base, *names):
    modules = [name.split('=')[0] for name in names]
    show = f'import {", ".join(modules)}; print({", ".join(f"{m}.VERSION" for m in modules)})'
    return rt.ok(*[word for name in names for word in ('--pip', name)], '--', base / 'bin/python', '-c', show,
                 env={'PIP_INDEX_URL': index.url, 'UV_INDEX_URL': index.url}).split()


def test_a_wheel_comes_while_its_dependencies_are_still_looked_up(rt, index, empty_base):
    index.add('first', '1.0', requires=['second'])
    index.add('second', '2.0')
    came = threading.Event()
    index.gates['/files/first-1.0-py3-none-any.whl'] = came.set
    index.gates['/simple/second/'] = lambda: came.wait(20)  # resolving can't end before
    assert install(rt, index, empty_base, 'first') == ['1.0']
    assert came.is_set() and sorted(index.wheels()) == ['/files/first-1.0-py3-none-any.whl',
                                                        '/files/second-2.0-py3-none-any.whl']


def test_a_wheel_that_was_guessed_wrongly_is_not_installed(rt_one, index, empty_base):
    """uv looks at the newest, which can't be had together with the other."""
    index.add('first', '2.0', requires=['second<2'])
    index.add('first', '1.0')
    index.add('second', '2.0')
    assert install(rt_one, index, empty_base, 'first', 'second==2.0') == ['1.0', '2.0']


def test_what_the_index_has_just_said_is_not_asked_again(rt_one, index, empty_base):
    index.add('first', '1.0')
    index.add('second', '1.0')
    assert install(rt_one, index, empty_base, 'first') == ['1.0']
    index.asked.clear()
    assert install(rt_one, index, empty_base, 'first', 'second') == ['1.0', '1.0']
    assert index.pages() == ['second']
    assert index.wheels() == ['/files/second-1.0-py3-none-any.whl']


def test_what_is_not_in_what_it_has_said_is_asked_for(rt_one, index, empty_base):
    """A version that was uploaded a second ago."""
    index.add('first', '1.0')
    assert install(rt_one, index, empty_base, 'first') == ['1.0']
    index.add('first', '1.1')
    assert install(rt_one, index, empty_base, 'first==1.1') == ['1.1']
    index.add('first', '1.2')
    options = json.dumps({'uv': {'packages': ['first==1.2'], 'uv_pip_install_options': ['--no-deps']}})
    out = rt_one.ok('--runtime-env', options, '--', empty_base / 'bin/python', '-c', 'import first; print(first.VERSION)',
                    env={'UV_INDEX_URL': index.url})
    assert out == '1.2\n'


def test_an_index_that_is_silent_for_one_holds_up_no_other(rt_one, index, empty_base):
    """uv locks the environment that it asks about, while it asks."""
    index.add('first', '1.0')
    index.add('second', '1.0')
    asked, done = threading.Event(), threading.Event()
    index.gates['/simple/first/'] = lambda: (asked.set(), done.wait(60))
    slow = []
    one = threading.Thread(target=lambda: slow.append(install(rt_one, index, empty_base, 'first')))
    one.start()
    assert asked.wait(60)
    assert install(rt_one, index, empty_base, 'second') == ['1.0'] and not slow
    done.set()
    one.join()
    assert slow == [['1.0']]


@pytest.fixture(params=['root', 'user', 'daemon'])
def whoever(request, programs, tmp_path):
    """As root, rootless, and a plain user through the daemon."""
    if request.param != 'user' and os.geteuid() != 0:
        pytest.skip('needs root')
    if request.param == 'daemon':
        return request.getfixturevalue('daemon').launcher(PLAIN_UID)
    return make_launcher(programs, tmp_path, PLAIN_UID if request.param == 'user' and os.geteuid() == 0 else 0)


def large():
    return os.urandom(2 << 20)


def has_been_unpacked(rt, file):
    """Waits until it lies in a staging of the store, in no layer yet."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if any((store_of(rt) / 'tmp').glob(f'*/tree/**/{file}')):
            return True
        time.sleep(0.01)
    return False


def unpacked_before_its_lock(rt, index, base, *names, fails=False):
    """Resolving can't end before what `first` needs is answered, which waits for `first` to be unpacked."""
    seen = []
    index.gates['/simple/second/'] = lambda: seen or seen.append(has_been_unpacked(rt, 'first.bin'))
    if fails:
        words = [word for name in names for word in ('--pip', name)]
        said = rt.fails(*words, '--', 'true', env={'PIP_INDEX_URL': index.url})
    else:
        said = install(rt, index, base, *names)
    assert seen == [True]
    return said


def test_a_large_wheel_is_unpacked_while_its_dependencies_are_still_looked_up(whoever, index, empty_base):
    index.add('first', '1.0', requires=['second'], data=large())
    index.add('second', '2.0')
    assert unpacked_before_its_lock(whoever, index, empty_base, 'first') == ['1.0']
    assert not list((store_of(whoever) / 'tmp').glob('*/tree'))


def test_one_that_was_unpacked_but_is_not_what_the_index_says_is_never_a_layer(whoever, index, empty_base):
    index.add('first', '1.0', requires=['second'], data=large())
    index.add('second', '2.0')
    index.hashes['first-1.0-py3-none-any.whl'] = '0' * 64
    with nothing_left(whoever):
        said = unpacked_before_its_lock(whoever, index, empty_base, 'first', fails=True)
    assert 'another hash' in said


def test_nothing_is_left_of_one_that_was_unpacked_for_what_can_not_be(whoever, index, empty_base):
    index.add('first', '1.0', requires=['second'], data=large())
    with nothing_left(whoever):
        said = unpacked_before_its_lock(whoever, index, empty_base, 'first', fails=True)
    assert 'second' in said


def test_one_that_was_unpacked_and_guessed_wrongly_is_dropped(whoever, index, empty_base):
    index.add('first', '2.0', requires=['second<2'], data=large())
    index.add('first', '1.0', data=large())
    index.add('second', '2.0', data=large())
    assert unpacked_before_its_lock(whoever, index, empty_base, 'first', 'second==2.0') == ['1.0', '2.0']
    assert not list((store_of(whoever) / 'tmp').glob('*/tree'))


def test_one_whose_record_lies_is_judged_when_it_is_needed(whoever, index, empty_base):
    index.add('first', '1.0', requires=['second'], data=large(), record=False)
    index.add('second', '2.0')
    assert unpacked_before_its_lock(whoever, index, empty_base, 'first') == ['1.0']


def test_who_only_guesses_holds_up_nobody(whoever, index, empty_base):
    """One has unpacked it and is kept waiting by the index; another, who knows that he needs it, goes on."""
    index.add('first', '1.0', requires=['second'], data=large())
    index.add('second', '2.0')
    index.add('third', '3.0', requires=['first'])
    unpacked, done, slow = threading.Event(), threading.Event(), []
    index.gates['/simple/second/'] = lambda: has_been_unpacked(whoever, 'first.bin') and unpacked.set() or done.wait(60)
    one = threading.Thread(target=lambda: slow.append(install(whoever, index, empty_base, 'first')))
    one.start()
    assert unpacked.wait(60)
    index.gates.clear()
    assert install(whoever, index, empty_base, 'third') == ['3.0'] and not slow
    done.set()
    one.join()
    assert slow == [['1.0']]


def test_an_index_with_a_password_is_asked_as_before(rt_one, index, empty_base):
    index.add('first', '1.0')
    index.url = index.url.replace('://', '://user:canary-9f2@')
    assert install(rt_one, index, empty_base, 'first') == ['1.0']
    grep = subprocess.run(['grep', '-rl', 'canary-9f2', rt_one.store], capture_output=True, text=True)
    assert grep.stdout == ''


@pytest.fixture
def nobodys_home():
    """Where HOME points for who has none. One that is on this machine already is covered, and stays as it is."""
    home = pathlib.Path('/nonexistent')
    covered = home.exists()
    if covered and os.geteuid() != 0:
        pytest.skip('/nonexistent exists, and only root can cover it')
    if covered:
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=777', 'none', home], check=True)
    yield lambda: sorted(home.iterdir()) if covered or home.exists() else []
    if covered:
        subprocess.run(['umount', home], check=True)


def test_a_url_with_a_user_alone_makes_nobody_a_home(rt, index, empty_base, nobodys_home):
    """uv looks for the password among credentials of its own, and makes their folder."""
    index.add('first', '1.0')
    index.url = index.url.replace('://', '://somebody@')
    assert install(rt, index, empty_base, 'first') == ['1.0']
    assert nobodys_home() == []
