"""RAY_RUNTIME_ENV_LOG_TO_DRIVER_ENABLED: a cluster's log monitors send what setups write to drivers, as lines of "runtime_env".
What is ready before a driver listens is told once more as its first worker asks, so that each reads of its environment."""

import pytest

from ray_support import node, our_node, ray_daemon, ray_programs  # noqa: F401


@pytest.fixture(scope='module', params=[f'{setting} {value}' for setting in ('stock', 'ours') for value in (None, '1')])
def telling(request):
    setting, value = request.param.split()
    env = {} if value == 'None' else {'RAY_RUNTIME_ENV_LOG_TO_DRIVER_ENABLED': value}
    with (node(env=env) if setting == 'stock' else our_node(request.getfixturevalue('ray_programs'),
                                                            request.getfixturevalue('ray_daemon'), env=env)) as one:
        one.tells = value == '1'
        yield one


def is_told(telling, env, of_job):
    """Whether a driver is sent lines of its environment until three seconds after its first task."""
    return telling.drive(f'''
        env = {{'runtime_env': {env!r}}}
        context = connect(**(env if {of_job} else {{}}))
        from ray._raylet import GcsLogSubscriber
        subscriber = GcsLogSubscriber(address=context.address_info['gcs_address'])
        subscriber.subscribe()
        task = ray.remote(lambda: print('of a worker'))
        ray.get((task if {of_job} else task.options(**env)).remote())
        seen, end = set(), time.monotonic() + 3
        while time.monotonic() < end and 'runtime_env' not in seen:
            seen.add(str(subscriber.poll(timeout=0.2)['pid']))
        assert 'runtime_env' in seen or any(source.isdigit() for source in seen), seen
        answer('runtime_env' in seen)''')


def test_drivers_read_of_their_environments_if_they_want_to(telling, tmp_path):
    (tmp_path / 'module').mkdir()
    (tmp_path / 'module/__init__.py').write_text(f'X = {str(telling.folder)!r}')
    envs = {'working_dir': str(tmp_path), 'py_modules': [str(tmp_path / 'module')], 'pip': ['emoji==2.2.0'], 'env_vars': {'A': '1'}}
    for field, value in envs.items() if telling.tells else [('working_dir', str(tmp_path))]:
        for _ in range(2):   # made; and there already
            assert is_told(telling, {field: value}, of_job=field in ('working_dir', 'py_modules')) == telling.tells, field
