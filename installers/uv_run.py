"""What `uv run` syncs, as a plugin of ours (plugin.h): an environment of a project's locked packages, made by
uv itself, once for each lock. The value has

    pyproject, lock   the two files' texts          sync   options of `uv sync`
    python            the interpreter               with   what `uv run --with` adds, an environment on top
    env               variables for uv              files  folders of the project with packages, .tar.gz in base64
    editable          those that are found where they lie, which is below; copied: the others
    place             where the workers have the project

(`uv`, `show` and `pages` are uv_run.cc's). The environments are relocatable: the layer may lie anywhere."""

import base64
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

LAYER = pathlib.Path('/build/layer')
PROJECT, WITH, CACHE = LAYER / 'project', LAYER / 'with', LAYER / '.cache'
UV = '/build/uv'


class Failed(Exception):
    pass


def uv(value, *words):
    # Files get another time in a layer than they were compiled with.
    env = {**os.environ, **value['env'], 'UV_CACHE_DIR': str(CACHE), 'UV_PROJECT_ENVIRONMENT': str(PROJECT), 'UV_NO_PROGRESS': '1',
           'UV_PYTHON_DOWNLOADS': 'never', 'PYC_INVALIDATION_MODE': 'UNCHECKED_HASH', 'NO_COLOR': '1'}
    env.pop('PYTHONDONTWRITEBYTECODE', None)
    done = subprocess.run([UV, *words], env=env, cwd=value['folder'], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip()
        raise Failed(said[max(said.find('error:'), 0):] or f'uv ended with status {done.returncode}')


def key(value):
    # One interpreter may be updated at its place.
    parts = [value['pyproject'], value['lock'], value['sync'], value['with'], value['python'], sys.version,
             value.get('files'), value.get('place')]
    return {'key': hashlib.sha256(json.dumps(parts).encode()).hexdigest()}


def unpack(value):
    folder = pathlib.Path(value.get('place') or os.environ['TMPDIR'] + '/project')
    folder.mkdir(exist_ok=True)
    if value.get('files'):
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(value['files']))) as files:
            files.extractall(folder)
    (folder / 'pyproject.toml').write_text(value['pyproject'])
    (folder / 'uv.lock').write_text(value['lock'])
    return folder


def contents(value):
    """Of the folders of editable packages, but for what is of no use to an import."""
    found, copied = {}, [value['folder'] / name for name in value.get('copied', ())]
    for name in value.get('editable', ()):
        for path in (value['folder'] / name).rglob('*'):
            parts = path.relative_to(value['folder']).parts
            nothing = any(part == '__pycache__' or part.endswith('.egg-info') for part in parts) or parts == ('uv.lock',)
            if path.is_file() and not nothing and not any(path.is_relative_to(folder) for folder in copied):
                found['/'.join(parts)] = hashlib.sha256(path.read_bytes()).digest()
    return found


def build(value):
    value['folder'] = unpack(value)
    before = contents(value)
    python = ['--python', value['python']]
    uv(value, 'venv', '--relocatable', *python, str(PROJECT))
    uv(value, 'sync', '--compile-bytecode', *python, *value['sync'])
    changed = sorted(set(contents(value).items()) - set(before.items()))
    if changed:
        raise Failed(f'the build of an editable package writes into its own folder: {changed[0][0]}')
    if value['with']:
        uv(value, 'venv', '--relocatable', *python, str(WITH))
        uv(value, 'pip', 'install', '--compile-bytecode', '--python', str(WITH), *value['with'])
        below = next((PROJECT / 'lib').glob('python*')).name
        line = f"import site, sys; site.addsitedir(sys.prefix + '/../project/lib/{below}/site-packages')\n"
        (WITH / 'lib' / below / 'site-packages/_uv_run.pth').write_text(line)
    shutil.rmtree(CACHE)
    return {'made': ['project/bin/python']}


def launch(value):
    first = 'with' if value['with'] else 'project'
    path = ':'.join(f'${{LAYER}}/{name}/bin' for name in dict.fromkeys([first, 'project']))
    return {'env': {'VIRTUAL_ENV': f'${{LAYER}}/{first}', 'PATH': path + ':${PATH}'}}


def main():
    request = json.load(sys.stdin)
    does = {'key': key, 'build': build, 'launch': launch}.get(request['op'])
    try:
        return does(request['value']) if does else {}
    except Failed as error:
        return {'error': str(error), 'cure': 'see that `uv sync` works in the working_dir, and what its indexes are'}


print(json.dumps(main()))
