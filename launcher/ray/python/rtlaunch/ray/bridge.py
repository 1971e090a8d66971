"""Runs the plugins that RAY_RUNTIME_ENV_PLUGINS names for rtlaunch-agent, which has no Python in it.

One process for a node, started when an environment first has a field that is none of Ray's own. Lines of
JSON, requests on stdin, answers on what was stdout (a plugin that prints does so on stderr):

    {"ready": [NAME...]} or {"unfit": TEXT}                                    first of all
    {"id", "op": "setup", "env": TEXT, "context": {...}, "working_dir": PATH or null}
        → {"id", "at": "NAME: STEP"}, {"id", "log": [LEVEL, TEXT]} ..., and at last
          {"id", "context": {...}, "uris": [[NAME, URI, BYTES]...]}, or
          {"id", "error": TEXT, "at", "again": whether it may help, "uris"}
    {"id", "op": "cancel"}                      the setup ends with an error
    {"op": "have", "uris": [[NAME, URI]...]}    made by the bridge before this one
    {"op": "delete", "name", "uri"}             nobody uses it

What is done for one environment, and in what order, is Ray 2.60.0's: runtime_env/plugin.py. URIs are
counted, and chosen to be deleted, by the agent, so that nothing is lost with this process."""

import asyncio
import json
import logging
import os
import sys
import traceback

MOST = 64 << 20   # bytes of a line
WORKING_DIR = 'RAY_RUNTIME_ENV_CREATE_WORKING_DIR'


class Failed(Exception):
    def __init__(self, at, again):
        super().__init__(at)
        self.at, self.again = at, again


class ToAgent(logging.Handler):
    def __init__(self, say):
        super().__init__()
        self.say = say

    def emit(self, record):
        self.say(log=[record.levelname, self.format(record)])


def logger_for(say):
    """Not by getLogger: that would keep it for ever."""
    logger = logging.Logger('runtime_env')
    logger.addHandler(ToAgent(say))
    return logger


class Bridge:
    def __init__(self, manager, out):
        self.plugins = manager.sorted_plugin_setup_contexts()
        self.out = out
        self.tasks, self.made, self.locks = {}, set(), {}

    def say(self, **answer):
        os.write(self.out, json.dumps(answer).encode() + b'\n')

    async def create(self, plugin, uri, env, context, logger, uris):
        """Once, however many ask for it at the same time."""
        key = (plugin.name, uri)
        async with self.locks.setdefault(key, asyncio.Lock()):
            size = 0
            if key in self.made:
                logger.info(f'Runtime env {plugin.name} {uri} is already installed and will be reused.')
            else:
                size = int(await plugin.create(uri, env, context, logger=logger) or 0)
                self.made.add(key)
            uris.append([plugin.name, uri, size])

    async def plug(self, plugin, env, context, logger, say, uris):
        step = 'validate'
        try:
            plugin.validate(env)
            step = 'get_uris'
            own = plugin.get_uris(env)
            step = 'create'
            say(at=f'{plugin.name}: {step}')
            if not own:
                await plugin.create(None, env, context, logger=logger)
            for uri in own:
                await self.create(plugin, uri, env, context, logger, uris)
            step = 'modify_context'
            plugin.modify_context(own, env, context, logger)
        except Exception as error:
            raise Failed(f'{plugin.name}: {step}', step == 'create') from error

    async def setup(self, request):
        from ray._private.runtime_env.context import RuntimeEnvContext
        from ray.runtime_env import RuntimeEnv

        def say(**answer):
            self.say(id=request['id'], **answer)
        logger, uris, before = logger_for(say), [], os.environ.get(WORKING_DIR)
        try:
            env = RuntimeEnv.deserialize(request['env'])
            context = RuntimeEnvContext(**request['context'])
            default = request['context'].get('py_executable') is None and context.py_executable
            if request.get('working_dir'):
                os.environ[WORKING_DIR] = request['working_dir']
            for one in self.plugins:
                if env.get(one.name) is not None:
                    await self.plug(one.class_instance, env, context, logger, say, uris)
            changed = json.loads(context.serialize())
            if changed['py_executable'] == default:
                changed['py_executable'] = None
            say(context=changed, uris=uris)
        except asyncio.CancelledError:
            say(error='was told to end', at='', again=False, uris=uris)
        except Failed as failed:
            cause = failed.__cause__
            logger.error(''.join(traceback.format_exception(type(cause), cause, cause.__traceback__)))
            say(error=''.join(traceback.format_exception_only(type(cause), cause)).strip(), at=failed.at, again=failed.again, uris=uris)
        except Exception as error:
            say(error=f'{type(error).__name__}: {error}', at='', again=False, uris=uris)
        finally:
            os.environ.pop(WORKING_DIR, None)
            if before is not None:
                os.environ[WORKING_DIR] = before

    def delete(self, name, uri):
        self.made.discard((name, uri))
        self.locks.pop((name, uri), None)
        plugin = next(one.class_instance for one in self.plugins if one.name == name)
        logger = logging.getLogger(__name__)
        try:
            plugin.delete_uri(uri, logger)
        except Exception:
            logger.exception('%s: delete_uri %s', name, uri)

    def take(self, request):
        op = request['op']
        if op == 'setup':
            task = asyncio.ensure_future(self.setup(request))
            self.tasks[request['id']] = task
            task.add_done_callback(lambda _: self.tasks.pop(request['id'], None))
        elif op == 'cancel' and request['id'] in self.tasks:
            self.tasks[request['id']].cancel()
        elif op == 'have':
            self.made.update(map(tuple, request['uris']))
        elif op == 'delete':
            self.delete(request['name'], request['uri'])

    async def serve(self):
        reader = asyncio.StreamReader(limit=MOST)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self.take(json.loads(line))


def main():
    out = os.dup(1)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)
    if sys.path[0] in ('', os.getcwd()):
        del sys.path[0]   # what `python -m` adds and Ray's own agent doesn't have
    try:
        from ray._private.runtime_env.plugin import RuntimeEnvPluginManager
        bridge = Bridge(RuntimeEnvPluginManager(), out)
    except Exception as error:
        traceback.print_exc()
        os.write(out, json.dumps({'unfit': f'{type(error).__name__}: {error}'}).encode() + b'\n')
        return
    bridge.say(ready=[one.name for one in bridge.plugins])
    asyncio.run(bridge.serve())


if __name__ == '__main__':
    main()
