"""env_vars: expansion exactly as Ray does it, and secrets that stay secret."""

import json
import os
import subprocess
import time

import pytest

CANARY = 'canary-7e1f0c9d-secret'


def variables(rt, fields, env=None):
    out = rt.ok('--runtime-env', json.dumps({'env_vars': fields}), '--', 'python3', '-c',
                'import os, json; print(json.dumps(dict(os.environ)))', env=env)
    return json.loads(out)


def test_expansion(rt):
    got = variables(rt, {'A': '${HAVE}:x', 'B': '$HAVE:x', 'C': '${NOPE}:x', 'D': '${nope}:x', 'E': '$NOPE:x',
                         'F': '${A}!', 'G': 'plain'}, env={'HAVE': '1'})
    assert {key: got[key] for key in 'ABCDEFG'} == {
        'A': '1:x', 'B': '1:x', 'C': ':x', 'D': '${nope}:x', 'E': '$NOPE:x', 'F': '1:x!', 'G': 'plain'}


def test_command_line_wins(rt_one):
    out = rt_one.ok('--runtime-env', '{"env_vars": {"A": "file", "B": "file"}}', '--env', 'A=line', '--env', 'MINE', '--',
                    'sh', '-c', 'echo $A $B $MINE', env={'MINE': 'mine'})
    assert out == 'line file mine\n'


def command_lines():
    lines = b''
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as line:
                lines += line.read()
        except OSError:
            pass
    return lines


# Attacks: E8
def test_secrets_appear_nowhere(rt_one, empty_base):
    """A variable's value, and the password of an index that refuses it."""
    env_file = rt_one.make_files('conf', {'env.json': json.dumps({
        'env_vars': {'TOKEN': CANARY},
        'pip': {'packages': ['emoji==2.14.0', 'idna==3.7']}})}) / 'env.json'
    process = rt_one.popen('--runtime-env', env_file, '--', empty_base / 'bin/python', '-c', 'import emoji',
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    seen = b''
    while process.poll() is None:
        seen += command_lines()
    assert CANARY.encode() not in seen + process.stdout.read()
    told = rt_one.popen('--env', f'TOKEN={CANARY}', '--', 'sleep', '1000')
    until = time.monotonic() + 10   # the kernel tells the new arguments a moment after exec
    while CANARY.encode() not in command_lines():
        assert time.monotonic() < until, 'the control run: what stands in an argument is seen'
    told.kill()
    told.wait()
    bad = rt_one.run('--pip', 'nothing-at-all-71', '--', empty_base / 'bin/python', '-c', '',
                     env={'PIP_INDEX_URL': f'http://user:{CANARY}@127.0.0.1:9/simple'})
    assert bad.returncode == 125 and CANARY not in bad.stdout + bad.stderr
    line = rt_one.run('--pip', f'--index-url http://user:{CANARY}@127.0.0.1:9/simple', '--pip', 'nothing-at-all-72', '--',
                      empty_base / 'bin/python', '-c', '')
    assert line.returncode == 125 and CANARY not in line.stdout + line.stderr
    found = subprocess.run(['grep', '-rl', CANARY, rt_one.store], capture_output=True, text=True)
    assert found.stdout == ''
    project = rt_one.make_files('project', {'key': CANARY})
    rt_one.ok('--working-dir', project, '--', 'true')
    assert subprocess.run(['grep', '-rl', CANARY, rt_one.store], stdout=subprocess.DEVNULL).returncode == 0, \
        'the control run: what is a file is found'
    assert CANARY not in rt_one.run('env', 'ls', '--json', verb='ask').stdout
    assert not any(CANARY in name for _, folders, files in os.walk(rt_one.store) for name in folders + files)
