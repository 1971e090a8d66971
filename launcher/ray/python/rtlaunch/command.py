"""The command `rtlaunch` of the wheel: the bundled program for every verb but `ray`, which is Python's."""

import os
import sys

from rtlaunch import programs

USAGE = '''Usage: rtlaunch ray start ARGS...   `ray start ARGS...`, with runtime environments by rtlaunch
       rtlaunch ray doctor          what this node lacks for that; exit status 1 if it would not work
       rtlaunch ray env             the variable that switches a node over, for a shell to eval

For ray.init() in a program: export the variable, or call rtlaunch.ray.switch_over() before it.
'''


def fail(cause, cure):
    sys.stderr.write(f'rtlaunch: error: {cause}\n  cure: {cure}\n')
    sys.exit(125)


def run_program(words):
    program = programs() / 'rtlaunch'
    try:
        os.execv(program, ['rtlaunch', *words])
    except OSError as error:
        fail(f'{program}: {error.strerror}', 'install the wheel again, or let RTLAUNCH_BIN name the folder of the programs')


def start(words):
    from rtlaunch import ray
    ray.switch_over()
    os.execv(sys.executable, [sys.executable, '-m', 'ray.scripts.scripts', 'start', *words])


def print_variable():
    import shlex

    from rtlaunch import ray
    ray.switch_over()
    print(f'export {ray.VARIABLE}={shlex.quote(os.environ[ray.VARIABLE])}')


def main():
    words = sys.argv[1:]
    if words[:1] != ['ray']:
        run_program(words)
    elif words[1:2] == ['start']:
        start(words[2:])
    elif words[1:] == ['doctor']:
        from rtlaunch.doctor import examine
        sys.exit(examine())
    elif words[1:] == ['env']:
        print_variable()
    elif words[1:] in ([], ['--help'], ['-h']):
        sys.stdout.write(USAGE)
    else:
        sys.stderr.write(USAGE)
        sys.exit(125)
