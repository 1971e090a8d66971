"""tools/whole: a program's read-only segments fill large pages, so that one fault maps 2 MiB of them. tools/order.ld:
what a start executes lies side by side, so that in small pages it is few of them."""

import os
import pathlib
import statistics
import struct
import subprocess

from conftest import BIN
from daemon_support import daemon, stopped_daemon, through  # noqa: F401

LARGE, LOAD, WRITABLE = 2 << 20, 1, 2
WHOLE = pathlib.Path(__file__).resolve().parent.parent / 'tools/whole'


def read_only_segments(program):
    table, size, count = struct.unpack_from('<32xQ14xHH', program)
    for at in range(table, table + size * count, size):
        kind, flags, _, _, _, in_file, in_memory, alignment = struct.unpack_from('<IIQQQQQQ', program, at)
        if kind == LOAD and not flags & WRITABLE and in_file > LARGE // 4:
            assert alignment == LARGE and in_file == in_memory
            yield in_file


def test_programs_of_a_start_fill_large_pages():
    for name in ('rtlaunch', 'rtlaunchd', 'rtlaunch-spawner'):
        lengths = list(read_only_segments((BIN / name).read_bytes()))
        assert lengths and all(length % LARGE == 0 for length in lengths), name


def test_a_copy_is_the_same_and_runs(tmp_path):
    copy = tmp_path / 'rtlaunch'
    subprocess.run([WHOLE, BIN / 'rtlaunch', copy], check=True)
    assert copy.read_bytes() == (BIN / 'rtlaunch').read_bytes()
    assert subprocess.run([copy, '--version'], capture_output=True, text=True).stdout.startswith('rtlaunch ')


def test_what_is_no_program_of_ours_is_only_copied(tmp_path):
    for number, content in enumerate((b'#!/bin/sh\n', pathlib.Path('/bin/true').read_bytes())):
        given, copy = tmp_path / f'given{number}', tmp_path / f'copy{number}'
        given.write_bytes(content)
        subprocess.run([WHOLE, given, copy], check=True)
        assert copy.read_bytes() == content and copy.stat().st_mode & 0o777 == 0o755


def in_small_pages(program, copy):
    """As the page cache has it once it has read it again."""
    with open(program, 'rb') as given, open(copy, 'wb', buffering=0) as file:
        while page := given.read(4096):
            file.write(page)
    copy.chmod(0o755)
    return str(copy)


def faults(command, env):
    actions = [(os.POSIX_SPAWN_OPEN, 1, '/dev/null', os.O_WRONLY, 0)]
    _, status, usage = os.wait4(os.posix_spawn(command[0], command, env, file_actions=actions), 0)
    assert status == 0
    return usage.ru_minflt


def test_a_start_touches_few_places_of_its_program(daemon, tmp_path):  # noqa: F811
    rt = through(daemon, tmp_path, 0)
    environment = rt.ok('env', 'create', '--working-dir', rt.make_files('project', {'a': ''}), verb='env').strip()
    program = in_small_pages(BIN / 'rtlaunch', tmp_path / 'small')
    count = statistics.median(faults([program, 'exec', environment, '--', 'true'], rt.env) for _ in range(9))
    assert count <= 85, 'tools/order-code writes the order anew'  # 68; with the code as it comes 120
