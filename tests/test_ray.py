"""A Ray user's day with the real Ray: the fields at job, task and actor level, two jobs at once, one thing
changed at a time, and workers that are what the raylet takes them for. `either` is a node of each setting."""

import io
import json
import os
import pathlib
import signal
import zipfile

import pytest

from daemon_support import wait_until
from ray_support import command_of, either, ended, node, our_node, ours, ray_daemon, ray_programs, stock  # noqa: F401

VERSION = '''
import importlib.metadata
def version():
    return importlib.metadata.version('emoji')
'''


def folder(path, **files):
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace('__', '.')).write_text(text)
    return path


def zipped(path, **files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as out:
        for name, text in files.items():
            out.writestr(name.replace('__', '.'), text)
    path.write_bytes(data.getvalue())
    return path


def builds(node):
    """How many layers the daemon has had made, by field."""
    counted = {}
    for line in node.daemon.scrape()[1].splitlines():
        if line.startswith('rtlaunch_builds_total{'):
            field = line.split('field="')[1].split('"')[0]
            counted[field] = counted.get(field, 0) + int(float(line.split()[-1]))
    return counted


def idle(node):
    """Nobody runs any more in what the daemon made."""
    wait_until(lambda: node.daemon.workers() == [], 30)


def test_env_vars_merge_from_job_to_task_to_what_it_starts(either):  # noqa: F811
    assert either.drive('''
        connect(runtime_env={'env_vars': {'A': 'job', 'B': 'job'}})
        @ray.remote
        def seen():
            return [os.environ.get(name) for name in 'ABC']
        @ray.remote(runtime_env={'env_vars': {'B': 'task', 'C': '${A}:x'}})
        def parent():
            return [os.environ.get(name) for name in 'ABC'], ray.get(seen.remote())
        @ray.remote(runtime_env={'env_vars': {'C': 'actor'}})
        class Actor:
            def seen(self):
                return [os.environ.get(name) for name in 'ABC']
        answer([ray.get(seen.remote()), *ray.get(parent.remote()), ray.get(Actor.remote().seen.remote())])''') == [
            ['job', 'job', None], ['job', 'task', 'job:x'], ['job', 'task', 'job:x'], ['job', 'job', 'actor']]


def test_what_a_shell_heeds_is_heeded_inside_alone(ours, tmp_path):  # noqa: F811
    """The shell that starts a sandbox is outside of it, and would run what BASH_ENV names."""
    script = tmp_path / 'mine'
    script.write_text('echo ran >> "$LOG"\n')
    log, plain = tmp_path / 'log', tmp_path / 'plain'
    assert ours.drive(f'''
        connect()
        @ray.remote
        def seen():
            return [os.environ.get(name) for name in ('BASH_ENV', 'LOG')], '/mine' in os.environ['PATH'].split(':')
        mine = {{'BASH_ENV': {str(script)!r}, 'PATH': '/mine:${{PATH}}'}}
        shut_in = {{'pip': ['emoji==2.2.0'], 'env_vars': {{**mine, 'LOG': {str(log)!r}}}}}
        ray.get(seen.options(runtime_env={{'env_vars': {{**mine, 'LOG': {str(plain)!r}}}}}).remote())
        answer(ray.get(seen.options(runtime_env=shut_in).remote()))''') == [[str(script), str(log)], True]
    assert not log.exists()
    assert plain.read_text(), 'the control run: in no sandbox'


def test_pip_of_job_task_and_actor(ours):  # noqa: F811
    assert ours.drive(VERSION + '''
connect(runtime_env={'pip': ['emoji==2.2.0']})
version_of = ray.remote(version)
@ray.remote(runtime_env={'pip': ['emoji==2.8.0']})
class Actor:
    def version(self):
        return version(), sys.prefix, sys.executable
job, task = ray.get([version_of.remote(), version_of.options(runtime_env={'pip': ['emoji==2.14.0']}).remote()])
answer([job, task, *ray.get(Actor.remote().version.remote())])''') == [
        '2.2.0', '2.14.0', '2.8.0', str(pathlib.Path(ours.python).parent.parent), ours.python]


def test_uv_is_a_field_too(ours):  # noqa: F811
    assert ours.drive(VERSION + '''
connect()
answer(ray.get(ray.remote(version).options(runtime_env={'uv': ['emoji==2.2.0']}).remote()))''') == '2.2.0'


def test_working_dir_and_py_modules_of_a_job(either, tmp_path):  # noqa: F811
    work = folder(tmp_path / 'work', main_part__py='WHO = "working_dir"', data__txt='seven')
    module = folder(tmp_path / 'mods/shared_part', helper__py='X = 7')
    (module / '__init__.py').write_text('WHO = "py_modules"')
    seen = either.drive(f'''
        connect(runtime_env={{'working_dir': {str(work)!r}, 'py_modules': [{str(module)!r}], 'env_vars': {{'PYTHONPATH': '/own'}}}})
        @ray.remote
        def seen():
            import main_part, shared_part, shared_part.helper
            here = os.getcwd()
            path = os.environ['PYTHONPATH'].split(':')
            return dict(parts=[main_part.WHO, shared_part.WHO, shared_part.helper.X], data=open('data.txt').read(), cwd=here,
                        order=[path.index(os.path.dirname(os.path.dirname(shared_part.__file__))), path.index(here), path.index('/own')])
        answer(ray.get(seen.remote()))''')
    assert seen['parts'] == ['working_dir', 'py_modules', 7] and seen['data'] == 'seven'
    assert '/runtime_resources/working_dir_files/_ray_pkg_' in seen['cwd']
    assert seen['order'] == [0, 1, 2], 'py_modules, working_dir, the variable itself'


def test_a_task_with_a_working_dir_of_its_own(either, tmp_path):  # noqa: F811
    ball = zipped(tmp_path / 'ball.zip', part__py='WHO = "task"')
    work = folder(tmp_path / 'work', part__py='WHO = "job"')
    assert either.drive(f'''
        connect(runtime_env={{'working_dir': {str(work)!r}}})
        @ray.remote
        def who():
            import part
            return part.WHO
        answer(ray.get([who.remote(), who.options(runtime_env={{'working_dir': 'file://{ball}'}}).remote()]))''') == ['job', 'task']


def test_requirements_files_in_the_working_dir(either, tmp_path):  # noqa: F811
    work = folder(tmp_path / 'work', requirements__txt='-r more.txt', more__txt='emoji==2.4.0')
    assert either.drive(VERSION + f'''
connect(runtime_env={{'working_dir': {str(work)!r}, 'pip': ['-r ${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/requirements.txt']}})
answer(ray.get(ray.remote(version).remote()))''') == '2.4.0'


def test_two_jobs_at_once_with_conflicting_packages(ours, tmp_path):  # noqa: F811
    drivers = []
    for version in ('2.2.0', '2.14.0'):
        work = folder(tmp_path / version, mine__py=f'WHO = {version!r}')
        drivers.append(ours.spawn(VERSION + f'''
connect(runtime_env={{'pip': ['emoji=={version}'], 'working_dir': {str(work)!r}}})
@ray.remote
class Actor:
    def seen(self):
        import emoji, mine
        return version(), emoji.__version__, mine.WHO
actors = [Actor.remote() for _ in range(2)]
first = ray.get([a.seen.remote() for a in actors])
open('{tmp_path}/{version}.ready', 'w').close()
until(lambda: os.path.exists('{tmp_path}/2.2.0.ready') and os.path.exists('{tmp_path}/2.14.0.ready'), 60)
answer(first + ray.get([a.seen.remote() for a in actors]))'''))
    assert ours.finish(drivers[0]) == [['2.2.0'] * 3] * 4
    assert ours.finish(drivers[1]) == [['2.14.0'] * 3] * 4


def test_change_one_thing_and_nothing_else_is_made(ours, tmp_path):  # noqa: F811
    work = folder(tmp_path / 'work', part__py='X = 1')

    def job(package, expected):
        assert ours.drive(VERSION + f'''
connect(runtime_env={{'pip': [{package!r}], 'working_dir': {str(work)!r}}})
@ray.remote
def seen():
    import part
    return version(), part.X
answer(ray.get(seen.remote()))''') == expected

    job('emoji==2.9.0', ['2.9.0', 1])
    before = builds(ours)
    job('emoji==2.9.0', ['2.9.0', 1])
    assert builds(ours) == before, 'the same again'
    job('emoji==2.10.0', ['2.10.0', 1])
    after = builds(ours)
    assert after['pip'] == before['pip'] + 1 and after['working_dir'] == before['working_dir'], 'pip alone'
    (work / 'part.py').write_text('X = 2')
    job('emoji==2.10.0', ['2.10.0', 2])
    assert builds(ours)['pip'] == after['pip'] and builds(ours)['working_dir'] == after['working_dir'] + 1, 'working_dir alone'


def test_what_is_used_stays_and_what_is_not_goes_over_the_limit(ray_programs, ray_daemon):  # noqa: F811
    with our_node(ray_programs, ray_daemon, env={'RAY_RUNTIME_ENV_PIP_CACHE_SIZE_GB': '0'}) as one:
        driver = one.spawn(VERSION + '''
connect()
@ray.remote(runtime_env={'pip': ['emoji==2.11.0']})
class Actor:
    def version(self):
        return version()
actor = Actor.remote()
ray.get(actor.version.remote())
open('ready', 'w').close()
until(lambda: os.path.exists('collected'), 60)
answer([ray.get(actor.version.remote()), ray.get(Actor.remote().version.remote())])''')
        rt = ray_daemon.launcher()

        def has_it():
            rt.ok('store', 'gc', '--all', verb='store')
            return [layer for layer in rt.ask('store', 'ls') if layer['name'] == 'emoji 2.11.0']
        wait_until(lambda: (one.home / 'ready').exists(), 60)
        assert has_it()
        (one.home / 'collected').touch()
        assert one.finish(driver) == ['2.11.0', '2.11.0']
        wait_until(lambda: not has_it(), 30)


NOTHING_KEPT = {f'RAY_RUNTIME_ENV_{field}_CACHE_SIZE_GB': '0' for field in ('WORKING_DIR', 'PY_MODULES', 'PIP')}


@pytest.mark.parametrize('setting', ['stock', 'ours'])
def test_its_directories_are_there_while_it_is_used_and_then_gone(setting, request, tmp_path):
    """Where people, and Ray's own tests, look for what a node holds."""
    if setting == 'stock':
        made = node(env=NOTHING_KEPT)
    else:
        made = our_node(request.getfixturevalue('ray_programs'), request.getfixturevalue('ray_daemon'), env=NOTHING_KEPT)
    with made as one:
        seen = one.drive(f'''
            connect()
            def held():
                top = {str(one.session)!r} + '/runtime_resources/'
                return [[name for name in os.listdir(top + field) if not name.endswith(('.lock', '.txt'))]
                        for field in ('pip', 'working_dir_files')]
            @ray.remote(num_cpus=0, runtime_env={{'pip': ['emoji==2.2.0'], 'working_dir': 'file://{zipped(tmp_path / "ball.zip", part__py="X = 1")}'}})
            class Actor:
                def part(self):
                    import emoji, part
                    return part.X
            actors = [Actor.remote() for _ in range(2)]
            ray.get([actor.part.remote() for actor in actors])
            during = held()
            ray.kill(actors[0])
            time.sleep(2)
            still = held()
            ray.kill(actors[1])
            until(lambda: held() == [[], []], 30)
            answer([during, still])''', timeout=180)
    assert seen[0] == seen[1] and [len(names) for names in seen[0]] == [1, 1]


def test_a_worker_has_one_pid_for_everybody(ours):  # noqa: F811
    driver = ours.spawn('''
        connect()
        @ray.remote(runtime_env={'pip': ['emoji==2.2.0']})
        class Actor:
            def seen(self):
                others = [name for name in os.listdir('/proc') if name.isdigit()]
                return os.getpid(), os.environ['RAY_RAYLET_PID'], len(others), ray.get_runtime_context().get_actor_id()
        actor = Actor.options(name='one').remote()
        seen = ray.get(actor.seen.remote())
        json.dump(seen, open('seen.new', 'w')); os.rename('seen.new', 'seen')
        until(lambda: os.path.exists('killed'), 60)
        try:
            ray.get(actor.seen.remote(), timeout=30)
        except ray.exceptions.RayActorError as error:
            answer(str(error))''')
    wait_until(lambda: (ours.home / 'seen').exists(), 60)
    pid, raylet, others, _ = json.loads((ours.home / 'seen').read_text())
    assert 'ray::Actor' in command_of(pid), 'as the raylet, the dashboard and ray stack see it'
    assert raylet == '1' and others <= 4, 'inside are itself, pid 1 and nobody else'
    numbers = next(line for line in pathlib.Path(f'/proc/{pid}/status').read_text().splitlines() if line.startswith('NSpid'))
    assert set(numbers.split()[-2:]) == {str(pid)}
    os.kill(pid, signal.SIGKILL)
    (ours.home / 'killed').touch()
    assert 'died' in ours.finish(driver)
    assert ended([pid])
    idle(ours)


def test_ray_kill_ends_all_of_it(ours):  # noqa: F811
    pids = ours.drive('''
        connect()
        @ray.remote(runtime_env={'pip': ['emoji==2.2.0']})
        class Actor:
            def start(self):
                import subprocess
                child = subprocess.Popen(['sleep', '1000'], start_new_session=True)
                return os.getpid(), child.pid
        actor = Actor.remote()
        worker, child = ray.get(actor.start.remote())
        ray.kill(actor)
        until(lambda: not os.path.exists(f'/proc/{worker}'), 20)
        answer([worker])''')
    assert ended(pids)
    idle(ours)


def test_a_crash_is_a_worker_that_crashed_and_the_retry_passes(ours, tmp_path):  # noqa: F811
    assert ours.drive(f'''
        connect()
        @ray.remote(runtime_env={{'pip': ['emoji==2.2.0']}}, max_retries=1)
        def once():
            if not os.path.exists('{tmp_path}/was'):
                open('{tmp_path}/was', 'w').close()
                os.kill(os.getpid(), 9)
            return 'again'
        answer(ray.get(once.remote()))''') == 'again'


@pytest.mark.parametrize('field, value, cause', [
    ('pip', ['rtlaunch-does-not-exist-1'], 'rtlaunch-does-not-exist-1'),
    ('pip', ['emoji==99.0'], 'emoji'),
    ('working_dir', 'file://{bad}', 'zip'),
    ('working_dir', 'file:///nowhere/is.zip', 'nowhere'),
])
def test_what_can_not_be_made_says_why_and_the_next_job_works(ours, tmp_path, field, value, cause):  # noqa: F811
    bad = tmp_path / 'bad.zip'
    bad.write_bytes(b'PK\3\4 is not enough')
    value = value.format(bad=bad) if isinstance(value, str) else value
    text, took, then = ours.drive(f'''
        connect()
        @ray.remote
        def ok():
            return 'works'
        started = time.monotonic()
        try:
            ray.get(ok.options(runtime_env={{{field!r}: {value!r}}}).remote())
        except ray.exceptions.RuntimeEnvSetupError as error:
            text = str(error)
        took = time.monotonic() - started
        answer([text, took, ray.get(ok.options(runtime_env={{'pip': ['emoji==2.2.0']}}).remote())])''')
    assert cause in text and 3 <= len(text.splitlines()) <= 10, text   # Ray's line, the cause, the cure
    assert then == 'works' and took < 15, 'no retries of what can not pass'
    idle(ours)


def test_an_unknown_field_is_warned_of(either):  # noqa: F811
    assert either.drive('''
        connect()
        @ray.remote(runtime_env={'no_such_field': 1, 'env_vars': {'A': '1'}})
        def a():
            return os.environ['A']
        answer(ray.get(a.remote()))''') == '1'
    assert any('no_such_field' in text for name, text in either.logs().items() if name.startswith('runtime_env_setup')), \
        'the setup log, where Ray says it'


def test_the_setup_log_shows_the_install(either):  # noqa: F811
    """In the words that people look for; who gets it as it is there already reads where to look."""
    def setup_log(variable):
        return either.log('runtime_env_setup-' + either.drive(f'''
            connect()
            env = {{'pip': ['emoji==2.12.1'], 'env_vars': {{'A': '{variable}'}}}}
            ray.get(ray.remote(lambda: 1).options(runtime_env=env).remote())
            answer(ray.get_runtime_context().get_job_id())''', timeout=180) + '.log')

    first, second = setup_log('1'), setup_log('2')
    assert 'Installing python requirements to ' in first and 'Added URI pip://' in first, first
    assert 'emoji-2.12.1' in first.split('Successfully installed ')[1].splitlines()[0].split(), first
    assert 'is already installed and will be reused' in second and 'Marked URI pip://' in second, second
    assert 'Installing python requirements' not in second, second


def test_a_secret_is_in_no_log_and_in_no_argument(ours):  # noqa: F811
    secret = 'wohJ4ait-quoo'
    ours.drive(f'''
        connect()
        @ray.remote(runtime_env={{'env_vars': {{'TOKEN': {secret!r}}}, 'pip': ['emoji==2.2.0']}})
        def a():
            assert os.environ['TOKEN'] == {secret!r}
        ray.get(a.remote())
        answer(1)''')
    assert [name for name, text in ours.logs().items() if secret in text and not name.startswith('raylet')] == []
    files = [path for top in (ours.daemon.store, ours.daemon.folder / 'run') for path in top.rglob('*') if path.is_file()]
    assert [path for path in files if path.stat().st_size < 1 << 20 and secret.encode() in path.read_bytes()] == []
    assert secret not in ours.daemon.log()
