"""Bad input: one line of cause, one of cure, 125, and nothing lost or left."""

import contextlib
import ctypes
import gzip
import io
import json
import os
import pathlib
import random
import signal
import stat
import struct
import subprocess
import tarfile
import time
import traceback
import zipfile
import zlib

import pytest


def leftovers(rt):
    """Staging and trash of the store; both must be empty when nothing runs."""
    found = []
    for folder in ('tmp', 'trash'):
        path = os.path.join(rt.store, folder)
        if os.path.isdir(path):
            found += [f'{folder}/{name}' for name in os.listdir(path)]
    return found


JSONS = [
    ('{"env_vars": {"A": "b"}', 'line 1'),
    ('{\n  "env_vars": {\n    "A": b\n  }\n}', 'line 3'),
    ('{"env_vars": {"A": 1}}', 'env_vars.A'),
    ('{"pip": ["a", 3]}', 'pip'),
    ('{"env_var": {}}', 'env_vars'),
    ('{"env_vars": {}, "env_vars": {}}', 'env_vars'),
    ('{"pip": ["a"], "uv": ["a"]}', 'uv'),
    ('{"config": {"setup_timeout_seconds": 0}}', 'setup_timeout_seconds'),
    ('[]', 'object'),
    ('{"pip": {"packages": ["a"], "pip_chek": true}}', 'pip_check'),
    ('{"working_dir": 3}', 'working_dir'),
    ('{"a":' * 100 + '1' + '}' * 100, 'deep'),
]


@pytest.mark.parametrize('text,says', JSONS, ids=[says for _, says in JSONS])
def test_json(rt_one, text, says):
    assert says in rt_one.fails('--runtime-env', text, '--', 'true')


@pytest.mark.parametrize('args,says', [
    (['--wroking-dir', '.', '--', 'true'], '--working-dir'),
    (['--pip'], 'value'),
    ([], 'command'),
    (['--runtime-env', '/no/such/file.json', '--', 'true'], '/no/such/file.json'),
    (['--working-dir', '/no/such/dir', '--', 'true'], '/no/such/dir'),
    (['--working-dir', 's3://bucket/a.zip', '--', 'true'], 's3'),
    (['--working-dir', '/etc/passwd', '--', 'true'], '/etc/passwd'),
    (['--python', '/bin/ls', '--pip', 'emoji', '--', 'true'], '/bin/ls'),
    (['--upper-size', 'big', '--', 'true'], 'big'),
])
def test_command_line(rt_one, args, says):
    assert says in rt_one.fails(*args, code=127 if '--python' in args and False else 125)


def raw_zip(entries, change=None):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    raw = bytearray(data.getvalue())
    return bytes(change(raw) if change else raw)


def two_of_a_name():
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return raw_zip([('a', 'one', 0o100644), ('a', 'two', 0o100644)])


def bomb():
    """1.25 GiB in as many kilobytes; all of its files have the same content, compressed once."""
    size, press = 64 << 20, zlib.compressobj(9, zlib.DEFLATED, -15)
    packed, crc = press.compress(b'\0' * size) + press.flush(), zlib.crc32(b'\0' * size)
    local = central = b''
    for i in range(20):
        name = b'zeros%02d' % i
        facts = struct.pack('<5H3I2H', 20, 0, 8, 0, 33, crc, len(packed), size, len(name), 0)
        central += b'PK\1\2' + struct.pack('<H', 20) + facts + struct.pack('<3H2I', 0, 0, 0, 0o100644 << 16, len(local)) + name
        local += b'PK\3\4' + facts + name + packed
    return local + central + b'PK\5\6' + struct.pack('<4H2IH', 0, 0, 20, 20, len(central), len(local), 0)


def flip_name(raw):
    at = raw.index(b'good')
    raw[at:at + 4] = b'evil'   # in the local header only
    return raw


ZIPS = {
    'dotdot': lambda: raw_zip([('../escaped', 'x', 0o100644)]),
    'absolute': lambda: raw_zip([('/escaped', 'x', 0o100644)]),
    'backslash': lambda: raw_zip([('a\\..\\..\\escaped', 'x', 0o100644)]),
    'link out': lambda: raw_zip([('link', '../../../../etc', 0o120777), ('link/escaped', 'x', 0o100644)]),
    'absolute link': lambda: raw_zip([('link', '/etc/passwd', 0o120777)]),
    'twice the same': two_of_a_name,
    'truncated': lambda: raw_zip([('a', os.urandom(5000), 0o100644)])[:3000],
    'no zip': lambda: b'this is no archive at all',
    'two headers': lambda: raw_zip([('good', 'x', 0o100644)], flip_name),
    'device': lambda: raw_zip([('dev', '', stat.S_IFCHR | 0o666)]),
    'file as folder': lambda: raw_zip([('a', 'x', 0o100644), ('a/b', 'y', 0o100644)]),
}


def believe(raw, modes, into):
    """As many readers do: goes from header to header and makes what each says, where it says."""
    at = 0
    while raw[at:at + 4] == b'PK\3\4':
        size, names, extra = struct.unpack_from('<I4xHH', raw, at + 18)   # stored, as raw_zip does
        start = at + 30 + names + extra
        where = os.path.join(into, raw[at + 30:at + 30 + names].decode().replace('\\', '/'))
        content, mode = raw[start:start + size], modes[at]
        at = start + size
        os.makedirs(os.path.dirname(where), exist_ok=True)
        if stat.S_ISLNK(mode):
            os.symlink(content, where)
        elif stat.S_ISCHR(mode):
            os.mknod(where, mode, os.makedev(1, 5))
        else:
            pathlib.Path(where).write_bytes(content)
            os.chmod(where, stat.S_IMODE(mode))


def unpacked_by_a_believer(archive, folder):
    """What has become of a world of its own, where the archive was unpacked in /a/b/c."""
    world = folder / 'world'
    (world / 'a/b/c').mkdir(parents=True)
    (world / 'etc').mkdir()
    (world / 'x.zip').write_bytes(archive)
    with zipfile.ZipFile(world / 'x.zip') as read:
        modes = {info.header_offset: info.external_attr >> 16 for info in read.infolist()}
    if (pid := os.fork()) == 0:
        try:
            os.chroot(world)
            believe(archive, modes, '/a/b/c')
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.waitpid(pid, 0)
    return world


# What each wants, and gets from who believes it. The others are harmless, or no archive.
WANTED = {
    'dotdot': lambda world: (world / 'a/b/escaped').exists(),
    'absolute': lambda world: (world / 'escaped').exists(),
    'backslash': lambda world: (world / 'a/b/escaped').exists(),
    'link out': lambda world: (world / 'etc/escaped').exists(),
    'absolute link': lambda world: os.readlink(world / 'a/b/c/link') == '/etc/passwd',
    'twice the same': lambda world: (world / 'a/b/c/a').read_text() == 'two',
    'two headers': lambda world: (world / 'a/b/c/evil').exists() and zipfile.ZipFile(world / 'x.zip').namelist() == ['good'],
    'device': lambda world: (world / 'a/b/c/dev').is_char_device(),
}


# Attacks: H1, H2, H5
@pytest.mark.parametrize('kind', ZIPS)
def test_hostile_zip(rt, kind):
    path = rt.folder / 'bad.zip'
    path.write_bytes(ZIPS[kind]())
    error = rt.fails('--working-dir', path, '--', 'true')
    assert 'bad.zip' in error
    assert not leftovers(rt) and not (rt.folder / 'escaped').exists()
    if kind in WANTED and os.geteuid() == 0:
        assert WANTED[kind](unpacked_by_a_believer(path.read_bytes(), rt.folder)), 'the control run'


def tar_with(*members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w:gz') as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b'x'))
    return data.getvalue()


TARS = {
    'dotdot': lambda: tar_with(('../escaped', tarfile.REGTYPE, '')),
    'absolute': lambda: tar_with(('/escaped', tarfile.REGTYPE, '')),
    'link out': lambda: tar_with(('l', tarfile.SYMTYPE, '../../..'), ('l/escaped', tarfile.REGTYPE, '')),
    'hard link out': lambda: tar_with(('l', tarfile.LNKTYPE, '../../../../etc/passwd')),
    'device': lambda: tar_with(('null', tarfile.CHRTYPE, '')),
    'fifo': lambda: tar_with(('pipe', tarfile.FIFOTYPE, '')),
    'truncated': lambda: tar_with(*[(f'f{i}', tarfile.REGTYPE, '') for i in range(1000)])[:1500],
}


# Attacks: H1, H5
@pytest.mark.parametrize('kind', TARS)
def test_hostile_tar(rt, kind):
    path = rt.folder / 'bad.tar.gz'
    path.write_bytes(TARS[kind]())
    assert 'bad.tar.gz' in rt.fails('--working-dir', path, '--', 'true')
    assert not leftovers(rt) and not (rt.folder / 'escaped').exists()
    inside = rt.make_dir('a/b/c')
    if kind in ('dotdot', 'link out', 'fifo'):   # the control run: who believes what an archive says
        subprocess.run(['tar', '-xPzf', path, '-C', inside], check=True)
        assert (inside / '../escaped').exists() or (inside / '../../../escaped').exists() or (inside / 'pipe').is_fifo()


# Attacks: H4
def test_a_bomb(rt):
    path = rt.folder / 'bomb.zip'
    path.write_bytes(bomb())
    assert 'bomb.zip' in rt.fails('--working-dir', path, '--', 'true')
    assert not leftovers(rt)
    with zipfile.ZipFile(path) as archive:   # the control run: who begins gets the twentieth part of a thousandfold
        assert len(archive.read('zeros00')) * 20 > 1000 * path.stat().st_size


# Attacks: H3
def test_a_tar_that_is_two_archives(rt):
    """One size in the header, another in what extends it: to who reads only one, what the file holds is a member."""
    path = rt.folder / 'two.tar'
    hidden = tarfile.TarInfo('hidden').tobuf(tarfile.USTAR_FORMAT)
    info = tarfile.TarInfo('a')
    info.pax_headers = {'size': str(len(hidden))}
    path.write_bytes(info.tobuf(tarfile.PAX_FORMAT) + hidden + bytes(1024))
    with open(path, 'rb') as file:   # the control run: the simplest of readers
        names = [block[:100].rstrip(b'\0') for block in iter(lambda: file.read(512), b'') if block[257:262] == b'ustar']
    assert b'hidden' in names and b'a' in names
    packed = gzip.compress(path.read_bytes())
    (rt.folder / 'two.tar.gz').write_bytes(packed)
    done = rt.run('--working-dir', rt.folder / 'two.tar.gz', '--', 'sh', '-c', 'ls; stat -c %s a')
    assert (done.returncode, done.stdout) == (0, f'a\n{len(hidden)}\n') or done.returncode == 125, done


# Attacks: C3
def test_setuid_does_not_survive(rt):
    path = rt.folder / 'p.zip'
    path.write_bytes(raw_zip([('tool', 'x', 0o106755)]))
    assert rt.ok('--working-dir', path, '--', 'stat', '-c', '%a', 'tool') == '755\n'
    if os.geteuid() == 0:
        tool = unpacked_by_a_believer(path.read_bytes(), rt.folder) / 'a/b/c/tool'
        assert tool.stat().st_mode & 0o7777 == 0o6755, 'the control run'


def zip_of_many(count):
    name = b'%07d'
    local = b''.join(struct.pack('<4s5H3I2H', b'PK\3\4', 20, 0, 0, 0, 33, 0, 0, 0, 7, 0) + name % i for i in range(count))
    central = b''.join(struct.pack('<4s6H3I5H2I', b'PK\1\2', 20, 20, 0, 0, 0, 33, 0, 0, 0, 7, 0, 0, 0, 0, 0, 37 * i) + name % i
                       for i in range(count))
    end64 = struct.pack('<4sQ2H2I4Q', b'PK\6\6', 44, 45, 45, 0, 0, count, count, len(central), len(local))
    locator = struct.pack('<4sIQI', b'PK\6\7', 0, len(local) + len(central), 1)
    end = struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, 65535, 65535, 0xffffffff, 0xffffffff, 0)
    return local + central + end64 + locator + end


# Attacks: H4
def test_too_many_entries(rt_one):
    path, few = rt_one.folder / 'many.zip', rt_one.folder / 'few.zip'
    path.write_bytes(zip_of_many(1_000_001))
    few.write_bytes(zip_of_many(1000))
    assert rt_one.ok('--working-dir', few, '--', 'sh', '-c', 'ls | wc -l') == '1000\n', 'the control run: the same, but fewer'
    started = time.monotonic()
    assert 'many.zip' in rt_one.fails('--working-dir', path, '--', 'true')
    assert time.monotonic() - started < 20
    assert not leftovers(rt_one)


def with_small_store(rt, size, *args):
    """Runs with the store on a file system of `size`, in a mount namespace of its own."""
    script = 'mount -t tmpfs -o size=$1 tmpfs "$2" && shift 2 && "$@"; code=$?; exit $code'
    os.makedirs(rt.store, exist_ok=True)
    return subprocess.run(['unshare', '--mount', '--', 'sh', '-c', script, 'sh', size, rt.store, *map(str, args)],
                          env=rt.env, cwd=rt.home, capture_output=True, text=True)


def test_full_disk(rt_one, empty_base):
    done = with_small_store(rt_one, '40M', *rt_one.command('--pip', 'numpy', '--', empty_base / 'bin/python', '-c', ''))
    assert done.returncode == 125
    assert 'space' in done.stderr.lower() and '  cure: ' in done.stderr


def test_read_only_store(rt_one, empty_base):
    command = rt_one.command('--pip', 'emoji==2.14.0', '--', empty_base / 'bin/python', '-c', 'import emoji')
    assert subprocess.run(command, env=rt_one.env, cwd=rt_one.home).returncode == 0
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    shut = lambda *args: subprocess.run(['unshare', '--mount', '--', 'sh', '-c', script, 'sh', rt_one.store, *map(str, args)],
                                        env=rt_one.env, cwd=rt_one.home, capture_output=True, text=True)
    warm = shut(*command)
    assert warm.returncode == 0, warm.stderr
    cold = shut(*rt_one.command('--pip', 'idna==3.7', '--', empty_base / 'bin/python', '-c', ''))
    assert cold.returncode == 125 and 'ead-only' in cold.stderr and '  cure: ' in cold.stderr


def test_store_of_a_newer_format(rt_one):
    rt_one.ok('--', 'true')
    with open(rt_one.store + '/FORMAT', 'w') as file:
        file.write('rtlaunch-store 99 0123456789abcdef0123456789abcdef\n')
    assert 'newer' in rt_one.fails('--', 'true')


def test_fifty_identical_runs_build_once(rt_one, empty_base):
    command = rt_one.command('--pip', 'emoji==2.14.0', '--', empty_base / 'bin/python', '-c', 'import emoji; print(emoji.__version__)')
    running = [subprocess.Popen(command, env=rt_one.env, cwd=rt_one.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for _ in range(50)]
    results = [process.communicate() for process in running]
    assert [out for out, _ in results] == ['2.14.0\n'] * 50, results[0]
    wheels = [layer for layer in rt_one.ask('store', 'ls') if layer['kind'] == 'wheel' and 'emoji' in layer['name']]
    assert len(wheels) == 1


def test_fifty_different_runs(rt_one):
    folders = [rt_one.make_files(f'p{i}', {'n.txt': f'{i}\n'}) for i in range(50)]
    running = [subprocess.Popen(rt_one.command('--working-dir', folder, '--', 'cat', 'n.txt'), env=rt_one.env, cwd=rt_one.home,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for folder in folders]
    assert [process.communicate()[0] for process in running] == [f'{i}\n' for i in range(50)]


def test_killed_at_any_moment(rt, empty_base):
    """Whatever is interrupted, the next run works and the store is whole."""
    rng = random.Random(7)
    versions = ['2.14.0', '2.13.0', '2.12.1', '2.12.0', '2.11.0', '2.10.1']
    for round_number, version in enumerate(versions):
        process = rt.popen('--pip', f'emoji=={version}', '--pip', 'idna==3.7', '--', empty_base / 'bin/python', '-c', 'pass',
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.02, 0.8))
        process.send_signal([signal.SIGKILL, signal.SIGTERM, signal.SIGINT][round_number % 3])
        process.wait()
    out = rt.ok('--pip', f'emoji=={versions[-1]}', '--pip', 'idna==3.7', '--', empty_base / 'bin/python', '-c',
                'import emoji; print(emoji.__version__)')
    assert out == versions[-1] + '\n'
    assert rt.run('store', 'verify', '--json', verb='ask').returncode == 0
    deadline = time.monotonic() + 30
    while leftovers(rt) and time.monotonic() < deadline:   # bytecode is being staged in the background
        time.sleep(0.1)
    assert not leftovers(rt)


def test_no_permission_for_namespaces(programs, tmp_path):
    """A user whose user namespaces are forbidden is told so."""
    from conftest import make_launcher, PLAIN_UID
    if os.geteuid() != 0:
        pytest.skip('needs root to forbid them')
    rt = make_launcher(programs, tmp_path, PLAIN_UID)
    with in_user_namespace() as (enter, leave):
        def forbid_and_become():
            enter()
            with open('/proc/sys/user/max_user_namespaces', 'w') as limit:
                limit.write('0')
            os.setgroups([])
            os.setresgid(PLAIN_UID, PLAIN_UID, PLAIN_UID)
            os.setresuid(PLAIN_UID, PLAIN_UID, PLAIN_UID)
        process = subprocess.Popen(rt.command('--', 'true'), env=rt.env, cwd=rt.home, text=True,
                                   stderr=subprocess.PIPE, preexec_fn=forbid_and_become)
        error = process.communicate()[1]
        leave()
    assert process.returncode == 125 and 'namespace' in error and '  cure: ' in error


@contextlib.contextmanager
def in_user_namespace():
    """A user namespace with all of our ids; yields what a child calls to enter it, and to end it."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, go = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        ok = libc.unshare(0x10000000) == 0   # CLONE_NEWUSER
        os.write(ready[1], b'y' if ok else b'n')
        os.read(go[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b'y'
    for name in ('uid_map', 'gid_map'):
        with open(f'/proc/{holder}/{name}', 'w') as ids:
            ids.write('0 0 65536')
    namespace = os.open(f'/proc/{holder}/ns/user', os.O_RDONLY)

    def enter():
        if libc.setns(namespace, 0) != 0:
            raise OSError(ctypes.get_errno(), 'setns')

    def leave():
        os.write(go[1], b'x')
        os.waitpid(holder, 0)
    yield enter, leave
    for fd in (*ready, *go, namespace):
        os.close(fd)


def test_upper_on_overlay_store(rt_one, tmp_path):
    """A store can't be on overlayfs (a container's root): said so, with what to do."""
    for name in ('lower', 'upper', 'work', 'merged'):
        (tmp_path / name).mkdir()
    script = (f'mount -t tmpfs tmpfs {tmp_path} && cd {tmp_path} && mkdir lower upper work merged && '
              'mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged && '
              f'RTLAUNCH_STORE={tmp_path}/merged/store exec "$@"')
    done = subprocess.run(['unshare', '--mount', '--', 'sh', '-c', script, 'sh', *rt_one.command('--', 'true')],
                          env=rt_one.env, cwd='/', capture_output=True, text=True)
    assert done.returncode == 125 and 'overlay' in done.stderr and '--store' in done.stderr
