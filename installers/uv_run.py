"""What `uv run` syncs, as a plugin of ours (plugin.h): an environment of a project's locked packages, made by
uv itself, once for each lock. The value has

    pyproject, lock   the two files' texts          sync   options of `uv sync`
    python            the interpreter               with   what `uv run --with` adds, an environment on top
    env               variables for uv

(`uv`, `show` and `pages` are plugin_make.cc's). The environments are relocatable: the layer may lie anywhere."""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

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
    parts = [value['pyproject'], value['lock'], value['sync'], value['with'], value['python'], sys.version]
    return {'key': hashlib.sha256(json.dumps(parts).encode()).hexdigest()}


def build(value):
    folder = pathlib.Path(os.environ['TMPDIR'], 'project')
    folder.mkdir()
    (folder / 'pyproject.toml').write_text(value['pyproject'])
    (folder / 'uv.lock').write_text(value['lock'])
    value['folder'] = folder
    python = ['--python', value['python']]
    uv(value, 'venv', '--relocatable', *python, str(PROJECT))
    uv(value, 'sync', '--compile-bytecode', *python, *value['sync'])
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
