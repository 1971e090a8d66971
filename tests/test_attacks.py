"""The table of attacks in README.md is that of the tests."""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_the_table_is_current():
    done = subprocess.run([ROOT / 'tools/attack-table', '--check'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
