"""The harness of the tests with Ray, on Ray as it comes."""

from ray_support import Driven, children_of, command_of, ended, node, stock  # noqa: F401

import pytest


def test_a_task_has_its_env_vars(stock):  # noqa: F811
    assert stock.drive('''
        connect()
        @ray.remote(runtime_env={'env_vars': {'A': '1'}})
        def a():
            return os.environ['A']
        answer(ray.get(a.remote()))''') == '1'
    assert 'ray::RuntimeEnvAgent' in command_of(stock.agent())


def test_a_driver_that_fails_says_why(stock):  # noqa: F811
    with pytest.raises(Driven, match='no such thing'):
        stock.drive('raise ValueError("no such thing")')


def test_a_node_ends_whole():
    with node() as one:
        everything = children_of(one.process.pid)
        assert any('gcs_server' in command_of(pid) for pid in everything)
    assert ended(everything) and not one.folder.exists()
