"""What a runtime env says beside its layers: a hook, whether it is installed ahead, where its log goes. The same
on both settings."""

import zipfile

import pytest

from daemon_support import wait_until
from ray_support import either, ours, ray_daemon, ray_programs, stock  # noqa: F401 (fixtures)
from test_working_dir import wheel


@pytest.fixture
def project(tmp_path_factory):
    """Where workers find it, too."""
    folder = tmp_path_factory.mktemp('project')
    for path in (folder, folder.parent):
        path.chmod(0o755)
    with zipfile.ZipFile(folder / 'project.zip', 'w') as archive:
        archive.writestr('hooks.py', 'import os\ndef before():\n    os.environ["HOOKED"] = "of the module"\n')
    return folder / 'project.zip'


def test_a_setup_hook_runs_in_each_worker(either, project):  # noqa: F811
    for hook, said in (("before", 'of the driver'), ("'hooks.before'", 'of the module')):
        assert either.drive(f'''
            def before():
                os.environ['HOOKED'] = 'of the driver'
            connect(runtime_env={{'worker_process_setup_hook': {hook}, 'working_dir': 'file://{project}'}})
            @ray.remote
            def seen():
                return os.environ['HOOKED']
            answer(ray.get(seen.remote()))''') == said


def test_log_files_have_the_setup_of_the_job(either, project):  # noqa: F811
    assert either.drive(f'''
        connect(runtime_env={{'config': {{'log_files': ['mine.log']}}, 'working_dir': 'file://{project}'}})
        answer(ray.get(ray.remote(lambda: 1).remote()))''') == 1
    assert (either.session / 'logs/mine.log').exists()
    assert not (either.session / 'logs/others.log').exists()


def test_what_is_not_to_be_installed_ahead_waits_for_a_worker(either, project, tmp_path):  # noqa: F811
    """Of two jobs the one that came later, which is installed ahead, has its log; the other hasn't until it
    has a task."""
    def log(job):
        return either.session / f'logs/runtime_env_setup-{job}.log'

    def script(eager, name):
        return f'''
            fields = {{'working_dir': 'file://{project}', 'env_vars': {{'JOB': '{name}'}}, 'config': {{'eager_install': {eager}}}}}
            connect(runtime_env=fields)
            with open('{tmp_path}/{name}.new', 'w') as out:
                out.write(ray.get_runtime_context().get_job_id())
            os.rename('{tmp_path}/{name}.new', '{tmp_path}/{name}')
            until(lambda: os.path.exists('{tmp_path}/go'), 240)
            answer(ray.get(ray.remote(lambda: os.environ['JOB']).remote()))'''

    def job_of(name):
        wait_until((tmp_path / name).exists, 120)
        return (tmp_path / name).read_text()

    waits = either.spawn(script(False, 'waits'))
    waiting = job_of('waits')
    ahead = either.spawn(script(True, 'ahead'))
    try:
        wait_until(log(job_of('ahead')).exists, 120)
        assert not log(waiting).exists()
    finally:
        (tmp_path / 'go').touch()
    assert [either.finish(waits), either.finish(ahead)] == ['waits', 'ahead']
    assert log(waiting).exists()


def test_a_wheel_brings_what_it_requires(either, project):  # noqa: F811
    """One that the driver uploads, and one that a worker's node reads."""
    found = []
    for name, scheme in (('sent', ''), ('read', 'file://')):
        path = project.parent / f'{name}-1.0-py3-none-any.whl'
        path.write_bytes(wheel(name, 'iniconfig==2.0.0', 'idna<3.5', "no-such-package-at-all; extra == 'more'"))
        found.append(either.drive(f'''
            connect(runtime_env={{'py_modules': ['{scheme}{path}']}})
            @ray.remote
            def seen():
                import {name}, iniconfig, idna, importlib.metadata as m
                return [{name}.WORD, m.version('iniconfig'), m.version('idna')]
            answer(ray.get(seen.remote()))'''))
    assert found == [['sent', '2.0.0', '3.4'], ['read', '2.0.0', '3.4']]


def test_a_packages_program_and_the_python_that_has_it_are_found_first(either):  # noqa: F811
    """Even where a variable says another PATH; what is installed by hand goes to the worker's own."""
    assert either.drive('''
        connect()
        @ray.remote(runtime_env={'pip': ['pygments==2.17.2'], 'env_vars': {'PATH': '/usr/bin:/bin'}})
        def found():
            import shutil, subprocess
            says = lambda *words: subprocess.run(words, capture_output=True, text=True).stdout.strip()
            return [says('pygmentize', '-V').split()[2], says('python', '-c', 'import pygments; print(pygments.__version__)'),
                    os.environ['VIRTUAL_ENV'] == sys.prefix]
        answer(ray.get(found.remote()))''', timeout=180) == ['2.17.2,', '2.17.2', True]


def test_a_packages_line_has_the_values_of_variables(either):  # noqa: F811
    assert either.drive('''
        connect()
        def found():
            import emoji
            return emoji.__version__
        ask = lambda field, version: ray.remote(found).options(runtime_env={
            field: ['emoji==${EMOJI}'], 'env_vars': {'EMOJI': version}}).remote()
        answer(ray.get([ask('pip', '2.13.0'), ask('uv', '2.14.0'), ask('uv', '2.12.1')]))''', timeout=240) == ['2.13.0', '2.14.0', '2.12.1']
