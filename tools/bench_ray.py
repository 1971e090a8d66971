#!/usr/bin/python3
"""`tools/bench ray`: what a user of Ray waits for, with Ray as it comes (pip, uv) and through rtlaunch. The same
drivers on nodes that are started in turn, each with nothing in any cache. In namespaces of its own."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROUNDS = 3
PACKAGES = ['pendulum', 'requests==2.27.1']
SCIENTIFIC = ['numpy', 'pandas', 'scipy']
TEN = ['emoji', 'sniffio', 'toml', 'tabulate', 'iniconfig', 'zipp', 'toolz', 'colorama', 'termcolor', 'humanize']

DRIVER = '''
connect()
@ray.remote(num_cpus=0)
def used():
    import pendulum, requests
    return requests.__version__
@ray.remote(num_cpus=0)
def imported(names):
    import importlib
    return [importlib.import_module(name).__name__ for name in names]
@ray.remote(num_cpus=0)
class Actor:
    def used(self):
        return os.getpid()
env, found = {env}, {{}}
ray.get(ray.remote(lambda: 1).remote())

def timed(call):
    began = time.monotonic()
    ray.get(call())
    return time.monotonic() - began

def shares(pids):
    """PSS of the workers and of all that is there only for them: what starts, keeps or copies them."""
    def parent(pid):
        stat = open(f'/proc/{{pid}}/stat').read()
        return int(stat[stat.rindex(')') + 2:].split()[1])
    clients = [int(pid) for pid in filter(str.isdigit, os.listdir('/proc')) if '\\0--zygote\\0' in open(f'/proc/{{pid}}/cmdline').read()]
    all_of_them = set()
    for pid in pids + clients:
        while pid > 1 and not os.readlink(f'/proc/{{pid}}/exe').endswith(('/raylet', '/rtlaunch-spawner')):
            all_of_them.add(pid)
            pid = parent(pid)
    rolled = [open(f'/proc/{{pid}}/smaps_rollup').read() for pid in all_of_them]
    return sum(int(text.split('\\nPss:')[1].split()[0]) for text in rolled) * 1024 / 1e6

def bytes_of(folders):
    walked = (os.path.join(where, name) for folder in folders for where, _, names in os.walk(folder) for name in names)
    return sum({{(info.st_dev, info.st_ino): info.st_blocks * 512 for info in map(os.lstat, walked)}}.values())

found['new'] = timed(lambda: used.options(runtime_env=env).remote())
actors = [Actor.options(runtime_env=env).remote()]   # may take the task's worker
ray.get(actors[0].used.remote())
found['actor'] = []
time.sleep(3)   # an environment that is there, and nothing else going on
for _ in range(5):
    began = time.monotonic()
    actors.append(Actor.options(runtime_env=env).remote())
    ray.get(actors[-1].used.remote())
    found['actor'].append(time.monotonic() - began)
found['variable'], found['imported'] = [], []
for n in range(4):
    differs = {{**env, 'env_vars': {{'N': str(n)}}}}
    began = time.monotonic()
    actors.append(Actor.options(runtime_env=differs).remote())
    ray.get(actors[-1].used.remote())
    found['variable'].append(time.monotonic() - began)
    differs['env_vars'] = {{'M': str(n)}}
    found['imported'].append(timed(lambda: used.options(runtime_env=differs).remote()))
crowd = [Actor.options(runtime_env=env) for _ in range(10)]
began = time.monotonic()
crowd = [one.remote() for one in crowd]
ray.get([one.used.remote() for one in crowd])
found['crowd'] = time.monotonic() - began
if {many_packages}:
    folders = {folders} + [ray._private.worker._global_node.get_session_dir_path() + '/runtime_resources']
    before = bytes_of(folders)
    found['ten'] = timed(lambda: [imported.options(runtime_env={{{field!r}: [name]}}).remote([name]) for name in {ten}])
    found['disk'] = (bytes_of(folders) - before) / 1e6
    found['scientific'] = timed(lambda: imported.options(runtime_env={{{field!r}: {scientific}}}).remote({scientific}))
if {many}:
    del crowd, actors
    time.sleep(5)
    idle = [Actor.options(runtime_env=env).remote() for _ in range(50)]
    pids = ray.get([one.used.remote() for one in idle])
    time.sleep(5)
    found['pss'] = shares(pids)
    del idle
    time.sleep(10)
    began = time.monotonic()
    crowd = [Actor.options(runtime_env=env).remote() for _ in range(100)]
    ray.get([one.used.remote() for one in crowd])
    found['hundred'] = time.monotonic() - began
answer(found)
'''


def measure(bench, programs, row, absolute):
    # Not in /tmp: where Ray runs, that is another.
    with tempfile.NamedTemporaryFile(dir=ROOT / 'build', prefix='ray-answer-') as answer:
        done = subprocess.run([sys.executable, __file__, programs, answer.name], text=True)
        if done.returncode:
            raise SystemExit('bench_ray failed')
        found = json.loads(pathlib.Path(answer.name).read_text())
    flat = lambda setting, what: sum((one[what] if isinstance(one[what], list) else [one[what]] for one in found[setting] if what in one), [])
    for theirs, goal in (('pip', 1 / 6), ('uv', 1 / 4)):
        row('Ray: new pip env to first task', flat('ours', 'new'), flat(theirs, 'new'), f'stock Ray, {theirs}', round(goal, 2))
    row('Ray: numpy+pandas+scipy to first task', flat('ours', 'scientific'), flat('pip', 'scientific'), 'stock Ray, pip', 0.125)
    row('Ray: ten envs of one small package each, to first tasks', flat('ours', 'ten'), flat('pip', 'ten'), 'stock Ray, pip', 0.125)
    row('Ray: disk of these ten', flat('ours', 'disk'), flat('pip', 'disk'), 'stock Ray, pip', 0.05, 'MB')
    row('Ray: actor in an env that is there', flat('ours', 'actor'), flat('pip', 'actor'), 'stock Ray, pip', 0.25)
    row('Ray: actor in an env that differs in env_vars only', flat('ours', 'variable'), flat('pip', 'variable'), 'stock Ray, pip', 0.25)
    row('Ray: the same, and its packages imported', flat('ours', 'imported'), flat('pip', 'imported'), 'stock Ray, pip', 0.25)
    row('Ray: ten actors at once in an env that is there', flat('ours', 'crowd'), flat('pip', 'crowd'), 'stock Ray, pip', 0.33)
    row('Ray: 100 actors at once in an env that is there', flat('ours', 'hundred'), flat('pip', 'hundred'), 'stock Ray, pip', 0.33)
    row('Ray: memory (PSS) of 50 idle actors', flat('ours', 'pss'), flat('pip', 'pss'), 'stock Ray, pip', 0.4, 'MB')
    absolute('Ray: an environment that is known, of one core', found['answer'], 1 / 30_000, 'µs')


def driver(setting, many, folders):
    return DRIVER.format(env={setting: PACKAGES}, field=setting, many=many, many_packages=setting != 'uv', folders=folders, ten=TEN,
                         scientific=SCIENTIFIC)


def one_round(programs, setting, folder, many):
    from daemon_support import Daemon
    from ray_support import node, our_node
    if setting != 'ours':
        with node() as one:
            return one.drive(driver(setting, many, []), timeout=900)
    folder.mkdir(mode=0o755)
    daemon = Daemon(programs, folder).start()
    try:
        with our_node(programs, daemon) as one:
            return one.drive(driver('pip', many, [str(folder)]), timeout=900)
    finally:
        daemon.stop()


def answers(programs, folder):
    """Seconds of one core for each of Ray's requests whose answer is known."""
    from test_ray_agent import Agent, Line, cached_request, imported_messages, seconds_an_answer
    agent = Agent(programs, imported_messages(), folder).start()
    line = Line(agent.port, cached_request(agent))
    found = [seconds_an_answer(line, agent.process.pid) for _ in range(5)]
    line.close()
    agent.stop()
    return found


def main():
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(ROOT / 'tests'))
    programs, out = map(pathlib.Path, sys.argv[1:])
    os.environ['RTLAUNCH_BIN'] = str(programs)
    import ray_support
    ray_support.ray_python()
    ray_support.shut_in()
    found = {'pip': [], 'uv': [], 'ours': []}
    for turn in range(ROUNDS):
        for setting, rounds in found.items():
            many = turn == 0 and setting != 'uv'   # a minute, and 7 GB
            rounds.append(one_round(programs, setting, pathlib.Path(f'/tmp/node-{turn}'), many))
            print(f'ray, {setting}: {json.dumps(rounds[-1])}', flush=True)
    found['answer'] = answers(programs, pathlib.Path('/tmp/agent'))
    out.write_text(json.dumps(found))


if __name__ == '__main__':
    main()
