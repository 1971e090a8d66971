"""What is said while layers are made."""

import json
import os
import pty


def test_plain_lines_without_a_terminal(rt_one, empty_base):
    args = ['--pip', 'emoji==2.14.0', '--', empty_base / 'bin/python', '-c', 'pass']
    cold = rt_one.run(*args)
    lines = cold.stderr.splitlines()
    assert cold.stdout == ''
    assert any(line.startswith('rtlaunch: pip: ') for line in lines)
    assert lines[-1].startswith('rtlaunch: cold start: pip ') and 'launch' in lines[-1]
    assert '\033' not in cold.stderr and '\r' not in cold.stderr
    assert rt_one.run(*args).stderr == ''


def test_events(rt_one, empty_base):
    done = rt_one.run('--json', '--pip', 'emoji==2.14.0', '--', empty_base / 'bin/python', '-c', 'print(1)')
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == '1\n'
    assert {'progress', 'layer', 'cold'} <= {event['event'] for event in events}
    failed = rt_one.run('--json', '--pip', 'no-such-package-7f3a9c', '--', empty_base / 'bin/python', '-c', '')
    last = json.loads(failed.stderr.splitlines()[-1])
    assert last['event'] == 'error' and last['exit_code'] == 125 and last['cure']


def test_live_line_on_a_terminal_and_nothing_left_of_it(rt_one, empty_base):
    master, slave = pty.openpty()
    process = rt_one.popen('--pip', 'emoji==2.13.0', '--', empty_base / 'bin/python', '-c', 'pass', stderr=slave)
    process.wait()
    os.close(slave)
    shown = b''
    try:
        while True:
            shown += os.read(master, 65536)
    except OSError:
        pass
    text = shown.decode()
    assert 'pip ' in text and '\033[' in text
    after = text.split('\033[J')
    assert len(after) > 1 and after[-1].startswith('rtlaunch: cold start'), 'the live lines were taken away'
    assert '\033' not in after[-1]
