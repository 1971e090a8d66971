"""What rtlaunch.pth does at every start of this Python: next to nothing. Where a node has been switched over
(RAY_RUNTIME_ENV_PLUGINS names rtlaunch.ray.Plugin) and the program is Ray's runtime env agent or its
setup_worker.py, rtlaunch's own takes its place before Ray is imported: that import is most of what they
cost. Whatever is missing for that: Ray goes on, and the plugin has the next say. RTLAUNCH_RAY_START=plugin
leaves it all to the plugin.

Where every worker is to be shut in (RTLAUNCH_RAY_SANDBOX_ALL=1), one without a runtime env, which a raylet starts
without setup_worker.py, is started anew inside; if that can't be, it ends. Inside the variable isn't set."""

import os
import sys

PLUGINS, PLUGIN = 'RAY_RUNTIME_ENV_PLUGINS', 'rtlaunch.ray.Plugin'
AGENT = '/ray/_private/runtime_env/agent/main.py'
SETUP_WORKER = '/ray/_private/workers/setup_worker.py'
DEFAULT_WORKER = '/ray/_private/workers/default_worker.py'
NEEDED = ('rtlaunch', 'rtlaunch-agent', 'rtlaunch-build', 'uv')


def programs():
    return os.environ.get('RTLAUNCH_BIN') or os.path.join(os.path.dirname(__file__), 'rtlaunch', 'bin')


def become(folder, name, words):
    try:
        os.execv(os.path.join(folder, name), [name, *words])
    except OSError:
        pass   # Ray's own it is


def shut_in(words):
    if os.environ.get('RTLAUNCH_RAY_SANDBOX_ALL') not in ('1', 'true'):
        return
    script = words[0].removesuffix(DEFAULT_WORKER) + SETUP_WORKER
    become(programs(), 'rtlaunch', ['setup-worker', sys.executable, script, *words, '--language=PYTHON'])
    os.write(2, f'rtlaunch: every worker is to be shut in here, but {programs()} has no rtlaunch: no worker\n'.encode())
    os._exit(125)


def replace(words):
    """`words`: of this interpreter's command line, itself first."""
    index = next((index for index, word in enumerate(words) if index > 0 and not word.startswith('-')), 0)
    script = words[index] if index else ''
    if script.endswith(DEFAULT_WORKER):
        return shut_in(words[index:])
    if not script.endswith((AGENT, SETUP_WORKER)):
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


if PLUGIN in os.environ.get(PLUGINS, '') and os.environ.get('RTLAUNCH_RAY_START') != 'plugin':
    replace(getattr(sys, 'orig_argv', []))
