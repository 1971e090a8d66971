"""OCI images as base, embedded and through rtlaunchd: their files are the root, their variables and their
folder the command's; working_dir, py_modules and env_vars come on top."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile

import pytest

from conftest import PLAIN_UID
from daemon_support import daemon, stopped_daemon, wait_until  # noqa: F401
from image_support import PASSWD, Image, Link, Registry, Special, programs_of, python_files
from nothing_left import nothing_left

TOOLS = [f'/usr/bin/{name}' for name in ('cat', 'ls', 'id', 'env', 'stat', 'touch', 'rm', 'mkdir', 'readlink')]
PYTHON = '/usr/bin/python3'


@pytest.fixture(scope='session')
def image(tmp_path_factory, programs):
    """Of three layers: a shell, a Python, and what changes the two below."""
    folder = tmp_path_factory.mktemp('image')
    folder.chmod(0o755)
    made = Image(folder, Env=['PATH=/usr/bin:/bin', 'LEVEL=image', 'KEPT=yes'], WorkingDir='/srv/app', User='')
    made.layer({**programs_of('/bin/sh', *TOOLS), 'etc/passwd': PASSWD, 'etc/old': 'old', 'srv/gone/file': 'x',
                'bin/sh': pathlib.Path(os.path.realpath('/bin/sh')), 'etc/resolv.conf': Link('/etc/nowhere')})
    made.layer({**python_files(), **programs_of('/bin/true'),
                **{name: file for name, file in programs_of(str(programs / 'uv')).items() if '/lib' in '/' + name}})
    made.layer({'etc/.wh.old': '', 'srv/gone/.wh..wh..opq': '', 'srv/gone/new': 'n', 'srv/app/hello': 'from the image\n'})
    return made.write()


@pytest.fixture(params=['embedded root', 'embedded user', 'daemon root', 'daemon user'])
def way(request, programs, tmp_path):
    """Whoever runs it, and through whatever: the result must be the same."""
    how, who = request.param.split()
    if how == 'embedded':
        return request.getfixturevalue('make_embedded')(PLAIN_UID if who == 'user' else 0)
    return request.getfixturevalue('daemon').launcher(PLAIN_UID if who == 'user' else 0)


@pytest.fixture
def make_embedded(programs, tmp_path):
    from conftest import make_launcher
    return lambda uid: make_launcher(programs, tmp_path, uid)


def test_its_files_are_the_root(way, image):
    script = '''cat hello; ls /srv/gone; ls /etc/old; pwd; echo $LEVEL $KEPT $HOME; echo ${SECRET:-none}
                touch /usr/bin/mine /etc/mine && echo writable; ls /work /home 2>&1; id -u; readlink /etc/resolv.conf; ls /rtlaunch'''
    out = way.run('--image', image.uri, '--env', 'LEVEL=${LEVEL}-and-more', '--', 'sh', '-c', script, env={'SECRET': 'of the caller'})
    lines = out.stdout.splitlines()
    assert lines[:2] == ['from the image', 'new'], out
    assert lines[2:5] == ['/srv/app', 'image-and-more yes /root', 'none'] and 'writable' in lines, out
    assert lines[-1] == str(way.uid) and '/etc/old' in out.stderr, out
    again = way.ok('--image', image.uri, '--', 'sh', '-c', 'ls /usr/bin/mine 2>&1; id -u')
    assert 'No such file' in again, 'what a command writes is its own'


def test_working_dir_py_modules_and_variables_come_on_top(way, image):
    project = way.make_files('project', {'main.py': 'import os, sys, helper\nopen("out", "w").write("x")\n'
                                                    'print(os.getcwd(), helper.WORD, os.environ["LEVEL"], sys.prefix)\n'})
    module = way.make_files('modules/helper', {'__init__.py': 'WORD = "helped"\n'})
    env = {'image_uri': image.uri, 'working_dir': str(project), 'py_modules': [str(module)], 'env_vars': {'LEVEL': '3'}}
    out = way.ok('--runtime-env', json.dumps(env), '--', 'python3', 'main.py')
    assert out == '/rtlaunch/working_dir helped 3 /usr\n'
    assert os.listdir(project) == ['main.py']
    older = {**env, 'container': {'image': env.pop('image_uri'), 'run_options': ['--cap-drop=ALL']}}
    older.pop('image_uri', None)
    assert way.ok('--runtime-env', json.dumps(older), '--', 'python3', 'main.py') == out


def test_an_environment_of_one_is_exec_ed(way, image):
    project = way.make_files('project', {'a': ''})
    environment = way.ok('env', 'create', '--name', 'img', '--image', image.uri, '--working-dir', project, verb='env').strip()
    for name in ('img', environment[:12]):
        assert way.ok('exec', name, '--', 'sh', '-c', 'echo $LEVEL; ls', verb='exec') == 'image\na\n'


@pytest.mark.parametrize('way', ['embedded root', 'daemon root'], indirect=True)
def test_its_own_command_and_user(way, tmp_path, image):
    rt = way
    own = Image(tmp_path / 'own-image', Entrypoint=['/bin/sh', '-c', 'id -u; id -g; echo "$HOME $0"; touch here && echo mine'],
                Cmd=['argument'], User='ray', WorkingDir='/home/ray')
    own.layers = list(image.layers)
    shutil.copytree(image.folder / 'blobs', own.folder / 'blobs')
    own.layer({'home/ray/': ''}).write()
    assert rt.ok('--image', own.uri) == '1001\n100\n/home/ray argument\nmine\n'
    assert rt.ok('--image', own.uri, '--', 'sh', '-c', 'id -u') == '1001\n'
    assert rt.ok('--image', own.uri, '--', 'sh', '-c', 'touch /usr/bin/mine && echo all of it is his') == 'all of it is his\n'
    assert 'has none of its own' in rt.fails('--image', image.uri)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can start rtlaunchd')
def test_root_runs_an_images_command_as_its_user_through_the_daemon(daemon, tmp_path, image):  # noqa: F811
    """The daemon's books have both; who enters is the same; nobody but root may ask for it."""
    rt = daemon.launcher(0)
    own = Image(tmp_path / 'own-image', User='1001:100')
    own.layers = list(image.layers)
    shutil.copytree(image.folder / 'blobs', own.folder / 'blobs')
    own.write()
    stays = rt.popen('--image', own.uri, '--', 'sh', '-c', 'id -u; read x', text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert stays.stdout.readline() == '1001\n'
    [worker] = daemon.workers()
    assert (worker['uid'], worker['runs_as']) == (0, 1001)
    told = rt.ok('enter', worker['id'], '--', 'sh', '-c', 'id -u; id -g; id -G; cat /proc/self/status', verb='enter')
    assert told.startswith('1001\n100\n100\n') and 'CapPrm:\t0000000000000000' in told
    stays.communicate('\n', timeout=60)
    answer = daemon.client(PLAIN_UID).ask([0] * 5, op='start', keys=[], user=[1001, 100])
    assert 'only root starts commands as somebody else' in answer['error']['reason'], answer


def test_a_root_that_lies_about_mount_points(make_embedded, tmp_path):
    """Layers with links where the launcher mounts: nothing lands where they point, here or on the host."""
    target = tmp_path / 'target'
    target.mkdir()
    bad = Image(tmp_path / 'bad')
    bad.layer({**programs_of('/bin/sh', *TOOLS), 'bin/sh': pathlib.Path(os.path.realpath('/bin/sh'))})
    bad.layer({'proc': Link(str(target)), 'dev': Link('/etc'), 'tmp': Link('/usr'), 'sys': Link('/proc/1/root'),
               'etc/hosts': Link(str(target / 'planted')), 'rtlaunch': Link(str(target)), 'var/tmp': Link('/')}).write()
    rt = make_embedded(0)
    project = rt.make_files('project', {'a': 'x'})
    out = rt.ok('--image', bad.uri, '--working-dir', project, '--', 'sh', '-c',
                'for p in /proc /dev /tmp /sys /etc/hosts /rtlaunch; do readlink $p; done; cat a; ls /dev/null; ls /proc/self/status')
    assert out == 'x/dev/null\n/proc/self/status\n'
    assert not os.listdir(target)


@pytest.mark.parametrize('way', ['embedded root', 'daemon root'], indirect=True)
def test_profile_ray_shares_what_rays_workers_share(way, image):
    """Devices, shared memory, ipc and the session's folder of the host; RAY_* and what is named; nothing else of it."""
    session = way.make_dir('ray/session_1')
    other = way.make_files('ray/session_2', {'theirs': ''})
    (session / 'log').write_text('of the session\n')
    (way.folder / 'token').write_text('bound\n')
    environment = way.ok('env', 'create', '--image', image.uri, verb='env').strip()
    script = f'''cat {session}/log; echo mine > {session}/log; ls {other}; ls {way.folder}/token 2>/dev/null; cat /etc/token; echo "$RAY_A,$B,$LEVEL,$C,$HOME"
                 readlink /proc/self/ns/ipc; stat -c %i /dev/shm; cat hello; touch /tmp/x && echo > /dev/null'''
    lines = way.ok('exec', environment, '--profile', 'ray', '--session', session, '--bind', f'{way.folder}/token=/etc/token', '--', 'sh', '-c',
                   script, verb='exec', env={'RAY_A': '1', 'B': '2', 'RTLAUNCH_ENV_VARS': '{"C": "${LEVEL}-$RAY_A"}'}).splitlines()
    assert lines == ['of the session', 'bound', '1,,image,image-1,/root',
                     os.readlink('/proc/self/ns/ipc'), str(os.stat('/dev/shm').st_ino), 'from the image'], lines
    assert (session / 'log').read_text() == 'mine\n' and not os.path.exists('/tmp/x')


def test_nothing_of_the_host_is_there(way, image):
    """The host's files, the store and the daemon: not by name, not through /proc, not from above."""
    secret = way.folder / 'secret'
    secret.write_text('s')
    script = f'ls {secret} {way.store}/* /../work /proc/1/root/ /proc/1/cwd/ 2>/dev/null; for p in /proc/[0-9]*; do cat $p/root{secret}; done 2>/dev/null; echo end'
    assert way.ok('--image', image.uri, '--', 'sh', '-c', script) == 'end\n'
    assert way.run('--image', image.uri, '--', 'cat', str(secret)).returncode == 1


def test_packages_for_its_own_python(way, image):
    """The image's Python, not the host's: as one more layer; the image stays what it was."""
    script = 'import idna, sys; print(idna.__version__, idna.__file__, idna.__cached__ is not None)'
    out = way.ok('--image', image.uri, '--pip', 'idna==3.7', '--', 'python3', '-c', script)
    assert out == '3.7 /usr/local/lib/python3.11/dist-packages/idna/__init__.py True\n'
    assert way.run('--image', image.uri, '--pip', 'idna==3.7', '--', 'true').stderr == '', 'warm'
    clean = way.ok('--image', image.uri, '--pip', 'idna==3.7', '--', 'sh', '-c', 'ls /build /rtlaunch 2>&1; ls /tmp; cat hello')
    assert clean.endswith('from the image\n') and clean.count('No such file') == 2
    assert 'No module named' in way.run('--image', image.uri, '--', 'python3', '-c', 'import idna').stderr


def test_packages_need_a_python(make_embedded, tmp_path, programs):
    rt = make_embedded(0)
    uv = {name: file for name, file in programs_of(str(programs / 'uv')).items() if not name.endswith('/uv')}
    shell = Image(tmp_path / 'shell').layer({**programs_of('/bin/sh'), **uv}).write()
    assert rt.run('--image', shell.uri, '--', 'sh', '-c', 'true').returncode == 0, 'fine where no field needs one'
    with nothing_left(rt):
        assert 'the image has no Python to install for' in rt.fails('--image', shell.uri, '--pip', 'idna', '--', 'sh')
    nothing = Image(tmp_path / 'nothing').layer({'usr/bin/python3': 'of another libc'}).write()
    with nothing_left(rt, but=['nothing: layer 1 of 1']):   # the image itself is whole
        assert 'it has no C library (glibc)' in rt.fails('--image', nothing.uri, '--pip', 'idna', '--', 'sh')


def seen_in(folder, secret):
    return [path for path in folder.rglob('*') if path.is_file() and not path.is_symlink() and secret in path.read_bytes()]


@pytest.mark.parametrize('way', ['embedded root', 'daemon user'], indirect=True)
def test_a_registry_with_a_login(way, tmp_path):
    """By skopeo, with an auth file; the login is in nothing that we say, write or start."""
    login = 'somebody:hunter2-and-more'
    made = Image(tmp_path / 'served').layer({**programs_of('/bin/sh'), 'bin/sh': pathlib.Path(os.path.realpath('/bin/sh'))})
    registry = Registry(made.layer({'hello': 'pulled\n'}).write(), 'team/tool', login)
    folder = way.make_dir('registry')
    uri = f'{registry.at}/team/tool:1'
    said = way.fails('--image', uri, '--', 'sh', env=registry.configure(folder))
    assert 'REGISTRY_AUTH_FILE' in said and 'nauthorized' in said, said
    env = registry.configure(folder, login)
    command = ['--image', f'docker://{uri}', '--', 'sh', '-c', 'while read line; do echo $line; done < /hello']
    first, second = way.run(*command, env=env), way.run(*command, env=env)
    assert first.stdout == second.stdout == 'pulled\n', (first, second)
    assert second.stderr == '' and len([path for path in registry.asked if '/blobs/' in path]) == 3, 'asked once'
    assert 'check its name and tag' in way.fails('--image', f'{registry.at}/team/other', '--', 'sh', env=env)
    store = pathlib.Path(way.daemon.store if hasattr(way, 'daemon') else way.store)
    secrets = [b'hunter2', registry.header.split()[1].encode()]
    assert not [path for secret in secrets for path in seen_in(store, secret)]
    assert not hasattr(way, 'daemon') or 'hunter2' not in way.daemon.all_logs()
    assert 'hunter2' not in said + first.stderr and not list(store.glob('uv/**/images/*'))


def test_knowing_a_layers_digest_is_no_right_to_it(stopped_daemon, tmp_path):  # noqa: F811
    """What one user unpacked is there for another who has the blob, and for nobody who only names it."""
    node = stopped_daemon.start()
    (tmp_path / 'kept').mkdir()
    made = Image(tmp_path / 'kept').layer({'secret': 'canary'}).layer(programs_of('/bin/cat')).write()
    owner, other = node.launcher(PLAIN_UID), node.launcher(PLAIN_UID + 1)
    assert owner.ok('--image', made.uri, '--', '/bin/cat', '/secret') == 'canary'
    layers = owner.ask('store', 'stats')['layers']
    blob = made.blob_of(0)
    kept = blob.read_bytes()
    blob.write_bytes(b'only its name')
    done = other.run('--image', made.uri, '--', '/bin/cat', '/secret')
    assert (done.returncode, done.stdout) == (125, '') and 'another digest' in done.stderr
    blob.unlink()
    done = other.run('--image', made.uri, '--', '/bin/cat', '/secret')
    assert (done.returncode, done.stdout) == (125, '') and 'missing' in done.stderr
    assert owner.ok('--image', made.uri, '--', '/bin/cat', '/secret') == 'canary'
    blob.write_bytes(kept)
    assert other.ok('--image', made.uri, '--', '/bin/cat', '/secret') == 'canary'
    assert owner.ask('store', 'stats')['layers'] == layers


def refused(rt, image, *args):
    return rt.fails('--image', image, *args, '--', 'true')


CLOSED = '''mount -t tmpfs -o mode=755 none /run && mkdir -m 700 /run/containers &&
exec setpriv --reuid={uid} --regid={uid} --clear-groups "$@"'''


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can close a folder to others')
def test_pulling_past_a_folder_that_podman_has_closed(make_embedded, tmp_path):
    """The control: skopeo by itself gives up where it may not look for credentials."""
    rt = make_embedded(PLAIN_UID)
    made = Image(tmp_path / 'served').layer({**programs_of('/bin/sh'), 'bin/sh': pathlib.Path(os.path.realpath('/bin/sh'))})
    registry = Registry(made.write(), 'team/tool')
    env = {**rt.env, **registry.configure(rt.make_dir('registry'))}
    shut = ['unshare', '--mount', 'sh', '-c', CLOSED.format(uid=PLAIN_UID), 'sh']
    alone = subprocess.run([*shut, 'skopeo', 'inspect', '--tls-verify=false', f'docker://{registry.at}/team/tool:1'], env=env,
                           capture_output=True, text=True)
    assert alone.returncode != 0 and '/run/containers' in alone.stderr, alone
    done = subprocess.run([*shut, *rt.command('--image', f'{registry.at}/team/tool:1', '--', 'sh', '-c', 'echo pulled')], env=env,
                          cwd=rt.home, capture_output=True, text=True)
    assert done.stdout == 'pulled\n', done


def test_a_policy_says_which_images(stopped_daemon, image):  # noqa: F811
    """Also of an environment that was made while it was allowed."""
    policy = stopped_daemon.folder / 'policy.json'
    policy.write_text(json.dumps({'version': 1, 'allow': {'images': ['oci:/*']}}))
    rt = stopped_daemon.start('--policy', str(policy)).launcher(PLAIN_UID)
    rt.ok('env', 'create', '--name', 'img', '--image', image.uri, verb='env')
    assert rt.ok('exec', 'img', '--', 'sh', '-c', 'echo $LEVEL', verb='exec') == 'image\n'
    policy.write_text(json.dumps({'version': 1, 'allow': {'images': ['oci:/elsewhere/*']}}))
    before = len(stopped_daemon.events('policy'))
    stopped_daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(stopped_daemon.events('policy')) > before, seconds=60)
    assert 'may not be used: oci:/elsewhere/* may' in refused(rt, image.uri)
    assert 'may not be used' in rt.fails('exec', 'img', '--', 'true', verb='exec')


CAPABILITIES = bytes.fromhex('0100000202200000000000000000000000000000')   # cap_dac_override and others, effective


def special_image(folder):
    """With a setuid copy of `id`, a program with capabilities, a device, a note on a file; and what shows them."""
    made = Image(folder, Env=['PATH=/usr/bin:/bin'])
    made.layer({**programs_of('/bin/sh', *TOOLS), **python_files(), 'bin/sh': pathlib.Path(os.path.realpath('/bin/sh'))})
    made.layer({'srv/su': Special(pathlib.Path('/usr/bin/id'), mode=0o4755),
                'srv/capable': Special('x', pax_headers={'SCHILY.xattr.security.capability': CAPABILITIES.decode('latin-1')}),
                'srv/zero': Special(type=tarfile.CHRTYPE, devmajor=1, devminor=5, mode=0o666),
                'srv/noted': Special('x', pax_headers={'SCHILY.xattr.user.note': 'of the image'})})
    return made.write()


LOOK = '''
import os, stat
mode = os.stat('/srv/su').st_mode
print(oct(mode & 0o7777), sorted(set(os.listdir('/srv'))), os.getxattr('/srv/noted', 'user.note').decode())
print(os.popen('/srv/su -u').read().strip() == str(os.getuid()))
try:
    print(open('/srv/zero', 'rb').read(1))
except OSError as error:
    print(type(error).__name__)
try:
    print(os.getxattr('/srv/capable', 'security.capability').hex())
except OSError as error:
    print('no capabilities')
'''
PLAIN = "0o755 ['capable', 'noted', 'su'] of the image\nTrue\nFileNotFoundError\nno capabilities\n"
KEPT = f"0o4755 ['capable', 'noted', 'su', 'zero'] of the image\nTrue\nPermissionError\n{CAPABILITIES.hex()}\n"


def test_special_files_of_an_image_are_left_out_and_told(way, tmp_path):
    special = special_image(tmp_path / 'special')
    done = way.run('--image', special.uri, '--', 'python3', '-c', LOOK)
    assert done.stdout == PLAIN, done
    for words in ('1 devices, fifos or sockets', '1 setuid or setgid bits', "1 files' extended attributes"):
        assert words in done.stderr, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason='a policy is root\'s')
def test_special_files_stay_where_the_policy_says_and_do_nothing(make_embedded, tmp_path):
    """Of root's own, without a daemon; of an image of the same layers that isn't named they don't."""
    special, other, rt = special_image(tmp_path / 'special'), special_image(tmp_path / 'other'), make_embedded(0)
    (tmp_path / 'policy.json').write_text(json.dumps({'version': 1, 'allow': {'special_files': [special.uri]}}))
    own_etc = """cd $1 && mkdir up work && mount -t overlay -o lowerdir=/etc,upperdir=up,workdir=work none /etc &&
                 mkdir -p -m 755 /etc/rtlaunch && install -m 644 policy.json /etc/rtlaunch/ && cd / && shift && exec "$@" """

    def said(image):
        shutil.rmtree(tmp_path / 'up', ignore_errors=True), shutil.rmtree(tmp_path / 'work', ignore_errors=True)
        done = subprocess.run(['unshare', '--mount', 'sh', '-c', own_etc, 'sh', str(tmp_path),
                               *rt.command('--image', image.uri, '--', 'python3', '-c', LOOK)], env=rt.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout
    assert (said(special), said(other)) == (KEPT, PLAIN)
    assert rt.run('store', 'verify', verb='store').returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can start rtlaunchd')
def test_through_the_daemon_no_special_files_stay(stopped_daemon, tmp_path):  # noqa: F811
    """Whatever its policy says, for root as well: its store is for all users. It is told."""
    special = special_image(tmp_path / 'special')
    policy = stopped_daemon.folder / 'policy.json'
    policy.write_text(json.dumps({'version': 1, 'allow': {'special_files': [special.uri]}}))
    rt = stopped_daemon.start('--policy', str(policy)).launcher(0)
    done = rt.run('--image', special.uri, '--', 'python3', '-c', LOOK)
    assert done.stdout == PLAIN and '1 setuid or setgid bits' in done.stderr, done
