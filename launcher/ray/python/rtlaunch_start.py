"""What rtlaunch.pth does at every start of this Python: next to nothing. Where a node has been switched over
(RAY_RUNTIME_ENV_PLUGINS names rtlaunch.ray.Plugin) and the program is Ray's runtime env agent or its
setup_worker.py, rtlaunch's own takes its place before Ray is imported: that import is most of what they
cost. Whatever is missing for that: Ray goes on, and the plugin has the next say. RTLAUNCH_RAY_START=plugin
leaves it all to the plugin.

Where every worker is to be shut in, by the node's word (RTLAUNCH_RAY_SANDBOX_ALL=1) or the policy's
("every_worker"), one without a runtime env, which a raylet starts without setup_worker.py, is started anew
inside; if that can't be, it ends. Whether the policy says so of this user is for `rtlaunch setup-worker` to
find out (launcher/ray_node.h): it is asked where a policy has the word at all."""

import os
import sys

PLUGINS, PLUGIN = 'RAY_RUNTIME_ENV_PLUGINS', 'rtlaunch.ray.Plugin'
AGENT = '/ray/_private/runtime_env/agent/main.py'
SETUP_WORKER = '/ray/_private/workers/setup_worker.py'
DEFAULT_WORKER = '/ray/_private/workers/default_worker.py'
NEEDED = ('rtlaunch', 'rtlaunch-agent', 'rtlaunch-build', 'uv')
POLICY, SOCKET, WORD = '/etc/rtlaunch/policy.json', '/run/rtlaunch/rtlaunchd.sock', b'every_worker'
ASKED = 'RTLAUNCH_RAY_ASKED'   # the pid of who comes back from setup-worker


def programs():
    return os.environ.get('RTLAUNCH_BIN') or os.path.join(os.path.dirname(__file__), 'rtlaunch', 'bin')


def become(folder, name, words):
    try:
        os.execv(os.path.join(folder, name), [name, *words])
    except OSError:
        pass   # Ray's own it is


def may_be_asked_for():
    """False: neither the node nor a policy that counts here speaks of workers that nothing is mounted for."""
    if os.environ.get('RTLAUNCH_RAY_SANDBOX_ALL') in ('1', 'true'):
        return True
    named, store = os.environ.get('RTLAUNCH_SOCKET'), os.environ.get('RTLAUNCH_STORE')
    if os.environ.get('RTLAUNCH_EMBEDDED') in ('1', 'true') or (store and not named):
        return has_word(POLICY)
    if named:
        return has_word(named + '.policy', otherwise=True)   # no daemon has been there yet
    return has_word(SOCKET + '.policy') or has_word(POLICY)


def has_word(path, otherwise=False):
    try:
        with open(path, 'rb') as file:
            text = file.read()
    except FileNotFoundError:
        return otherwise
    except OSError:
        return True
    return WORD in text or b'\\u' in text


def shut_in(words):
    came_back = os.environ.pop(ASKED, None) == str(os.getpid())
    inside = os.environ.get('RAY_RAYLET_PID') == '1'
    if came_back or inside or not may_be_asked_for():
        return
    os.environ[ASKED] = str(os.getpid())
    script = words[0].removesuffix(DEFAULT_WORKER) + SETUP_WORKER
    become(programs(), 'rtlaunch', ['setup-worker', sys.executable, script, *words, '--language=PYTHON'])
    os.write(2, f'rtlaunch: workers are to be shut in here, but {programs()} has no rtlaunch: no worker\n'.encode())
    os._exit(125)


def replace(words, leaves_it):
    """`words`: of this interpreter's command line, itself first."""
    index = next((index for index, word in enumerate(words) if index > 0 and not word.startswith('-')), 0)
    script = words[index] if index else ''
    if script.endswith(DEFAULT_WORKER):
        return shut_in(words[index:])
    if leaves_it or not script.endswith((AGENT, SETUP_WORKER)):
        return
    folder = programs()
    if not all(os.access(os.path.join(folder, name), os.X_OK) for name in NEEDED):
        return
    if script.endswith(SETUP_WORKER):
        become(folder, 'rtlaunch', ['setup-worker', sys.executable, *words[index:]])
    else:
        os.environ.setdefault('RTLAUNCH_BIN', folder)
        os.environ['RTLAUNCH_RAY_PYTHON'] = sys.executable
        become(folder, 'rtlaunch-agent', words[index + 1:])


begun = False


def begin():
    """Once: a folder that is on the path by two names has its .pth read twice."""
    global begun
    if begun:
        return
    begun = True
    if PLUGIN in os.environ.get(PLUGINS, ''):
        replace(getattr(sys, 'orig_argv', []), os.environ.get('RTLAUNCH_RAY_START') == 'plugin')
