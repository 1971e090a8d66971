"""conda environments, from a channel that the tests make."""

import json
import os
import subprocess

from conda_fixtures import channel, compiled, conda  # noqa: F401
from conda_support import MINOR, VERSION, Channel
from daemon_support import wait_until

SHOW = 'import sys, one; print(sys.prefix, sys.executable, one.WORD)'


def spec(channel, *packages, **more):
    return json.dumps({'conda': {'channels': [str(channel)], 'dependencies': list(packages)}, **more})


def layers_of(rt, kind='conda'):
    """Names of the store's layers."""
    names = []
    for folder, _, files in os.walk(f'{rt.store}/layers'):
        if 'meta.json' in files:
            meta = json.load(open(f'{folder}/meta.json'))
            if meta['kind'] == kind:
                names.append(meta['name'])
    return sorted(names)


def nothing_is_left(rt):
    left = [name for name in os.listdir(f'{rt.store}/tmp') if not name.endswith('.lock')]
    return left == [] and layers_of(rt) == []


def test_an_environment_of_both_formats(rt, channel):
    prefix = f'{rt.store}/conda'
    said = rt.ok('--runtime-env', spec(channel, 'two', 'tool'), '--', 'python', '-c', SHOW)
    assert said.split() == [prefix, f'{prefix}/bin/python', 'first']
    run = ('--runtime-env', spec(channel, 'two', 'tool'), '--')
    assert rt.ok(*run, 'say-one') == 'one says first\n'
    assert rt.ok(*run, 'say-two') == 'firstfirst\n'
    assert rt.ok(*run, 'tool') == f'{prefix}/share/word found\n'
    assert rt.ok(*run, 'sh', '-c', 'cat "$CONDA_PREFIX/etc/tool.conf" "$CONDA_PREFIX/share/also"') == f'root={prefix}/share\nfound\n'
    assert rt.ok(*run, 'python', '-c', 'import platform; print(platform.python_version())') == VERSION + '\n'
    assert not os.path.exists(f'{prefix}/bin'), 'nothing of it is on the host'


def test_packages_are_layers_that_environments_share(rt_one, channel):
    rt_one.ok('--runtime-env', spec(channel, 'one', 'tool'), '--', 'python', '-c', SHOW)
    assert layers_of(rt_one) == ['one 1.0', f'python {VERSION}', 'tool 3']
    rt_one.ok('--runtime-env', spec(channel, 'two'), '--', 'python', '-c', 'import two')
    assert layers_of(rt_one) == ['one 1.0', f'python {VERSION}', 'tool 3', 'two 2.0']


def test_a_script_of_a_package_is_run_shut_in(rt, channel):
    done = rt.run('--runtime-env', spec(channel, 'scripted'), '--', 'sh', '-c', 'cat "$CONDA_PREFIX"/share/linked "$CONDA_PREFIX"/share/seen')
    prefix = f'{rt.store}/conda'
    assert done.stdout == f'scripted 1 {prefix}\n{prefix}/share/word found\n', done.stderr
    assert 'read this' in done.stderr
    failed = rt.fails('--runtime-env', spec(channel, 'broken'), '--', 'true')
    assert 'post-link' in failed and 'it went wrong' in failed and 'broken' in failed


def test_activation_and_variables(rt_one, channel):
    asked = json.dumps({'conda': {'channels': [str(channel)], 'dependencies': ['active'], 'variables': {'MINE': 'of yml'}},
                        'env_vars': {'OF_ENV': '${ACTIVE}+'}})
    said = rt_one.ok('--runtime-env', asked, '--', 'sh', '-c', 'echo "$ACTIVE $MINE $OF_ENV $CONDA_PREFIX"')
    prefix = f'{rt_one.store}/conda'
    assert said == f'{prefix}/active of yml {prefix}/active+ {prefix}\n'


def test_a_yml_file(rt, channel):
    yml = f'''name: mine
channels:
  - {channel.folder}
dependencies:
  - python={MINOR}
  - one >=1,<2   # a remark
variables:
  ANSWER: 42
'''
    rt.make_files('project', {'environment.yml': yml, 'bad.yml': 'dependencies: [\n', 'odd.yml': 'dependencys: [one]\n'})
    run = ('--', 'python', '-c', 'import one, os; print(one.WORD, os.environ["ANSWER"])')
    folder = rt.folder / 'project'
    assert rt.ok('--runtime-env', '{"conda": "environment.yml"}', *run, cwd=folder) == 'first 42\n'
    assert 'bad.yml:2' in rt.fails('--runtime-env', '{"conda": "bad.yml"}', *run, cwd=folder)
    assert '`dependencies`' in rt.fails('--runtime-env', '{"conda": "odd.yml"}', *run, cwd=folder)
    assert 'no-such.yml' in rt.fails('--runtime-env', '{"conda": "no-such.yml"}', *run, cwd=folder)


def lock_of(channel, *names, hash_of='sha256', change=''):
    lines = ['# made by hand', '@EXPLICIT']
    for subdir, packages in channel.packages.items():
        for file, about in packages.items():
            if about['name'] in names:
                mark = about[hash_of] if not change else change + about[hash_of][len(change):]
                lines.append(f'{channel}/{subdir}/{file}#{mark}')
    return '\n'.join(lines) + '\n'


def test_an_explicit_lock(rt, channel):
    names = ('python', 'one', 'tool')
    rt.make_files('project', {'lock.txt': lock_of(channel, *names), 'old.txt': lock_of(channel, *names, hash_of='md5'),
                              'wrong.txt': lock_of(channel, 'tool', change='0000'),
                              'wrong-old.txt': lock_of(channel, 'tool', hash_of='md5', change='0000')})
    folder = rt.folder / 'project'
    for wrong in ('wrong.txt', 'wrong-old.txt'):
        said = rt.fails('--runtime-env', json.dumps({'conda': wrong}), '--', 'true', cwd=folder)
        assert 'tool-3-h1_0.conda' in said and '0000' in said
        assert nothing_is_left(rt)
    for lock in ('lock.txt', 'old.txt'):   # without a solver
        said = rt.ok('--runtime-env', json.dumps({'conda': lock}), '--', 'sh', '-c', 'say-one && tool', cwd=folder)
        assert said == f'one says first\n{rt.store}/conda/share/word found\n'
    assert layers_of(rt) == ['one 1.0', f'python {VERSION}', 'tool 3']


def test_what_cannot_be_made_says_why(rt_one, channel, tmp_path):
    def said(*packages, where=channel):
        text = rt_one.fails('--runtime-env', spec(where, *packages), '--', 'true')
        assert nothing_is_left(rt_one)
        return text
    clash = said('needs-old', 'needs-new')
    assert 'needs-old 1' in clash and 'needs-new 1' in clash and 'lib' in clash and 'exclude each other' in clash
    assert 'no-such-package-at-all' in said('one', 'no-such-package-at-all')
    assert 'lib ==7' in said('lib ==7')
    assert str(tmp_path / 'nowhere') in said('one', where=tmp_path / 'nowhere')
    assert '127.0.0.1:9' in said('one', where='http://127.0.0.1:9/channel')
    both = json.dumps({'conda': {'dependencies': ['one']}, 'pip': ['idna']})
    assert 'dependencies' in rt_one.fails('--runtime-env', both, '--', 'true')


def test_a_package_that_lies(rt_one, conda, tmp_path):
    lying = Channel(tmp_path / 'lying')
    archive = lying.add('thing', '1', {'share/a': 'a'})
    archive.write_bytes(archive.read_bytes().replace(b'a', b'b', 1))
    said = rt_one.fails('--runtime-env', spec(lying, 'thing'), '--', 'true')
    assert 'thing-1-0.conda' in said and 'promised' in said
    archive = lying.add('out', '1', {'../../outside': 'a'})
    assert '`..`' in rt_one.fails('--runtime-env', spec(lying, 'out'), '--', 'true')
    assert nothing_is_left(rt_one)
    lying.add('mask', '1', noarch='python', entry_points=['python = a:b'])
    lying.add('python', VERSION, {'bin/nothing': ''})
    assert 'interpreter' in rt_one.fails('--runtime-env', spec(lying, 'mask', 'python'), '--', 'true')
    os.rename(lying.folder / 'linux-64/thing-1-0.conda', lying.folder / 'linux-64/gone')
    assert 'thing-1-0.conda' in rt_one.fails('--runtime-env', spec(lying, 'thing'), '--', 'true')


def test_several_at_once(rt_one, channel):
    asked = [('one', 'tool'), ('two',), ('two', 'tool'), ('one', 'active')]
    running = [rt_one.popen('--runtime-env', spec(channel, *packages), '--', 'python', '-c', SHOW, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True) for packages in asked]
    for process in running:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0 and out.endswith('first\n'), err
    assert layers_of(rt_one) == ['active 1', 'one 1.0', f'python {VERSION}', 'tool 3', 'two 2.0']


def test_pip_on_top_of_it(rt, channel):
    asked = {'conda': {'channels': [str(channel)], 'dependencies': ['one', {'pip': ['idna==3.10', 'emoji']}]}}
    look = 'import idna, emoji, one, sys; print(idna.__file__.startswith(sys.prefix), idna.__version__, one.WORD)'
    assert rt.ok('--runtime-env', json.dumps(asked), '--', 'python', '-c', look) == 'True 3.10 first\n'
    asked['conda']['dependencies'][1]['pip'] = ['no-such-package-at-all']
    assert 'no-such-package-at-all' in rt.fails('--runtime-env', json.dumps(asked), '--', 'true')
    asked['conda']['dependencies'] = ['tool', {'pip': ['idna']}]
    assert 'no Python' in rt.fails('--runtime-env', json.dumps(asked), '--', 'true')


def test_with_files_of_ones_own(rt, channel):
    rt.make_files('project', {'main.py': 'import mine, one\nprint(mine.X, one.WORD)\n', 'mine.py': 'X = 7\n'})
    asked = spec(channel, 'one', working_dir=str(rt.folder / 'project'))
    assert rt.ok('--runtime-env', asked, '--', 'python', 'main.py') == '7 first\n'


def test_an_environment_by_name(rt_one, channel):
    rt_one.ok('env', 'create', '--name', 'kept', '--runtime-env', spec(channel, 'one', 'active'), verb='env')
    said = rt_one.ok('exec', 'kept', '--', 'python', '-c', SHOW + '; import os; print(os.environ["ACTIVE"])', verb='exec')
    prefix = f'{rt_one.store}/conda'
    assert said.split() == [prefix, f'{prefix}/bin/python', 'first', f'{prefix}/active']


def test_bytecode_is_made_behind_the_first_start(rt, channel):
    look = 'import os, one; print(os.path.exists(one.__cached__))'
    wait_until(lambda: rt.ok('--runtime-env', spec(channel, 'one'), '--', 'python', '-B', '-c', look) == 'True\n', seconds=90, every=1)
    assert layers_of(rt, 'pyc')
