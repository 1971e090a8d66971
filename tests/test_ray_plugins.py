"""Ray's own plugins, classes that RAY_RUNTIME_ENV_PLUGINS names: the same on both settings; and what a bad
one does to our agent and to others: nothing."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import tempfile
import zipfile

import pytest

from daemon_support import wait_until
from ray_support import VENV, children_of, command_of, node, our_node, ray_daemon, ray_programs  # noqa: F401 (fixtures)
from test_ray_agent import make_agent, messages  # noqa: F401 (fixtures)

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / 'installers/examples'
PLUGINS = '''
import asyncio, json, os, pathlib, time
from ray._private.runtime_env.plugin import RuntimeEnvPlugin

FOLDER = pathlib.Path(os.environ["THEIR_FOLDER"])

def trace(*words):
    with open(FOLDER / "trace", "a") as out:
        out.write(json.dumps(words) + "\\n")

class Marks(RuntimeEnvPlugin):
    name = "marks"
    priority = 20

    @staticmethod
    def validate(env):
        if env["marks"].get("wrong"):
            raise ValueError("marks must not be wrong")

    def get_uris(self, env):
        return env["marks"].get("uris", [])

    async def create(self, uri, env, context, logger):
        asked = env["marks"]
        trace("create", uri)
        logger.info("marks makes %s", uri)
        print("marks prints as well")
        if asked.get("fails"):
            raise RuntimeError("no luck with " + asked["fails"])
        if asked.get("dies") and not (FOLDER / "died").exists():
            (FOLDER / "died").touch()
            os._exit(7)
        if asked.get("dies_always"):
            os._exit(7)
        if asked.get("blocks"):
            time.sleep(3600)
        await asyncio.sleep(asked.get("sleeps", 0))
        while asked.get("waits_for") and not os.path.exists(asked["waits_for"]):
            await asyncio.sleep(0.02)
        if asked.get("reads"):
            text = (pathlib.Path(os.environ["RAY_RUNTIME_ENV_CREATE_WORKING_DIR"]) / asked["reads"]).read_text()
            context.env_vars["READ"] = text
        return 1000

    def modify_context(self, uris, env, context, logger):
        context.env_vars["MARKS"] = ",".join(uris) + "|" + context.env_vars.get("USERS", "")
        context.command_prefix += ["export", "MARKED='by the shell'", "&&"]
        if env["marks"].get("options"):
            context.py_executable += " " + env["marks"]["options"]

    def delete_uri(self, uri, logger):
        trace("delete", uri)
        return 1000

class Order(RuntimeEnvPlugin):
    def modify_context(self, uris, env, context, logger):
        context.env_vars["ORDER"] = context.env_vars.get("ORDER", "") + self.name + " "

class First(Order):
    name = "first"
    priority = 99   # the setting says otherwise

class Second(Order):
    name = "second"
'''
CLASSES = [{'class': 'their_plugins.Second'}, {'class': 'their_plugins.Marks'}, {'class': 'their_plugins.First', 'priority': 1}]
OURS = [{'class': 'rtlaunch.ray.Plugin'}]


def their_env(folder, classes=CLASSES):
    (folder / 'their_plugins.py').write_text(PLUGINS)
    return {'RAY_RUNTIME_ENV_PLUGINS': json.dumps(classes), 'PYTHONPATH': str(folder), 'THEIR_FOLDER': str(folder),
            'RAY_RUNTIME_ENV_MARKS_CACHE_SIZE_GB': '0'}


def traced(folder):
    return [json.loads(line) for line in (folder / 'trace').read_text().splitlines()] if (folder / 'trace').exists() else []


@pytest.fixture(scope='module', params=['stock', 'ours'])
def one(request):
    folder = pathlib.Path(tempfile.mkdtemp(prefix='theirs-'))
    folder.chmod(0o755)
    if request.param == 'stock':
        started = node(env=their_env(folder))
    else:
        started = our_node(request.getfixturevalue('ray_programs'), request.getfixturevalue('ray_daemon'),
                           env=their_env(folder, OURS + CLASSES))
    with started as running:
        running.theirs = folder
        yield running


def test_a_workers_context_is_what_the_plugins_made_of_it(one):
    with zipfile.ZipFile(one.theirs / 'project.zip', 'w') as archive:
        archive.writestr('here.txt', 'of the working_dir')
    fields = {'marks': {'uris': ['marks://a', 'marks://b'], 'reads': 'here.txt', 'options': '-X dev'}, 'second': 1, 'first': {},
              'env_vars': {'USERS': 'said'}, 'working_dir': f'file://{one.theirs}/project.zip'}
    assert one.drive(f'''
        connect()
        @ray.remote
        def seen():
            import sys
            shown = {{name: os.environ.get(name) for name in ('MARKS', 'MARKED', 'ORDER', 'READ', 'USERS')}}
            return [shown, sys.flags.dev_mode, open('here.txt').read()]
        answer(ray.get(seen.options(runtime_env={fields!r}).remote()))''') == [
            {'MARKS': 'marks://a,marks://b|said', 'MARKED': 'by the shell', 'ORDER': 'first second ',
             'READ': 'of the working_dir', 'USERS': 'said'}, True, 'of the working_dir']


def test_what_is_wrong_reaches_the_driver(one):
    text = one.drive('''
        connect()
        try:
            ray.get(ray.remote(lambda: 1).options(runtime_env={'marks': {'wrong': True}}).remote())
        except ray.exceptions.RuntimeEnvSetupError as error:
            answer(str(error))''')
    assert 'ValueError: marks must not be wrong' in text


def test_a_uri_is_made_once_and_deleted_when_nobody_uses_it(one):
    assert one.drive('''
        connect()
        envs = [{'marks': {'uris': ['marks://shared'], 'variant': number}} for number in range(2)]
        answer([ray.get(ray.remote(lambda: 1).options(runtime_env=env).remote()) for env in envs])''') == [1, 1]
    wait_until(lambda: ['delete', 'marks://shared'] in traced(one.theirs), 90)
    assert traced(one.theirs).count(['create', 'marks://shared']) == 1
    assert one.drive('''
        connect()
        answer(ray.get(ray.remote(lambda: 1).options(runtime_env={'marks': {'uris': ['marks://shared']}}).remote()))''') == 1
    assert traced(one.theirs).count(['create', 'marks://shared']) == 2


def test_a_plugin_of_rtlaunch(ray_programs, tmp_path):  # noqa: F811
    """installers/plugin.h: its layer, its variables and its prefix, for a worker of Ray's."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix='plugins-'))
    folder.chmod(0o755)
    shutil.copy(EXAMPLES / 'greet', folder / 'greet')
    program = '#!/bin/sh\n[ $1 = launch ] && echo \'{"prefix": ["env", "PUT=before"]}\' || echo {}\n'
    (folder / 'before').write_text(program)
    (folder / 'before').chmod(0o755)
    fields = {'greet': 'hello', 'before': True, 'env_vars': {'A': '1'}, 'no_plugin': 1}
    with our_node(ray_programs, store=tmp_path / 'store', env={'RTLAUNCH_PLUGINS': str(folder)}) as one:
        assert one.drive(f'''
            connect()
            @ray.remote
            def seen():
                import subprocess
                said = subprocess.run(['greet', 'worker'], capture_output=True, text=True).stdout
                return [said, os.environ['PUT'], os.environ['A']]
            answer(ray.get(seen.options(runtime_env={fields!r}).remote()))''') == ['hello, worker\n', 'before', '1']
        text = one.drive('''
            connect()
            try:
                ray.get(ray.remote(lambda: 1).options(runtime_env={'greet': '$(id)'}).remote())
            except ray.exceptions.RuntimeEnvSetupError as error:
                answer(str(error))''')
        assert 'plugin greet: validate: is no plain text' in text


@pytest.fixture
def agent(make_agent, tmp_path):  # noqa: F811
    folder = tmp_path / 'theirs'
    folder.mkdir()
    env = {**their_env(folder, OURS + CLASSES), 'RTLAUNCH_RAY_PYTHON': str(VENV / 'bin/python'), 'RUNTIME_ENV_RETRY_INTERVAL_MS': '10'}
    one = make_agent(env=env).start()
    (one.logs / 'raylet.out').write_text('Raylet received SIGTERM\n')   # else it has drivers to tell of its end
    one.theirs = folder
    return one


def bridges(agent):
    return [pid for pid in children_of(agent.process.pid)[1:] if 'rtlaunch.ray.bridge' in command_of(pid)]


def test_the_bridge_is_there_when_it_is_needed(agent):
    agent.context({'env_vars': {'A': '1'}})
    assert bridges(agent) == []
    assert agent.context({'first': 1})['env_vars'] == {'ORDER': 'first '}
    agent.context({'second': 1, 'no_plugin': 2}, job='0b000000')
    assert len(bridges(agent)) == 1
    log = agent.log('runtime_env_setup-0b000000.log')
    assert 'field no_plugin is not recognized' in log and 'field second' not in log
    agent.context({'marks': {}}, job='0b000000')
    assert 'marks makes None' in agent.log('runtime_env_setup-0b000000.log')
    assert 'marks prints as well' in agent.log('runtime_env_agent.err')


def test_setups_go_on_side_by_side(agent):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        late = pool.submit(agent.context, {'marks': {'waits_for': str(agent.theirs / 'go'), 'uris': ['marks://u']}})
        wait_until(lambda: ['create', 'marks://u'] in traced(agent.theirs), 60)
        same = pool.submit(agent.context, {'marks': {'uris': ['marks://u']}})
        agent.context({'env_vars': {'A': '1'}})
        assert agent.context({'marks': {'uris': ['marks://v']}})['env_vars']['MARKS'] == 'marks://v|'
        assert not late.done() and not same.done()
        (agent.theirs / 'go').touch()
        assert late.result(60)['env_vars']['MARKS'] == same.result(60)['env_vars']['MARKS'] == 'marks://u|'
    assert traced(agent.theirs).count(['create', 'marks://u']) == 1


def test_a_failure_names_plugin_and_step(agent):
    text = agent.fails({'marks': {'fails': 'this'}}, job='0c000000')
    assert 'marks: create: RuntimeError: no luck with this' in text
    assert traced(agent.theirs) == [['create', None]] * 3   # as often as Ray tries it
    assert 'in create' in agent.log('runtime_env_setup-0c000000.log')   # the traceback
    assert 'marks: validate: ValueError' in agent.fails({'marks': {'wrong': True}})


def test_one_that_is_late_is_told_to_end(agent):
    agent.context({'first': 2})
    [pid] = bridges(agent)
    text = agent.fails({'marks': {'sleeps': 3600}}, timeout=4)
    assert 'within the timeout of 4 seconds' in text and 'marks: create' in text
    assert agent.context({'first': 1})['env_vars'] == {'ORDER': 'first '}
    assert bridges(agent) == [pid]


def test_one_that_blocks_is_killed_and_others_go_on(agent):
    agent.context({'first': 1})
    before = bridges(agent)
    assert 'within the timeout of 2 seconds' in agent.fails({'marks': {'blocks': True}}, timeout=2)
    assert agent.context({'second': 2}, timeout=120)['env_vars'] == {'ORDER': 'second '}
    assert bridges(agent) != before and len(bridges(agent)) == 1


def test_the_death_of_the_bridge_is_told_and_mended(agent):
    agent.context({'marks': {'uris': ['marks://kept']}})
    assert agent.context({'marks': {'dies': True}})['env_vars']['MARKS'] == '|'   # at the second try
    text = agent.fails({'marks': {'dies_always': True}})
    assert "Python process of Ray's plugins ended with status 7" in text and 'marks: create' in text
    [pid] = wait_until(lambda: agent.context({'first': 2}) and bridges(agent), 60)
    os.kill(pid, signal.SIGKILL)
    assert agent.context({'marks': {'uris': ['marks://kept'], 'again': 1}})['env_vars']['MARKS'] == 'marks://kept|'
    assert traced(agent.theirs).count(['create', 'marks://kept']) == 1   # what was made stays known


def test_a_uri_that_is_not_used_goes(agent):
    env = {'marks': {'uris': ['marks://gone']}}
    agent.context(env, source='raylet')
    assert ['delete', 'marks://gone'] not in traced(agent.theirs)
    agent.delete(env)
    wait_until(lambda: ['delete', 'marks://gone'] in traced(agent.theirs), 60)
    agent.context(env, source='raylet')
    assert traced(agent.theirs).count(['create', 'marks://gone']) == 2


def test_a_class_that_cannot_be_loaded(make_agent, tmp_path):  # noqa: F811
    env = {'RAY_RUNTIME_ENV_PLUGINS': json.dumps(OURS + [{'class': 'no_such_module.Plugin'}]),
           'RTLAUNCH_RAY_PYTHON': str(VENV / 'bin/python')}
    agent = make_agent(env=env).start()
    (agent.logs / 'raylet.out').write_text('Raylet received SIGTERM\n')
    agent.context({'env_vars': {'A': '1'}})
    assert "No module named 'no_such_module'" in agent.fails({'theirs': 1})


def test_the_bridge_ends_with_its_agent(agent):
    agent.context({'first': 1})
    [pid] = bridges(agent)
    agent.process.kill()
    wait_until(lambda: not os.path.exists(f'/proc/{pid}') or command_of(pid) == '', 60)
