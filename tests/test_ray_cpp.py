"""Workers of C++, with Ray's own worker program and library for it: the fields of their environment on both
settings, shut in by ours."""

import pathlib
import shutil
import subprocess

import pytest

from ray_support import RAY, VENV, either, locked, ours, ray_daemon, ray_programs, ray_python, stock  # noqa: F401 (fixtures)

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
    for path in [folder, *folder.parents][:-2]:
        path.chmod(0o755)
    return folder


def test_a_cpp_worker_has_the_fields_of_its_env(code, either, tmp_path):  # noqa: F811
    (tmp_path / 'data.txt').write_text('seven\n')
    name, folder, pid, variable, data, command, apart = either.drive(f'''
        import ray.cross_language
        from ray.job_config import JobConfig
        connect(job_config=JobConfig(code_search_path=[{str(code)!r}], runtime_env={{'working_dir': {str(tmp_path)!r}, 'env_vars': {{'A': 'a'}}}}))
        parts = ray.get(ray.cross_language.cpp_function('Seen').remote('it'), timeout=90).split('|')
        outside = '/proc/' + parts[2]
        answer(parts + [open(outside + '/cmdline').read().split(chr(0))[0],
                        os.readlink(outside + '/ns/mnt') != os.readlink('/proc/self/ns/mnt')])''')
    assert (name, variable, data) == ('it', 'a', 'seven') and '/working_dir_files/' in folder and pid.isdigit()
    assert pathlib.Path(command).name == 'default_worker'
    assert apart == hasattr(either, 'daemon'), 'only ours are shut in'
