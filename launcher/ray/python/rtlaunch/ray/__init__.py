"""How an unmodified Ray comes to start rtlaunch-agent in place of its own runtime env agent.

Ray's agent loads the classes that RAY_RUNTIME_ENV_PLUGINS names and makes one of each, before it has
bound a port. `Plugin` is such a class; its constructor replaces the agent's process by rtlaunch-agent,
with the same arguments, the same pid and the same parent. The raylet sees only that an agent got ready.

    RAY_RUNTIME_ENV_PLUGINS='[{"class": "rtlaunch.ray.Plugin"}]' ray start --head

Other classes that are named there are run beside it (bridge.py), as they are by Ray's own agent. Where
programs are missing, the constructor returns with one line in runtime_env_agent.log, and Ray's own agent
goes on. Not where every worker may have to be shut in: there no agent starts, and so no node."""

import fcntl
import json
import logging
import os
import sys

from ray._private.runtime_env.plugin import RuntimeEnvPlugin

from rtlaunch import programs

READ_AT_START = 'rtlaunch_start' in sys.modules   # by rtlaunch.pth
import rtlaunch_start  # noqa: E402

VARIABLE = 'RAY_RUNTIME_ENV_PLUGINS'
CLASS = 'rtlaunch.ray.Plugin'
NEEDED = ('rtlaunch-agent', 'rtlaunch', 'rtlaunch-build', 'uv')


def switch_over():
    """Sets the variable for whatever Ray node this process starts next; plugins named before stay."""
    others = json.loads(os.environ.get(VARIABLE) or '[]')
    if not any(one.get('class') == CLASS for one in others):
        os.environ[VARIABLE] = json.dumps([{'class': CLASS}, *others])


class Plugin(RuntimeEnvPlugin):
    """No field of a runtime env is ours: Ray never asks this plugin for anything."""

    name = 'rtlaunch'

    def __init__(self):
        if not sys.argv[0].endswith('runtime_env/agent/main.py'):
            return
        why = obstacle() or weakness()
        if why:
            step_back(why)
            return
        become_agent()


def weakness():
    """Why workers without a runtime env would be started past rtlaunch, or nothing."""
    if READ_AT_START:
        return None
    return f'{sys.executable} has not read rtlaunch.pth at its start' if rtlaunch_start.may_be_asked_for() else None


def step_back(why):
    if rtlaunch_start.may_be_asked_for():
        raise RuntimeError(f'rtlaunch: {why}, and every worker may have to be shut in here (rtlaunch ray doctor)')
    logging.getLogger('runtime_env_agent').warning("rtlaunch: %s; Ray's own agent serves this node", why)


def obstacle():
    """Why rtlaunch can't be this node's agent, or nothing."""
    missing = [name for name in NEEDED if not os.access(programs() / name, os.X_OK)]
    if missing:
        return f'{programs()} lacks {", ".join(missing)}'
    return None


def become_agent():
    program = programs() / 'rtlaunch-agent'
    os.environ.setdefault('RTLAUNCH_BIN', str(programs()))
    os.environ['RTLAUNCH_RAY_PYTHON'] = sys.executable
    reopen(1, '--stdout-filepath')
    reopen(2, '--stderr-filepath')
    close_own_pipes()
    try:
        os.execv(program, [str(program), *sys.argv[1:]])
    except OSError as error:
        step_back(f'{program}: {error.strerror}')


def argument(name):
    for index, word in enumerate(sys.argv):
        if word.startswith(name + '='):
            return word[len(name) + 1:]
        if word == name:
            return sys.argv[index + 1] if index + 1 < len(sys.argv) else ''
    return ''


def reopen(fd, option):
    """Ray has put a pipe there whose reader, a thread for log rotation, does not outlive the exec."""
    path = argument(option)
    if path:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, fd)
        os.close(file)


def close_own_pipes():
    """Those with both ends in this process end with the exec. Others stay: by one the raylet knows that
    its agent lives, by another the agent knows that its raylet does."""
    ends = {}
    for fd in map(int, os.listdir('/proc/self/fd')):
        try:
            target, flags = os.readlink(f'/proc/self/fd/{fd}'), fcntl.fcntl(fd, fcntl.F_GETFL)
        except OSError:
            continue   # what the folder was listed by
        if target.startswith('pipe:'):
            ends.setdefault(target, {}).setdefault(flags & os.O_ACCMODE, []).append(fd)
    for sides in ends.values():
        if os.O_RDONLY in sides and os.O_WRONLY in sides:
            for fd in [fd for side in sides.values() for fd in side if fd > 2]:
                os.set_inheritable(fd, False)
