"""Attacks from beside: whoever waits at names that can be guessed, ships libraries for us to load, swaps what is in the store,
or lays a trap where a file is read. Each with a control run in which it works."""

import ctypes
import errno
import os
import pathlib
import pty
import select
import shutil
import struct
import subprocess

import pytest

from conftest import PLAIN_UID, SYSTEM_PYTHON, make_launcher
from daemon_support import daemon, stopped_daemon, through  # noqa: F401

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='the victim is root')


# --- names that can be guessed -------------------------------------------------------------------------------------

class Watch:
    """What is made in these folders, by inotify(7)."""

    def __init__(self, *folders):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        for folder in folders:
            assert self.libc.inotify_add_watch(self.fd, os.fsencode(folder), 0x100 | 0x80) >= 0   # made, moved in

    def made(self):
        names = []
        while select.select([self.fd], [], [], 0)[0]:
            data, at = os.read(self.fd, 65536), 0
            while at < len(data):
                length = struct.unpack_from('iIII', data, at)[3]
                names.append(data[at + 16:at + 16 + length].rstrip(b'\0').decode())
                at += 16 + length
        return names


@pytest.fixture
def alone_here():
    """Nobody else makes anything in these: we are in a mount namespace of the tests' own (tools/run-tests)."""
    folders = ['/var/tmp', '/dev/shm']
    for folder in folders:
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=1777', 'none', folder], check=True)
    yield ['/tmp', *folders]
    for folder in folders:
        subprocess.run(['umount', '--lazy', folder], check=True)


# Attacks: A9
@needs_root
def test_nothing_is_made_where_everybody_may_make_something(alone_here, stopped_daemon, programs, tmp_path, base):
    (tmp_path / 'alone').mkdir()
    alone = make_launcher(programs, tmp_path / 'alone', 0)
    project = alone.make_files('project', {'main.py': 'print("there")'})
    watch = Watch(*alone_here)
    pathlib.Path('/tmp/made').touch()
    assert watch.made() == ['made'], 'the control run'
    daemon = stopped_daemon.start()
    for launcher in (alone, through(daemon, tmp_path, PLAIN_UID)):
        assert launcher.ok('--working-dir', project, '--pip', 'idna', '--python', base / 'bin/python', '--',
                           'python3', 'main.py') == 'there\n'
    daemon.stop()
    assert watch.made() == []


@needs_root
@pytest.mark.parametrize('how', ['another user\'s', 'a link', 'writable'])
def test_a_folder_that_waits_for_the_daemon_is_not_taken(stopped_daemon, tmp_path, how):
    runtime, canary = stopped_daemon.runtime, tmp_path / 'canary'
    canary.mkdir()
    if how == 'a link':
        os.chown(canary, PLAIN_UID, PLAIN_UID)
        runtime.symlink_to(canary)
    else:
        runtime.mkdir()
        os.chown(runtime, PLAIN_UID if how == 'another user\'s' else 0, 0)
        runtime.chmod(0o755 if how == 'another user\'s' else 0o777)
    process = stopped_daemon.spawn()
    assert process.wait(60) == 125 and str(runtime) in stopped_daemon.log()
    assert os.listdir(canary) == [] and ('others than root can write' in stopped_daemon.log())


# --- libraries for us to load --------------------------------------------------------------------------------------

TRAP = '''#include <stdio.h>
#include <unistd.h>
#include <stdlib.h>
__attribute__((constructor)) static void sprung(void) {
  char self[500] = ""; (void)!readlink("/proc/self/exe", self, sizeof self - 1);
  FILE *file = fopen(getenv("TRAP_LOG"), "a"); if (file) { fprintf(file, "%s\\n", self); fclose(file); } }
'''


# Attacks: B5
@needs_root
def test_the_launcher_loads_nothing_of_a_layer(stopped_daemon, programs, tmp_path):
    for path in (tmp_path, tmp_path.parent):
        path.chmod(0o755)
    traps, log = tmp_path / 'traps', tmp_path / 'log'
    (traps / 'locale/C.UTF-8').mkdir(parents=True)
    log.touch(mode=0o666)
    (tmp_path / 'trap.c').write_text(TRAP)
    subprocess.run(['gcc', '-shared', '-fPIC', '-o', traps / 'trap.so', tmp_path / 'trap.c'], check=True)
    for name in ('libnss_files.so.2', 'libnss_dns.so.2', 'libc.so.6.trap', 'UTF-16.so', 'UTF-8.so', 'libcap.so.2', 'libseccomp.so.2'):
        os.link(traps / 'trap.so', traps / name)
    (traps / 'gconv-modules').write_text('module UTF-8// INTERNAL UTF-8 1\nmodule INTERNAL UTF-8// UTF-8 1\n')
    env = {**os.environ, 'TRAP_LOG': str(log), 'LD_PRELOAD': str(traps / 'trap.so'), 'LD_LIBRARY_PATH': str(traps),
           'LD_AUDIT': str(traps / 'trap.so'), 'GCONV_PATH': str(traps), 'LOCPATH': str(traps / 'locale'), 'LC_ALL': 'C.UTF-8'}
    daemon = stopped_daemon
    daemon.process = daemon.spawn(env=env)
    daemon.wait_for_event('ready')
    for place in (['--embedded', '--store', str(tmp_path / 'store')], ['--socket', daemon.socket]):
        subprocess.run([programs / 'rtlaunch', 'run', *place, '--working-dir', traps, '--', '/bin/true'], env=env, check=True,
                       stdin=subprocess.DEVNULL, cwd='/')
    sprung = set(log.read_text().split())
    assert not [name for name in sprung if 'rtlaunch' in name and not name.endswith('rtlaunch-build')], sprung
    subprocess.run(['/bin/true'], env=env, check=True)
    assert os.path.realpath('/bin/true') in log.read_text(), 'the control run: it springs'


# What gets it executed inside reaches the launcher's own file past all mounts: by a child that it starts there.
GREEDY = '''#!/bin/sh
for process in /proc/[0-9]*; do
  case $(readlink $process/exe) in */rtlaunch*) chmod 4777 $process/exe;; esac
done
'''


# Attacks: B1
@pytest.mark.parametrize('how', ['itself', 'as interpreter', 'as interpreter of an interpreter'])
def test_the_launchers_own_program_is_not_executed_inside(rt, how):
    program = rt.folder / 'rtlaunch'
    shutil.copytree(pathlib.Path(rt.program).parent, rt.folder / 'bin')
    for path in (rt.folder / 'bin').iterdir():
        rt.own(path)
    rt.program = str(program := rt.folder / 'bin/rtlaunch')
    files = rt.make_files('files', {'greedy': GREEDY, 'first': '#!/proc/self/exe run\n', 'second': '#! ./first\n'})
    for path in files.iterdir():
        path.chmod(0o755)
    words = ['run', '--python', files / 'greedy', '--pip', 'idna', '--', 'true']
    command = {'itself': ['/proc/self/exe', *words], 'as interpreter': ['./first'], 'as interpreter of an interpreter': ['./second']}
    done = rt.run('--profile', 'ray', '--', *command[how], cwd=files)
    assert done.returncode == 126 and 'leads past the sandbox' in done.stderr, done
    assert program.stat().st_mode & 0o7777 == 0o755
    rt.run(*words[1:], cwd=files)
    assert program.stat().st_mode & 0o7777 == 0o4777, 'the control run: where it is reached'


# Who is led to the spawner's file through a process that it has made is led to a mount that can't be written.
# Attacks: B1
@needs_root
def test_nor_is_the_spawners_file_changed_through_it(daemon):
    program = daemon.programs / 'rtlaunch-spawner'
    assert os.path.samefile(f'/proc/{daemon.spawner()}/exe', program)
    with pytest.raises(OSError) as refused:
        os.chmod(f'/proc/{daemon.spawner()}/exe', 0o4777)
    assert refused.value.errno == errno.EROFS and program.stat().st_mode & 0o7777 == 0o755
    os.chmod(f'/proc/{daemon.process.pid}/exe', 0o700)
    assert (daemon.programs / 'rtlaunchd').stat().st_mode & 0o7777 == 0o700, 'the control run'
    os.chmod(daemon.programs / 'rtlaunchd', 0o755)


# Should it be executed there all the same, by who exchanged the command between our look and the exec: as what a worker of
# root's is, without capabilities, by an interpreter of its choice.
# Attacks: B1
@needs_root
def test_a_launcher_that_is_executed_inside_hides_its_file(rt_one):
    files = rt_one.make_files('files', {'greedy': GREEDY})
    (files / 'greedy').chmod(0o755)
    shutil.copytree(pathlib.Path(rt_one.program).parent, rt_one.folder / 'bin')
    launcher, other = rt_one.folder / 'bin/rtlaunch', files / 'rtlaunch-other'
    shutil.copy(shutil.which('timeout'), other)
    inside = ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs']
    subprocess.run([*inside, launcher, 'run', '--embedded', '--store', rt_one.store, '--python', files / 'greedy', '--pip', 'idna',
                    '--', 'true'], env=rt_one.env, cwd=files, capture_output=True)
    assert launcher.stat().st_mode & 0o7777 == 0o755
    subprocess.run([*inside, other, '60', files / 'greedy'], check=True)
    assert other.stat().st_mode & 0o7777 == 0o4777, 'the control run: another program of the same kind'


# --- the terminal --------------------------------------------------------------------------------------------------

BUILD_LOOKS = '''
import os, setuptools
def tty():
    try: os.close(os.open('/dev/tty', os.O_RDWR)); return True
    except OSError: return False
seen = [os.isatty(fd) for fd in range(3)] + [tty()]
open('seen.py', 'w').write('print(%r)' % seen)
setuptools.setup(name='looks', version='1', py_modules=['seen'])
'''


def at_a_terminal(command, env, cwd):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        os.execve(command[0], command, env)
    text = b''
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        text += data
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, text
    return text.decode()


# Attacks: B6
def test_a_build_has_no_terminal(rt_one, empty_base):
    project = rt_one.make_files('project', {'setup.py': BUILD_LOOKS})
    command = rt_one.command('--pip', './project', '--python', empty_base / 'bin/python', '--', empty_base / 'bin/python', '-c',
                             'import seen, os; print([os.isatty(fd) for fd in range(3)])')
    said = at_a_terminal([str(word) for word in command], rt_one.env, project.parent)
    assert '[False, False, False, False]' in said, said
    assert '[True, True, True]' in said, 'the control run: the command itself has it'


# --- the store -----------------------------------------------------------------------------------------------------

# Attacks: H6
@needs_root
def test_nobody_swaps_what_is_in_the_store(daemon, tmp_path, programs):
    guest = through(daemon, tmp_path, PLAIN_UID)
    project = guest.make_files('project', {'main.py': 'print("honest")'})
    run = ['--working-dir', project, '--', SYSTEM_PYTHON, 'main.py']
    assert guest.ok(*run) == 'honest\n'
    layer = next(path for path in daemon.store.glob('layers/sha256/*/*/tree') if (path / 'main.py').exists())
    swap = ('import os, sys\nlayer = sys.argv[1]\n'
            'for act in (lambda: open(layer + "/main.py", "w").write("print(\'swapped\')"), lambda: os.rename(layer, layer + ".old"),\n'
            '            lambda: os.symlink("/etc", layer + "/x"), lambda: os.listdir(os.path.dirname(layer))):\n'
            '  try: act(); print("did it")\n  except OSError: pass')
    outside = subprocess.run([SYSTEM_PYTHON, '-c', swap, layer], user=PLAIN_UID, group=PLAIN_UID, extra_groups=[],
                             capture_output=True, text=True, check=True).stdout
    inside = guest.ok('--working-dir', project, '--', SYSTEM_PYTHON, '-c', swap, layer)
    assert outside == inside == ''
    assert guest.ok(*run) == 'honest\n'
    (layer / 'main.py').write_text('print("swapped")')   # the control run: root, who alone can
    assert guest.ok(*run) == 'swapped\n'
    done = subprocess.run([programs / 'rtlaunch', 'store', 'verify', '--store', daemon.store], capture_output=True, text=True)
    assert done.returncode != 0 and layer.parent.name[:12] in done.stdout + done.stderr, done


# Attacks: A11
@pytest.mark.parametrize('name', ['file', 'folder/file'])
def test_what_is_kept_goes_through_no_link(rt, name):
    project = rt.make_files('project', {'main.py': ''})
    kept, canary = rt.make_dir('kept'), rt.make_files('canary', {'file': 'alive'})

    def link(to):
        (kept / name.partition('/')[0]).unlink(missing_ok=True)
        (kept / name.partition('/')[0]).symlink_to(to if '/' in name else to / 'file')
    link(canary)
    write = f'mkdir -p folder && echo evil > {name}'
    done = rt.run('--working-dir', project, '--keep', kept, '--', 'sh', '-c', write)
    assert (done.returncode == 125) == ('/' in name), done   # what is in its way is replaced, or told
    assert (canary / 'file').read_text() == 'alive' and os.listdir(canary) == ['file']
    link(canary)
    subprocess.run(['sh', '-c', write], cwd=kept, check=True)
    assert (canary / 'file').read_text() == 'evil\n', 'the control run: who writes by name'


# Attacks: H9
@pytest.mark.parametrize('what,name', [('fifo', 'data'), *((what, name) for what in ('fifo', 'huge')
                                                            for name in ('.gitignore', '.rayignore', 'sub/.gitignore'))])
def test_a_trap_where_a_file_is_read_holds_up_nobody(rt_one, what, name):
    project = rt_one.make_files('project', {'main.py': 'print("there")', 'sub/x': ''})
    if what == 'fifo':
        os.mkfifo(project / name)
        with pytest.raises(subprocess.TimeoutExpired):   # the control run
            subprocess.run(['cat', project / name], timeout=1)
    else:
        with open(project / name, 'w') as file:
            file.truncate(1 << 40)
    done = rt_one.run('--working-dir', project, '--', SYSTEM_PYTHON, 'main.py', timeout=120)
    assert done.stdout == 'there\n' or (done.returncode == 125 and name.rpartition('/')[2] in done.stderr), done
