"""working_dir and py_modules, in all the shapes they come in."""

import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
import zipfile

import pytest

FILES = {'main.py': 'import helper\nprint(helper.WORD)\n', 'helper.py': 'WORD = "from the working dir"\n',
         'data/table.csv': '1,2\n'}


def test_directory(rt):
    project = rt.make_files('project', FILES)
    out = rt.ok('--working-dir', project, '--', 'sh', '-c', 'pwd; python3 main.py; cat data/table.csv')
    assert out == f'{project}\nfrom the working dir\n1,2\n'


@pytest.mark.parametrize('inside', ['', 'data'])
def test_started_from_within(rt, inside):
    project = rt.make_files('project', FILES)
    done = rt.run('--working-dir', project, '--', 'sh', '-c', 'pwd; echo new > data/new; cat data/new', cwd=project / inside)
    assert done.stdout == f'{project}\nnew\n', done.stderr
    assert not (project / 'data/new').exists()


def test_it_is_first_on_pythonpath(rt):
    project = rt.make_files('project', FILES)
    out = rt.ok('--working-dir', project, '--env', 'PYTHONPATH=/elsewhere', '--', 'sh', '-c', 'echo $PYTHONPATH')
    assert out == f'{project}:/elsewhere\n'


def test_a_change_is_seen_and_only_then_costs(rt):
    project = rt.make_files('project', FILES)
    run = lambda: rt.run('--working-dir', project, '--', 'cat', 'helper.py')
    assert 'cold start' in run().stderr
    assert run().stderr == '', 'warm runs are quiet'
    (project / 'helper.py').write_text('WORD = "changed"\n')
    assert run().stdout == 'WORD = "changed"\n'
    (project / 'main.py').chmod(0o755)
    assert rt.ok('--working-dir', project, '--', 'stat', '-c', '%a', 'main.py') == '755\n'


def test_ignored_files_stay_away(rt):
    project = rt.make_files('project', {**FILES, '.gitignore': '*.log\n!keep.log\n', '.rayignore': 'big/\n',
                                        'a.log': '', 'keep.log': '', 'big/blob': '', 'secret.txt': '',
                                        '.venv/bin/x': '', '__pycache__/m.pyc': ''})
    env = json.dumps({'working_dir': str(project), 'excludes': ['secret.txt']})
    out = rt.ok('--runtime-env', env, '--', 'sh', '-c', 'find . -type f | sort')
    assert out.split() == ['./.gitignore', './.rayignore', './data/table.csv', './helper.py', './keep.log', './main.py']


def test_writes_are_private_counted_and_kept_on_demand(rt):
    project = rt.make_files('project', FILES)
    done = rt.run('--working-dir', project, '--', 'sh', '-c', 'echo new > out.txt; echo changed > helper.py; rm main.py')
    assert done.returncode == 0
    assert '2 files' in done.stderr and '--keep' in done.stderr
    assert sorted(os.listdir(project)) == ['data', 'helper.py', 'main.py'] and 'from' in (project / 'helper.py').read_text()
    kept = rt.folder / 'kept'
    rt.ok('--working-dir', project, '--keep', kept, '--', 'sh', '-c', 'mkdir -p deep; echo new > deep/out.txt')
    assert (kept / 'deep/out.txt').read_text() == 'new\n'
    assert not (project / 'deep').exists()


def test_the_upper_has_a_limit(rt):
    project = rt.make_files('project', FILES)
    done = rt.run('--working-dir', project, '--upper-size', '4M', '--', 'sh', '-c', 'head -c 20M /dev/zero > big')
    assert done.returncode != 0 and 'No space left' in done.stderr


def zip_of(files, folder=''):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(folder + name, content)
    return data.getvalue()


def tar_of(files, mode, folder=''):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(folder + name)
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content.encode()))
    return data.getvalue()


ARCHIVES = {'p.zip': lambda f: zip_of(FILES, f), 'p.tar.gz': lambda f: tar_of(FILES, 'w:gz', f),
            'p.tgz': lambda f: tar_of(FILES, 'w:gz', f), 'p.tar.xz': lambda f: tar_of(FILES, 'w:xz', f)}


@pytest.mark.parametrize('name', ARCHIVES)
@pytest.mark.parametrize('folder', ['', 'top/'])
def test_archives(rt, name, folder):
    path = rt.folder / name
    path.write_bytes(ARCHIVES[name](folder))
    prefix = 'file://' if name.endswith('.zip') else ''
    assert rt.ok('--working-dir', f'{prefix}{path}', '--', 'sh', '-c', 'cd "$(dirname "$(find . -name main.py)")" && python3 main.py') \
        == 'from the working dir\n'
    if folder and prefix:
        assert 'top' not in rt.ok('--working-dir', f'{prefix}{path}', '--', 'ls'), 'one folder at the top is taken off'


@pytest.fixture
def server():
    """Serves bytes by path on 127.0.0.1; `requests` counts what was asked."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(self.path)
            body = self.server.files.get(self.path.split('?')[0])
            self.send_response(200 if body is not None else 404)
            self.send_header('Content-Length', str(len(body or b'')))
            self.end_headers()
            self.wfile.write(body or b'')
        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    running.files, running.asked = {}, []
    running.url = f'http://127.0.0.1:{running.server_port}'
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()


def test_url_is_fetched_once(rt, server):
    server.files['/p.zip'] = zip_of(FILES, 'top/')
    for _ in range(2):
        assert rt.ok('--working-dir', server.url + '/p.zip', '--', 'python3', 'main.py') == 'from the working dir\n'
    assert server.asked.count('/p.zip') == 1


def test_url_that_is_not_there(rt_one, server):
    error = rt_one.fails('--working-dir', server.url + '/none.zip', '--', 'true')
    assert '404' in error


def test_local_is_used_in_place(rt):
    project = rt.make_files('home/project', FILES)
    rt.ok('--working-dir', f'local://{project}', '--', 'sh', '-c', 'python3 main.py; echo x > written')
    assert (project / 'written').exists()
    assert rt.run('store', 'ls', '--json', verb='ask').stdout.strip() in ('[]', '')


def wheel(name, *needs):
    requires = ''.join(f'Requires-Dist: {need}\n' for need in needs)
    return zip_of({f'{name}/__init__.py': f'WORD = "{name}"\n', f'{name}-1.0.dist-info/METADATA':
                   f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}',
                   f'{name}-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
                   f'{name}-1.0.dist-info/RECORD': f'{name}/__init__.py,,\n{name}-1.0.dist-info/METADATA,,\n'
                                                   f'{name}-1.0.dist-info/WHEEL,,\n{name}-1.0.dist-info/RECORD,,\n'})


def test_py_modules_directory_file_wheel_archive(rt):
    package = rt.make_files('apackage', {'__init__.py': 'WORD = "apackage"\n'})
    single = rt.make_files('single', {'one.py': 'WORD = "one"\n'}) / 'one.py'
    whl = rt.folder / 'awheel-1.0-py3-none-any.whl'
    whl.write_bytes(wheel('awheel'))
    archive = rt.folder / 'arc.zip'
    archive.write_bytes(zip_of({'inside/__init__.py': 'WORD = "inside"\n'}, 'top/'))
    env = {'py_modules': [str(package), str(single), str(whl), f'file://{archive}']}
    script = 'import apackage, one, awheel, inside; print(apackage.WORD, one.WORD, awheel.WORD, inside.WORD)'
    assert rt.ok('--runtime-env', json.dumps(env), '--', 'python3', '-c', script) == 'apackage one awheel inside\n'


def needy(launcher, *needs):
    whl = launcher.folder / 'needy-1.0-py3-none-any.whl'
    whl.write_bytes(wheel('needy', *needs))
    return str(whl)


def test_a_wheel_brings_what_it_requires(rt, base):
    """From the index, on top of the same interpreter."""
    env = {'py_modules': [needy(rt, 'iniconfig==2.0.0', "no-such-package-at-all; extra == 'more'")]}
    script = 'import needy, iniconfig, importlib.metadata as m; print(needy.WORD, m.version("iniconfig"))'
    assert rt.ok('--runtime-env', json.dumps(env), '--', base / 'bin/python', '-c', script) == 'needy 2.0.0\n'
    assert rt.run('--runtime-env', json.dumps(env), '--', base / 'bin/python', '-c', script).stderr == '', 'it is there now'


def test_a_wheel_and_pip_have_one_solution(rt_one, base):
    env = {'py_modules': [needy(rt_one, 'iniconfig==2.0.0', 'idna<3.5,>=3')], 'pip': ['idna<3.4']}
    script = 'import needy, iniconfig, importlib.metadata as m; print(m.version("idna"))'
    assert rt_one.ok('--runtime-env', json.dumps(env), '--', base / 'bin/python', '-c', script) == '3.3\n'


def test_a_wheel_that_requires_what_is_not_there(rt_one, base):
    for need, cause in (('no-such-package-at-all-5a', 'needy-1.0-py3-none-any.whl'), ('--index-url https://elsewhere.example', 'no package')):
        env = {'py_modules': [needy(rt_one, need)]}
        said = rt_one.fails('--runtime-env', json.dumps(env), '--', base / 'bin/python', '-c', '')
        assert need in said and cause in said


def test_local_py_module_in_place(rt):
    modules = rt.make_files('modules', {'inplace.py': 'WORD = 1\n'})
    env = json.dumps({'py_modules': [f'local://{modules}']})
    assert rt.ok('--runtime-env', env, '--', 'python3', '-c', 'import inplace; print(inplace.WORD)') == '1\n'


def test_symlinks_are_followed(rt):
    outside = rt.make_files('outside', {'f': 'outside\n'})
    project = rt.make_files('project', FILES)
    os.symlink(outside / 'f', project / 'link')
    os.symlink('helper.py', project / 'inner')
    out = rt.ok('--working-dir', project, '--', 'sh', '-c', 'cat link; test -L link || echo file; cat inner')
    assert out == 'outside\nfile\nWORD = "from the working dir"\n'


def test_venv_in_the_working_dir_still_works(rt, uv):
    project = rt.make_files('project', FILES)
    subprocess.run(['/usr/bin/python3', '-m', 'venv', '--without-pip', project / '.venv'], check=True)
    python = project / '.venv/bin/python'
    env = {'VIRTUAL_ENV': str(project / '.venv'), 'PATH': f'{project}/.venv/bin:{rt.env["PATH"]}'}
    assert rt.ok('--working-dir', '.', '--', 'python', 'main.py', cwd=project, env=env) == 'from the working dir\n'
    out = rt.ok('--working-dir', '.', '--pip', 'emoji==2.14.0', '--', 'python', '-c', 'import emoji, sys; print(emoji.__version__, sys.prefix)',
                cwd=project, env=env)
    assert out == f'2.14.0 {project}/.venv\n'
    assert str(python)
