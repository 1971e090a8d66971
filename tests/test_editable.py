"""`-e ./pkg`: a local project that is imported from where it lies."""

PROJECT = """
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "ownpkg"
version = "1.5"
"""


def test_an_editable_project_is_imported_from_its_folder(rt, empty_base):
    folder = rt.make_dir('app')
    rt.make_files(folder, {'pkg/pyproject.toml': PROJECT, 'pkg/ownpkg/__init__.py': 'WORD = "first"\n'})
    python = empty_base / 'bin/python'
    show = 'import ownpkg, importlib.metadata as m; print(ownpkg.WORD, m.version("ownpkg"), ownpkg.__file__)'
    run = lambda: rt.ok('--pip', '-e ./pkg', '--', python, '-c', show, cwd=folder).split()
    assert run() == ['first', '1.5', str(folder / 'pkg/ownpkg/__init__.py')]
    rt.make_files(folder, {'pkg/ownpkg/__init__.py': 'WORD = "second"\n'})
    assert run()[0] == 'second', 'a change shows'
