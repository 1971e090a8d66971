"""`rtlaunch store …` and `rtlaunch env …`."""

import subprocess
import time

FILES = {'a.txt': 'a' * 5000}


def test_what_is_there_and_why(rt):
    project = rt.make_files('project', FILES)
    rt.ok('--working-dir', project, '--', 'true')
    (layer,) = rt.ask('store', 'ls')
    assert (layer['kind'], layer['leased']) == ('working_dir', False) and layer['bytes'] >= 5000
    (env,) = rt.ask('env', 'ls')
    assert env['layers'] == [layer['digest']]
    why = rt.ask('store', 'why', layer['digest'][:10])
    assert {record['kind'] for record in why['records']} >= {'env', 'working_dir'}
    assert rt.ask('store', 'stats')['layers'] == 1
    for words in (['store', 'ls'], ['store', 'stats'], ['env', 'ls'], ['store', 'why', layer['digest']]):
        assert rt.ok(*words, verb='ask').strip()


def test_a_running_command_holds_its_layers(rt):
    project = rt.make_files('project', FILES)
    process = rt.popen('--working-dir', project, '--', 'sh', '-c', 'echo ready; read line; cat a.txt | wc -c',
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b'ready\n'
    (layer,) = rt.ask('store', 'ls')
    assert layer['leased']
    assert rt.ask('store', 'why', layer['digest'])['pids']
    assert rt.run('store', 'gc', '--all', '--json', verb='ask').returncode == 0
    assert len(rt.ask('store', 'ls')) == 1
    (env,) = rt.ask('env', 'ls')
    assert 'uses it' in rt.fails('env', 'rm', env['id'][:8], verb='ask')
    assert process.communicate(b'\n')[0] == b'5000\n'
    removed = rt.ok('env', 'rm', env['id'][:8], verb='ask')
    assert env['id'][:8] in removed
    assert rt.ask('env', 'ls') == [] and rt.ask('store', 'ls') == []
    assert rt.ok('--working-dir', project, '--', 'sh', '-c', 'cat a.txt | wc -c') == '5000\n'


def test_collect_dry_run_is_what_collect_does(rt_one):
    for name in 'abc':
        rt_one.ok('--working-dir', rt_one.make_files(name, {'f': name * 1000}), '--', 'true')
    planned = rt_one.ask('store', 'gc', '--all', '--dry-run')
    assert len(rt_one.ask('store', 'ls')) == 3
    done = rt_one.ask('store', 'gc', '--all')
    assert {layer['digest'] for layer in planned['layers']} == {layer['digest'] for layer in done['layers']}
    assert rt_one.ask('store', 'ls') == []


def test_verify_finds_damage_and_rebuild_restores_the_index(rt_one):
    project = rt_one.make_files('project', FILES)
    rt_one.ok('--working-dir', project, '--', 'true')
    assert rt_one.ask('store', 'verify')['damaged'] == []
    import pathlib
    (file,) = pathlib.Path(rt_one.store, 'layers').rglob('a.txt')
    file.write_text('b' * 5000)
    assert rt_one.run('store', 'verify', '--json', verb='ask').returncode == 125
    assert rt_one.ok('--working-dir', project, '--', 'head', '-c', '1', 'a.txt') == 'a', 'made again, right'
    before = rt_one.ask('store', 'ls')
    for path in pathlib.Path(rt_one.store).glob('index.sqlite*'):
        path.unlink()
    rt_one.ok('store', 'rebuild', verb='ask')
    after = rt_one.ask('store', 'ls')
    assert [layer['digest'] for layer in before] == [layer['digest'] for layer in after]


def test_unknown_command_suggests(rt_one):
    assert 'stats' in rt_one.fails('store', 'stat', verb='ask')


def test_limits_of_ones_own_store(rt):
    rt.ok('--working-dir', rt.make_files('project', FILES), '--', 'true')
    set_to = rt.ask('store', 'limits', '--max-bytes', '5G', '--max-age', '7d')
    assert (set_to['max_bytes'], set_to['max_age']) == (5 << 30, 7 * 86400)
    assert rt.ask('store', 'limits')['max_bytes'] == 5 << 30
    assert rt.ask('store', 'stats')['limit'] == 5 << 30
    rt.ok('store', 'limits', '--max-bytes', '1', '--embedded', verb='store')
    assert 'max bytes' in rt.ok('store', 'limits', verb='store')
