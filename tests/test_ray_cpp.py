"""Workers of C++, with Ray's own worker program and library for it: the fields of their environment on both
settings, shut in by ours."""

import pathlib
import shutil
import subprocess

import pytest

from image_support import Image, libraries_of
from java_support import open_to_all
from ray_support import RAY, VENV, either, image_python, locked, ours, ray_daemon, ray_programs, ray_python, stock  # noqa: F401 (fixtures)

SOURCE = '''#include <ray/api.h>
#include <unistd.h>
#include <cstdlib>
#include <fstream>
std::string Seen(std::string name) {
  char folder[4096];
  const char* value = std::getenv("A");
  std::string text;
  if (!std::getline(std::ifstream("data.txt"), text)) text = "none";
  return name + "|" + ::getcwd(folder, sizeof folder) + "|" + std::to_string(::getpid()) + "|" +
         (value ? value : "none") + "|" + text;
}
RAY_REMOTE(Seen);
'''


@pytest.fixture(scope='session')
def ray_cpp():
    """What `pip install ray[cpp]` adds; before a node starts, which looks for it."""
    python = ray_python()
    version = RAY[0].partition('==')[2]
    folder = next(VENV.glob('lib/python3*/site-packages/ray')) / 'cpp'
    with locked('ray-venv.lock'):
        if not (folder / 'default_worker').exists():
            subprocess.run([python, '-m', 'pip', 'install', '-q', '--no-deps', f'ray-cpp=={version}'], check=True)
    return folder


@pytest.fixture(scope='session')
def code(ray_cpp, tmp_path_factory):
    if not shutil.which('g++'):
        pytest.skip('no g++: tools/setup installs it')
    folder = tmp_path_factory.mktemp('cpp')
    (folder / 'seen.cc').write_text(SOURCE)
    # As Ray's wheels are built. A worker takes a library for an application if it leads to Ray's own.
    subprocess.run(['g++', '-std=c++17', '-O0', '-D_GLIBCXX_USE_CXX11_ABI=0', '-fPIC', '-shared', '-isystem', ray_cpp / 'include',
                    folder / 'seen.cc', '-o', folder / 'seen.so', '-Wl,--no-as-needed', f'-L{ray_cpp}/lib', '-lray_api'], check=True)
    open_to_all(folder)
    return folder


def call(one, code, env):
    name, folder, pid, variable, data, command, apart, marked = one.drive(f'''
        import ray.cross_language
        from ray.job_config import JobConfig
        connect(job_config=JobConfig(code_search_path=[{str(code)!r}], runtime_env={env!r}))
        parts = ray.get(ray.cross_language.cpp_function('Seen').remote('it'), timeout=90).split('|')
        outside = '/proc/' + parts[2]
        answer(parts + [open(outside + '/cmdline').read().split(chr(0))[0],
                        os.readlink(outside + '/ns/mnt') != os.readlink('/proc/self/ns/mnt'),
                        os.path.exists(outside + '/root/etc/marker')])''')
    assert name == 'it' and '/working_dir_files/' in folder and pid.isdigit()
    assert pathlib.Path(command).name == 'default_worker'
    return variable, data, apart, marked


def test_a_cpp_worker_has_the_fields_of_its_env(code, either, tmp_path):  # noqa: F811
    (tmp_path / 'data.txt').write_text('seven\n')
    variable, data, apart, _ = call(either, code, {'working_dir': str(tmp_path), 'env_vars': {'A': 'a'}})
    assert (variable, data) == ('a', 'seven')
    assert apart == hasattr(either, 'daemon'), 'only ours are shut in'


def test_in_an_image(ray_cpp, code, ours, ray_programs, tmp_path_factory, tmp_path):  # noqa: F811
    """With the code at its place in the image; the worker itself, and Ray's library, are the node's."""
    folder = tmp_path_factory.mktemp('image')
    open_to_all(folder)
    (tmp_path / 'data.txt').write_text('eight\n')
    libraries = {path.lstrip('/'): pathlib.Path(path).resolve()
                 for program in (ray_cpp / 'default_worker', code / 'seen.so') for path in libraries_of(str(program))
                 if not path.startswith(str(VENV))}
    image = Image(folder / 'own', Env=['PATH=/opt/py/bin:/bin', 'A=image'], WorkingDir='/')
    image.layer({**image_python(ray_programs), **libraries, 'etc/marker': 'of the image', 'srv/code/seen.so': code / 'seen.so'},
                packed=False).write()
    env = {'rtlaunch_image': image.uri, 'working_dir': str(tmp_path), 'env_vars': {'A': '${A} and more'}}
    assert call(ours, '/srv/code', env) == ('image and more', 'eight', True, True)
    path = ours.drive(f'''
        connect(runtime_env={env!r})
        @ray.remote
        def path():
            return os.environ.get('LD_LIBRARY_PATH')
        answer(ray.get(path.remote(), timeout=90))''')
    assert path is None, 'that is for its libraries, not for Python'
