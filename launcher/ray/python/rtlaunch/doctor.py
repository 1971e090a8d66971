"""`rtlaunch ray doctor`: what a node needs to run Ray's environments through rtlaunch, one line each.

    ok       programs      rtlaunch 0.1.0 in /usr/lib/python3/dist-packages/rtlaunch/bin
    missing  overlayfs     the kernel doesn't know it: modprobe overlay
    note     daemon        none answers: each node makes its own environments; start rtlaunchd to share them

Exit status 1 when a line says missing. The last two checks start workers as a raylet's would be started."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from rtlaunch import programs

TESTED = '2.60.0'
AGENT_TOOLS = ('rtlaunch', 'rtlaunch-agent', 'rtlaunch-build', 'rtlaunch-spawner', 'rtlaunchd', 'uv')


def ok(text):
    return 'ok', text


def missing(text, cure):
    return 'missing', f'{text}: {cure}'


def note(text):
    return 'note', text


def run(*words, **more):
    return subprocess.run(list(map(str, words)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **more)


def ray_version():
    try:
        import ray
    except ImportError as error:
        return missing(f'{sys.executable} has no Ray ({error})', f'{sys.executable} -m pip install ray')
    if ray.__version__ == TESTED:
        return ok(f'{ray.__version__} in {sys.prefix}')
    return note(f'{ray.__version__}; {TESTED} is what rtlaunch is tested with')


def plugin():
    done = run(sys.executable, '-c', 'import rtlaunch.ray')
    if done.returncode == 0:
        return ok('rtlaunch.ray.Plugin can be loaded')
    return missing('rtlaunch.ray can not be loaded (' + (done.stderr.strip().splitlines() or ['?'])[-1] + ')',
                   f'install the wheel into {sys.prefix}')


def switched():
    from rtlaunch.ray import CLASS, VARIABLE, obstacle
    if CLASS not in os.environ.get(VARIABLE, ''):
        return note(f'{VARIABLE} is not set here: `rtlaunch ray start` sets it, and so does eval "$(rtlaunch ray env)"')
    why = obstacle()
    return missing(why, 'install the wheel again, or set RTLAUNCH_BIN') if why else ok(f'{VARIABLE} is set')


def tools():
    folder = programs()
    lacking = [name for name in AGENT_TOOLS if not os.access(folder / name, os.X_OK)]
    if lacking:
        return missing(f'{folder} lacks {", ".join(lacking)}', 'install the wheel again, or set RTLAUNCH_BIN')
    for name in ('rtlaunch', 'rtlaunch-agent', 'rtlaunch-build'):
        done = run(folder / name, '--version')
        if done.returncode < 0 or done.returncode in (126, 127):
            return missing(f'{name} does not start ({(done.stderr.strip().splitlines() or ["?"])[-1]})',
                           'this wheel needs glibc 2.36 or newer')
    return ok(f'{run(folder / "rtlaunch", "--version").stdout.strip()} in {folder}')


def shell():
    return ok(shutil.which('bash')) if shutil.which('bash') else missing('no bash on PATH', 'apt-get install bash')


def overlayfs():
    names = pathlib.Path('/proc/filesystems').read_text().split()
    return ok('known to the kernel') if 'overlay' in names else missing("the kernel doesn't know it", 'modprobe overlay')


def wants_daemon():
    return os.environ.get('RTLAUNCH_EMBEDDED') != '1'


def daemon():
    if not wants_daemon():
        return note('RTLAUNCH_EMBEDDED=1: this node makes its environments by itself')
    done = run(programs() / 'rtlaunch', 'status', '--json')
    if done.returncode == 0:
        return ok('rtlaunchd answers')
    return note(f'none answers; each node makes its own environments. To share them: sudo {programs()}/rtlaunchd')


def namespaces():
    if os.geteuid() == 0 or daemon()[0] == 'ok':
        return ok('not needed')
    done = run('unshare', '--user', '--map-root-user', '--mount', 'true')
    if done.returncode == 0:
        return ok('plain users may make them')
    return missing('plain users may not make them', 'sysctl kernel.unprivileged_userns_clone=1, or start rtlaunchd as root')


def worker():
    """A worker as a raylet's: it must have one pid, inside as outside."""
    words = [programs() / 'rtlaunch', 'run', '--profile', 'ray', '--', sys.executable, '-c',
             'import os, sys; print(os.getpid(), flush=True); sys.stdin.read()']
    process = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline().strip()
    seen = numbers_of(line)
    _, said = process.communicate('')
    if not line:
        return missing('does not start (' + ' '.join(said.split())[:300] + ')', 'see the lines above')
    if len(seen) > 1 and set(seen) == {line}:
        return ok('starts, in a pid namespace and with one pid inside and outside')
    return missing(f'has pid {line} inside and {seen or "another"} outside',
                   'start rtlaunchd as root, or give Ray CAP_CHECKPOINT_RESTORE')


def every_worker():
    """Those without a runtime env: who says that they are shut in, and whether one is."""
    asked = run(programs() / 'rtlaunch', 'every-worker')
    if asked.returncode != 0:
        return missing('whether each is to be shut in is not known (' + ' '.join(asked.stderr.split())[:300] + ')', 'until then none starts')
    by = asked.stdout.strip()
    if not by:
        return note('those without packages or files are not shut in; "every_worker": "require" in the policy has them be')
    if plain_worker() == '1':
        return ok(f'shut in, also without a runtime env; so says {by}')
    return missing(f'one without a runtime env is not shut in, as it has to be ({by})',
                   f'{sys.executable} must read rtlaunch.pth at its start: install the wheel into {sys.prefix}')


def plain_worker():
    """What stands in for Ray's script finds its raylet to be: 1 in a sandbox (launcher/raylet.h)."""
    from rtlaunch.ray import CLASS, VARIABLE
    with tempfile.TemporaryDirectory() as folder:
        script, session = pathlib.Path(folder, 'ray/_private/workers/default_worker.py'), pathlib.Path(folder, 'session_doctor')
        script.parent.mkdir(parents=True)
        script.write_text("import os; print(os.environ['RAY_RAYLET_PID'])")
        session.mkdir()
        done = run(sys.executable, script, f'--raylet-name={session}/sockets/raylet',
                   env={VARIABLE: f'[{{"class": "{CLASS}"}}]', **os.environ, 'RAY_RAYLET_PID': str(os.getpid())})
    return done.stdout.strip()


def numbers_of(pid):
    try:
        status = pathlib.Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return []
    return next(line.split()[1:] for line in status.splitlines() if line.startswith('NSpid:'))


CHECKS = {'Ray': ray_version, 'plugin': plugin, 'setting': switched, 'programs': tools, 'bash': shell, 'overlayfs': overlayfs,
          'daemon': daemon, 'namespaces': namespaces, 'worker': worker, 'every worker': every_worker}


def examine():
    bad = False
    for name, check in CHECKS.items():
        try:
            state, text = check()
        except (OSError, ImportError, ValueError, subprocess.TimeoutExpired) as error:
            state, text = missing(str(error), 'see the lines above')
        bad |= state == 'missing'
        print(f'{state:8} {name:12} {text}', flush=True)
    return 1 if bad else 0
