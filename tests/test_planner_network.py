"""What the planner (uv) reaches: any public place, and what is named; nothing else, whoever leads there. The network
here is one of the test's own, with a public address, the host's own ones and a cloud's metadata service on it."""

import os
import subprocess
import threading

import pytest

from conftest import SYSTEM_PYTHON
from daemon_support import daemon, stopped_daemon  # noqa: F401 (fixtures)
from test_build_network import METADATA, Host, Proxy
from test_index import Index

PUBLIC, OTHER = '198.51.100.7', '203.0.113.9'       # for documentation (RFC 5737): nobody's, and public to us
PRIVATE = ('127.0.0.1', '10.11.12.13', '::1')
FORBIDDEN = (METADATA, 'fd00:ec2::254')
CLONE_NEWNET = 0x40000000


@pytest.fixture
def network():
    """This process, and all that it starts, is in it meanwhile; so is each thread that it starts."""
    if os.geteuid() != 0:
        pytest.skip('needs root to make a network')
    own = os.open('/proc/self/ns/net', os.O_RDONLY | os.O_CLOEXEC)
    libc = __import__('ctypes').CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        subprocess.run('ip link set lo up', shell=True, check=True)
        for address in (PUBLIC, OTHER, *PRIVATE[1:2], *FORBIDDEN):
            v6 = ':' in address
            subprocess.run(['ip', *['-6'] * v6, 'addr', 'add', f'{address}/{128 if v6 else 32}', 'dev', 'lo', *['nodad'] * v6],
                           check=True)
        yield
    finally:
        assert libc.setns(own, CLONE_NEWNET) == 0
        os.close(own)


@pytest.fixture
def index(network, tmp_path):
    yield from made_index(tmp_path, PUBLIC)


def made_index(folder, address):
    (folder / 'wheels').mkdir()
    made = Index(folder / 'wheels', address)
    made.add('first', '1.0', requires=['second'])
    made.add('second', '2.0')
    yield made
    made.server.shutdown()


def lead(index, place, only='first'):
    """The index's page of this package says that its files lie there."""
    answer = index.answer

    def elsewhere(path):
        kind, body = answer(path)
        return kind, body and body.replace(f'"/files/{only}'.encode(), f'"http://{place}/files/{only}'.encode())
    index.answer = elsewhere


def plan_without(rt, index, tmp_path, wrapped=(), proxies=None):
    """The control: uv in the host's network."""
    return subprocess.run([*wrapped, os.path.dirname(rt.program) + '/uv',
                           'pip', 'compile', '--no-config', '--quiet', '--python', SYSTEM_PYTHON, '-'],
                          input='first\n', text=True, capture_output=True,
                          env={**rt.env, **(proxies or {}), 'UV_DEFAULT_INDEX': index.url, 'UV_CACHE_DIR': str(tmp_path / 'control')})


def words(index, base):
    return ['--pip', 'first', '--pip', f'--index-url {index.url}', '--', base / 'bin/python', '-c',
            'import first, second; print(first.VERSION, second.VERSION)']


# Attacks: H7
@pytest.mark.parametrize('address', [*FORBIDDEN, *PRIVATE])
def test_a_page_that_leads_astray_is_not_followed(rt, empty_base, index, tmp_path, address):
    service = Host(address)
    lead(index, service.place)
    plan_without(rt, index, tmp_path)
    assert any('first-1.0' in path for path in service.asked), 'the control: uv goes where the page says'
    service.asked.clear()
    error = rt.fails(*words(index, empty_base))
    assert service.asked == [], error
    assert service.place in error and 'may not be reached' in error, error


# Attacks: H7
def test_nor_is_an_index_that_redirects(rt, empty_base, index, tmp_path):
    for address in (METADATA, '127.0.0.1'):
        service = Host(address)
        index.url = Host(PUBLIC, redirect=service.url.rstrip('/')).url + 'simple'
        plan_without(rt, index, tmp_path)
        assert service.asked, 'the control'
        service.asked.clear()
        error = rt.fails(*words(index, empty_base))
        assert service.asked == [] and service.place in error, error


# Attacks: H7
@pytest.mark.parametrize('address', [METADATA, '127.0.0.1'])
def test_nor_is_a_name_that_leads_there(rt_one, empty_base, index, tmp_path, address):
    """By /etc/hosts, in a mount namespace of the launcher's own: as a name server of the attacker's would."""
    hosts = tmp_path / 'hosts'
    hosts.write_text(f'{address} innocent.example\n')
    service = Host(address)
    lead(index, f'innocent.example:{service.port}')
    wrapped = ['unshare', '-m', 'sh', '-c', f'mount --bind {hosts} /etc/hosts && exec "$@"', 'sh']
    plan_without(rt_one, index, tmp_path, wrapped)
    assert service.asked, 'the control'
    service.asked.clear()
    done = subprocess.run([*wrapped, *rt_one.command(*words(index, empty_base))], env=rt_one.env, cwd=rt_one.home,
                          capture_output=True, text=True)
    assert done.returncode == 125 and service.asked == [], done.stderr
    assert f'innocent.example:{service.port}' in done.stderr and 'may not be reached' in done.stderr


# Attacks: H7; control: test_a_page_that_leads_astray_is_not_followed
@pytest.mark.parametrize('name', ['localhost', '127.0.0.1'])
def test_nor_is_localhost_past_a_proxy_of_the_callers(rt_one, empty_base, index, name):
    service, proxy = Host('127.0.0.1'), Proxy(index.server.server_port, PUBLIC)
    lead(index, f'{name}:{service.port}')
    error = rt_one.fails(*words(index, empty_base), env={'http_proxy': proxy.url, 'no_proxy': 'localhost,127.0.0.1'})
    assert service.asked == [] and proxy.asked and f'{name}:{service.port}' in error, error


# Attacks: H7; control: test_a_page_that_leads_astray_is_not_followed
def test_nor_through_the_daemon(index, daemon, empty_base):  # noqa: F811
    service = Host('127.0.0.1')
    lead(index, service.place)
    error = daemon.launcher(12345).fails(*words(index, empty_base))
    assert service.asked == [] and service.place in error, error


def test_any_public_place_is_reached_unnamed(rt, empty_base, index, tmp_path):
    files = Index(index.folder, OTHER)
    files.files = index.files
    lead(index, f'{OTHER}:{files.server.server_port}')
    assert rt.ok(*words(index, empty_base)) == '1.0 2.0\n'
    assert sorted(files.wheels()) == ['/files/first-1.0-py3-none-any.whl']


def test_a_private_place_that_is_named_is_reached(rt, empty_base, index):
    files = Index(index.folder)
    files.files = index.files
    lead(index, f'127.0.0.1:{files.server.server_port}')
    answer = files.answer
    files.answer = lambda path: ('text/html', b'') if path == '/links/' else answer(path)
    named = ['--pip', f'--find-links http://127.0.0.1:{files.server.server_port}/links/']
    assert rt.ok(*named, *words(index, empty_base)) == '1.0 2.0\n'
    assert files.wheels()


def test_files_of_an_index_that_lies_privately_may_do_so_too(rt, empty_base, network, tmp_path):
    """Also where its pages are known already, and so it is not asked again."""
    for index in made_index(tmp_path, '127.0.0.1'):
        files = Index(index.folder, '10.11.12.13')
        index.add('first', '0.9', requires=['second'])
        files.files = index.files
        lead(index, f'10.11.12.13:{files.server.server_port}')
        assert rt.ok(*words(index, empty_base)) == '1.0 2.0\n'
        index.asked.clear()
        assert rt.ok('--pip', 'first==0.9', *words(index, empty_base)) == '0.9 2.0\n'
        assert index.pages() == [] and len(files.wheels()) == 2


def test_the_planner_goes_through_the_callers_own_proxy(rt, empty_base, index):
    proxy = Proxy(index.server.server_port, PUBLIC)
    index.url = 'http://index.invalid/simple'
    ours = {'HTTP_PROXY': proxy.url, 'http_proxy': proxy.url, 'NO_PROXY': '', 'no_proxy': ''}
    done = rt.run(*words(index, empty_base), env=ours)
    assert done.stdout == '1.0 2.0\n', done.stderr
    assert any('http://index.invalid/simple/second/' in line for line in proxy.asked), proxy.asked
    assert any('.whl.metadata' in line for line in proxy.asked) and 'secret-5' not in done.stderr


def test_an_index_that_is_not_there_is_told_of_by_the_planner(rt, empty_base, network):
    error = rt.fails('--pip', 'first', '--pip', '--index-url http://127.0.0.1:9/simple', '--', empty_base / 'bin/python', '-c', '')
    assert '127.0.0.1:9' in error and "can't be reached" in error, error


def test_the_planner_sees_no_interface_but_its_own(rt, empty_base, index):
    """While it waits for the index it is looked at from outside."""
    asked, done, seen = threading.Event(), threading.Event(), []
    index.gates['/simple/first/'] = lambda: (asked.set(), done.wait(60))
    run = rt.popen(*words(index, empty_base), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert asked.wait(60)
        ours = os.readlink('/proc/self/ns/net')
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                words_of = open(f'/proc/{pid}/cmdline').read().split('\0')
            except OSError:
                continue
            if words_of[0].endswith('/uv') and '--dry-run' in words_of and rt.store in '\0'.join(words_of):
                seen.append((os.readlink(f'/proc/{pid}/ns/net'), open(f'/proc/{pid}/net/dev').read(),
                             open(f'/proc/{pid}/status').read()))
    finally:
        done.set()
        out, err = run.communicate()
    assert out == '1.0 2.0\n', err
    [(name, interfaces, status)] = seen
    assert name != ours and [line.split(':')[0].strip() for line in interfaces.splitlines()[2:]] == ['lo']
    effective = int(next(line for line in status.splitlines() if line.startswith('CapEff')).split()[1], 16)
    assert effective == 0 or rt.uid == 0
