"""conda environments, from a channel that the tests make."""

import base64
import http.server
import json
import os
import socket
import subprocess
import threading

import pytest

from conda_fixtures import channel, compiled, conda  # noqa: F401
from conda_support import MINOR, VERSION, Channel
from daemon_support import wait_until
from nothing_left import nothing_left
from test_variables import command_lines

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
    with nothing_left(rt, but=['^broken 1$']):   # the package itself is whole
        failed = rt.fails('--runtime-env', spec(channel, 'broken'), '--', 'true')
    assert 'post-link' in failed and 'it went wrong' in failed and 'broken' in failed


PRYING = '''exec > "$PREFIX/share/stolen" 2>/dev/null
cat {home}/secret
touch {home}/planted
echo "$A_SECRET"
exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected
exit 0
'''


def test_a_script_reaches_nothing_of_whoever_asked(rt, conda, tmp_path):
    """The control: the very same script, run by a shell of the caller's."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        script = PRYING.format(home=rt.home, port=server.getsockname()[1])
        prying = Channel(tmp_path / 'prying')
        prying.add('prying', '1', {'bin/.prying-post-link.sh': script, 'share/x': ''})
        rt.make_files('home', {'secret': 'of the caller\n'})
        asked = ('--runtime-env', spec(prying, 'prying'), '--', 'sh', '-c', 'cat "$CONDA_PREFIX/share/stolen"')
        assert rt.ok(*asked, env={'A_SECRET': 'word'}).split() == []
        assert not (rt.home / 'planted').exists()
        (tmp_path / 'share').mkdir()
        subprocess.run(['bash', '-c', script], env={'PREFIX': str(tmp_path), 'A_SECRET': 'word', 'PATH': os.environ['PATH']}, check=True)
    assert (tmp_path / 'share/stolen').read_text() == 'of the caller\nword\nconnected\n' and (rt.home / 'planted').exists()


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
        with nothing_left(rt):
            said = rt.fails('--runtime-env', json.dumps({'conda': wrong}), '--', 'true', cwd=folder)
        assert 'tool-3-h1_0.conda' in said and '0000' in said
    for lock in ('lock.txt', 'old.txt'):   # without a solver
        said = rt.ok('--runtime-env', json.dumps({'conda': lock}), '--', 'sh', '-c', 'say-one && tool', cwd=folder)
        assert said == f'one says first\n{rt.store}/conda/share/word found\n'
    assert layers_of(rt) == ['one 1.0', f'python {VERSION}', 'tool 3']


def test_what_cannot_be_made_says_why(rt_one, channel, tmp_path):
    def said(*packages, where=channel):
        with nothing_left(rt_one):
            return rt_one.fails('--runtime-env', spec(where, *packages), '--', 'true')
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

    def said(*packages, but=()):
        with nothing_left(rt_one, but):
            return rt_one.fails('--runtime-env', spec(lying, *packages), '--', 'true')
    archive = lying.add('thing', '1', {'share/a': 'a'})
    archive.write_bytes(archive.read_bytes().replace(b'a', b'b', 1))
    assert 'thing-1-0.conda' in (text := said('thing')) and 'promised' in text
    archive = lying.add('out', '1', {'../../outside': 'a'})
    assert '`..`' in said('out')
    lying.add('mask', '1', noarch='python', entry_points=['python = a:b'])
    lying.add('python', VERSION, {'bin/nothing': ''})
    assert 'interpreter' in said('mask', 'python', but=['^python '])   # that one is whole
    os.rename(lying.folder / 'linux-64/thing-1-0.conda', lying.folder / 'linux-64/gone')
    assert 'thing-1-0.conda' in said('thing')


def test_several_at_once(rt_one, channel):
    asked = [('one', 'tool'), ('two',), ('two', 'tool'), ('one', 'active')]
    running = [rt_one.popen('--runtime-env', spec(channel, *packages), '--', 'python', '-c', SHOW, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True) for packages in asked]
    for process in running:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0 and out.endswith('first\n'), err
    assert layers_of(rt_one) == ['active 1', 'one 1.0', f'python {VERSION}', 'tool 3', 'two 2.0']


def test_two_are_made_side_by_side(rt_one, conda, tmp_path):
    """Each has a script that takes two seconds; each had begun before the other's end."""
    slow, script = Channel(tmp_path / 'slow'), 'date +%s.%N >"$PREFIX/began"; sleep 2; date +%s.%N >"$PREFIX/ended"\n'
    for name in ('left', 'right'):
        slow.add(name, '1', {f'bin/.{name}-post-link.sh': script, f'share/{name}': name})
    running = [rt_one.popen('--runtime-env', spec(slow, name), '--', 'sh', '-c', 'cd $CONDA_PREFIX && cat began ended && ls share',
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for name in ('left', 'right')]
    said = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    (began, ended, left), (also_began, also_ended, right) = [out.split() for out, _ in said]
    assert (left, right) == ('left', 'right') and max(began, also_began) < min(ended, also_ended), said


def test_pip_on_top_of_it(rt, channel):
    asked = {'conda': {'channels': [str(channel)], 'dependencies': ['one', {'pip': ['idna==3.10', 'emoji']}]}}
    look = 'import idna, emoji, one, sys; print(idna.__file__.startswith(sys.prefix), idna.__version__, one.WORD)'
    assert rt.ok('--runtime-env', json.dumps(asked), '--', 'python', '-c', look) == 'True 3.10 first\n'
    asked['conda']['dependencies'][1]['pip'] = ['no-such-package-at-all']
    assert 'no-such-package-at-all' in rt.fails('--runtime-env', json.dumps(asked), '--', 'true')
    said = rt.ok('--runtime-env', spec(channel, 'one'), '--pip', 'idna==3.10', '--pip', 'emoji', '--', 'python', '-c', look)
    assert said == 'True 3.10 first\n', 'on the command line, too'
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


def test_more_packages_than_overlayfs_stacks(rt_one, conda, tmp_path):
    """Each with a layer, and one of bytecode: those that are too many are one."""
    many = Channel(tmp_path / 'many')
    many.add_python()
    index, many.index = many.index, lambda: None
    names = [f'm{i}' for i in range(260)]
    for i, name in enumerate(names):
        many.add(name, '1', {f'site-packages/{name}.py': f'X = {i}\n', f'site-packages/shared/{name}.py': '', 'share/same': name},
                 ['python'] + [f'm{i - 1}'] * (i > 0), noarch='python')
    index()
    look = 'import os, m0, m7, m259; print(m0.X, m7.X, m259.X, len(os.listdir(os.path.dirname(m0.__file__) + "/shared")))'
    run = ('--runtime-env', spec(many, names[-1]), '--', 'python', '-B', '-c')
    assert rt_one.ok(*run, look) == '0 7 259 260\n'
    assert rt_one.ok(*run, 'import sys; print(open(sys.prefix + "/share/same").read())') == 'm259\n', 'the last one\'s counts'
    compiled = 'import os, m0, m259; print([os.path.exists(m.__cached__) for m in (m0, m259)])'
    wait_until(lambda: rt_one.ok(*run, compiled) == '[True, True]\n', seconds=120, every=1)
    assert any('conda packages' in name for name in layers_of(rt_one))
    assert rt_one.run('store', 'verify', verb='store').returncode == 0


class Served(http.server.SimpleHTTPRequestHandler):
    """A channel, below secret paths or for a login as its server says; counts what it gave."""

    def do_GET(self):
        server, path = self.server, self.path
        for token in server.tokens:
            if path.startswith(f'/t/{token}/'):
                path = path.removeprefix(f'/t/{token}')
                break
        else:
            login = self.headers.get('Authorization', '')
            if (server.tokens or server.login) and login != server.login:
                self.send_response(401 if server.login else 403)
                self.send_header('WWW-Authenticate', 'Basic realm="test"')
                self.send_header('Content-Length', '0')
                return self.end_headers()
        self.path = path
        super().do_HEAD() if self.command == 'HEAD' else super().do_GET()

    do_HEAD = do_GET

    def send_response(self, code, message=None):
        self.server.answers.append((self.command, code, self.path.rpartition('/')[2]))
        super().send_response(code, message)

    def log_message(self, *args):
        pass


@pytest.fixture
def served(channel):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), lambda *args: Served(*args, directory=channel.folder))
    server.tokens, server.login, server.answers = [], '', []
    server.at = f'127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def given(server, word):
    return [file for command, code, file in server.answers if (command, code) == ('GET', 200) and word in file]


def test_an_index_is_fetched_once(rt, served):
    """And after that asked whether it has changed."""
    rt.ok('--runtime-env', spec(f'http://{served.at}', 'one'), '--', 'python', '-c', 'import one')
    assert len(given(served, 'repodata')) == 2 and len(given(served, 'one-1.0')) == 1
    served.answers.clear()
    rt.ok('--runtime-env', spec(f'http://{served.at}', 'one', 'tool'), '--', 'tool')
    assert given(served, 'repodata') == [] and given(served, '') == ['tool-3-h1_0.conda'], served.answers
    assert [code for _, code, file in served.answers if file == 'repodata.json'] == [304, 304]


TOKEN = 'tk-2f5a9c-canary'


@pytest.mark.parametrize('kind', ['token', 'password', 'alias'])
def test_secrets_of_channels_appear_nowhere(rt, served, tmp_path, kind):
    if kind == 'password':
        served.login = 'Basic ' + base64.b64encode(f'me:{TOKEN}'.encode()).decode()
        url = f'http://me:{TOKEN}@{served.at}'
    else:
        served.tokens = [TOKEN, TOKEN + '-next']
        url = f'http://{served.at}/t/{TOKEN}'
    asked, more = spec(url, 'one', 'scripted'), {}
    if kind == 'alias':
        rc = rt.make_files('home', {'condarc': f'channel_alias: {url}\ndefault_channels: [{url}/]\nchannels: [defaults]\n'}) / 'condarc'
        asked, more = json.dumps({'conda': {'dependencies': ['one', 'scripted']}}), {'CONDARC': str(rc)}
    file = rt.make_files('home', {'env.json': asked}) / 'env.json'
    process = rt.popen('--json', '--runtime-env', file, '--', 'python', '-c', SHOW, env=more, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    seen = b''
    while process.poll() is None:
        seen += command_lines()
    said = process.stdout.read()
    assert process.returncode == 0 and 'first' in said, said
    assert len(given(served, 'one-1.0')) == 1
    wrong = rt.run('--runtime-env', spec(url, 'no-such-package-at-all'), '--', 'true')
    said += wrong.stdout + wrong.stderr + rt.ok('env', 'ls', '--json', verb='env') + rt.ok('store', 'ls', '--json', verb='store')
    assert wrong.returncode == 125
    for bad in (url.replace(served.at, '127.0.0.1:9'), url.replace(TOKEN, TOKEN + '-wrong'), f'{url}/nowhere'):
        refused = rt.run('--runtime-env', spec(bad, 'lib'), '--', 'true')
        assert refused.returncode == 125 and 'a channel can\'t be read' in refused.stderr, refused.stderr
        said += refused.stdout + refused.stderr
    lock = f'{url}/noarch/one-7.0-0.conda#' + '0' * 64
    missing = rt.run('--runtime-env', json.dumps({'conda': {'locked': [lock]}}), '--', 'true')
    assert missing.returncode == 125 and 'one-7.0-0.conda' in missing.stderr
    said += missing.stdout + missing.stderr
    assert TOKEN not in said and TOKEN.encode() not in seen
    found = subprocess.run(['grep', '-rl', TOKEN, rt.store], capture_output=True, text=True).stdout
    assert found == '', found
    if kind == 'token':   # another token is no other environment
        served.answers.clear()
        assert rt.ok('--runtime-env', asked.replace(TOKEN, TOKEN + '-next'), '--', 'python', '-c', 'import one; print(one.WORD)') == 'first\n'
        assert served.answers == []
