"""rtlaunch-agent as a raylet sees it: its own arguments, its own messages (Ray's protobuf classes) over HTTP.
What a raylet does with the answers is test_ray.py's."""

import concurrent.futures
import contextlib
import functools
import http.client
import http.server
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

import pytest

from conftest import BIN, PLAIN_UID, SYSTEM_PYTHON, become
from daemon_support import Daemon, wait_until
from ray_support import PLUGINS, VENV, children_of, command_of, free_port, install_plugin, ray_programs, ray_python, stock  # noqa: F401 (fixtures)

NODE_ID = secrets.token_hex(28)


def imported_messages():
    """Ray's own classes for the messages."""
    ray_python()
    folder = next((VENV / 'lib').glob('python3*/site-packages'))
    sys.path.append(str(folder))
    try:
        from ray.core.generated import runtime_env_agent_pb2
    finally:
        sys.path.remove(str(folder))
    return runtime_env_agent_pb2


@pytest.fixture(scope='session')
def messages():
    return imported_messages()


class Agent:
    """An agent with a session folder of its own; ended by its stdin, as by a raylet."""

    def __init__(self, programs, messages, folder, env=None, options=()):
        self.messages, self.folder = messages, folder
        self.session, self.logs, self.resources = folder / 'session', folder / 'session/logs', folder / 'resources'
        self.logs.mkdir(parents=True)
        self.store = folder / 'store'
        self.env = {'PATH': '/usr/local/bin:/usr/bin:/bin', 'HOME': str(folder), 'LANG': 'C.UTF-8',
                    'RTLAUNCH_BIN': str(programs), 'RTLAUNCH_EMBEDDED': '1', 'RTLAUNCH_STORE': str(self.store),
                    'RAY_enable_pipe_based_agent_to_parent_health_check': '1', 'RTLAUNCH_RAY_PYTHON': SYSTEM_PYTHON}
        for name, value in os.environ.items():
            if name.endswith(('_CERT', '_CERT_FILE', '_CERT_DIR', '_CA_BUNDLE', '_proxy', '_PROXY')) \
                    or name in ('PIP_INDEX_URL', 'UV_INDEX_URL', 'UV_DEFAULT_INDEX'):
                self.env[name] = value
        self.env.update(env or {})
        self.env = {name: value for name, value in self.env.items() if value is not None}
        self.command = [programs / 'rtlaunch-agent', f'--node-id={NODE_ID}', '--node-ip-address=127.0.0.1',
                        '--runtime-env-agent-port=0', f'--session-dir={self.session}', '--gcs-address=127.0.0.1:1',
                        '--cluster-id-hex', 'ab' * 28, f'--runtime-env-dir={self.resources}', f'--log-dir={self.logs}',
                        '--logging-rotate-bytes=536870912', '--logging-rotate-backup-count=5', f'--temp-dir={folder}',
                        f'--stdout-filepath={self.logs}/runtime_env_agent.out', f'--stderr-filepath={self.logs}/runtime_env_agent.err',
                        '--logging-filename=runtime_env_agent.log', '--some-option-of-later', *options]

    def start(self, **more):
        more.setdefault('stdin', subprocess.PIPE)
        self.process = subprocess.Popen(list(map(str, self.command)), env=self.env, cwd=self.folder, **more)
        wait_until(lambda: self.port_file().exists() or self.process.poll() is not None, 15)
        assert self.process.poll() is None, self.log('runtime_env_agent.err')
        self.port = int(self.port_file().read_text())
        return self

    def port_file(self):
        return self.session / f'runtime_env_agent_port_{NODE_ID}'

    def log(self, name):
        path = self.logs / name
        return path.read_text() if path.exists() else ''

    def post(self, path, body, headers=None):
        line = http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
        line.request('POST', path, body, {'Content-Type': 'application/octet-stream', **(headers or {})})
        answer = line.getresponse()
        return answer.status, answer.read()

    def call(self, path, request, reply):
        status, body = self.post(path, request.SerializeToString())
        assert status == 200, body
        reply.ParseFromString(body)
        return reply

    def request(self, env, job='01000000', source='', timeout=0, log_files=()):
        text = env if isinstance(env, str) else json.dumps(env, sort_keys=True)
        request = self.messages.GetOrCreateRuntimeEnvRequest(serialized_runtime_env=text, job_id=job.encode(), source_process=source)
        request.runtime_env_config.setup_timeout_seconds = timeout
        request.runtime_env_config.log_files.extend(log_files)
        return request

    def get(self, env, **more):
        return self.call('/get_or_create_runtime_env', self.request(env, **more), self.messages.GetOrCreateRuntimeEnvReply())

    def context(self, env, **more):
        reply = self.get(env, **more)
        assert reply.status == 0, reply.error_message
        context = json.loads(reply.serialized_runtime_env_context)
        assert sorted(context) == ['command_prefix', 'env_vars', 'java_jars', 'override_worker_entrypoint', 'py_executable']
        return context

    def fails(self, env, **more):
        reply = self.get(env, **more)
        assert reply.status == 1, reply
        assert reply.error_message.startswith('[Node 127.0.0.1] ')
        assert reply.error_message.count('\n') < 10
        return reply.error_message

    def delete(self, env, source='raylet'):
        text = env if isinstance(env, str) else json.dumps(env, sort_keys=True)
        request = self.messages.DeleteRuntimeEnvIfPossibleRequest(serialized_runtime_env=text, source_process=source)
        return self.call('/delete_runtime_env_if_possible', request, self.messages.DeleteRuntimeEnvIfPossibleReply())

    def states(self, limit=None):
        request = self.messages.GetRuntimeEnvsInfoRequest()
        if limit is not None:
            request.limit = limit
        reply = self.call('/get_runtime_envs_info', request, self.messages.GetRuntimeEnvsInfoReply())
        return reply.total, {state.runtime_env: state for state in reply.runtime_env_states}

    def rtlaunch(self, *args):
        return subprocess.run([self.env['RTLAUNCH_BIN'] + '/rtlaunch', *args, '--store', str(self.store)], env=self.env,
                              capture_output=True, text=True, timeout=60)

    def stop(self):
        if self.process.poll() is None:
            self.process.stdin and self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def make_agent(ray_programs, messages, tmp_path):  # noqa: F811
    made = []

    def make(**more):
        folder = tmp_path / f'agent{len(made)}'
        folder.mkdir()
        made.append(Agent(ray_programs, messages, folder, **more))
        return made[-1]
    yield make
    for agent in made:
        hasattr(agent, 'process') and agent.stop()


@pytest.fixture
def agent(make_agent):
    return make_agent().start()


def make_module(folder, name='mymod', text='VALUE = 1\n'):
    path = folder / 'lib'
    path.mkdir(exist_ok=True)
    (path / f'{name}.py').write_text(text)
    return path


def make_zip(folder, files, name='pkg.zip'):
    import zipfile
    path = folder / name
    with zipfile.ZipFile(path, 'w') as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return path


def test_starts_as_a_raylet_expects(agent):
    assert command_of(agent.process.pid) == 'ray::RuntimeEnvAgent'
    assert agent.port_file().read_text() == str(agent.port)
    for name in ('working_dir_files', 'py_modules_files', 'java_jars_files', 'pip', 'uv', 'conda'):
        assert (agent.resources / name).is_dir()
    assert '--some-option-of-later' in agent.log('runtime_env_agent.log')
    status = pathlib.Path(f'/proc/{agent.process.pid}/status').read_text()
    assert int(re.search(r'SigBlk:\s*(\w+)', status)[1], 16) == 0
    assert 'Threads:\t1\n' in status


def test_variables_alone_make_no_layer(agent):
    context = agent.context({'env_vars': {'A': '1', 'B': 'é ${HOME}'}})
    assert context == {'command_prefix': [], 'env_vars': {'A': '1', 'B': 'é ${HOME}'}, 'py_executable': None,
                       'override_worker_entrypoint': None, 'java_jars': []}
    assert agent.context({'py_executable': 'python -X dev'})['py_executable'] == 'python -X dev'
    assert not list(agent.store.glob('layers/sha256/*/*'))
    assert not json.loads(agent.rtlaunch('env', 'ls', '--holds', '--json').stdout or '[]')


def test_a_working_dir_becomes_an_environment(agent, tmp_path):
    uri = f'file://{make_zip(tmp_path, {"top/main.py": "print(1)"})}'
    context = agent.context({'working_dir': uri, 'env_vars': {'PYTHONPATH': '/mine'}})
    place = next((agent.resources / 'working_dir_files').iterdir())
    assert re.fullmatch(r'file_[0-9a-f]{40}', place.name) and not list(place.iterdir())
    words = context['command_prefix']
    assert words[0] == 'exec' and words[1].endswith('/rtlaunch') and words[2] == 'exec' and words[-1] == '--'
    assert words[4:7] == ['--profile', 'ray', '--die-with-parent']
    assert words[words.index('--working-dir-at') + 1] == str(place)
    assert context['env_vars']['PYTHONPATH'] == f'{place}:/mine'
    holds = json.loads(agent.rtlaunch('env', 'ls', '--holds', '--json').stdout)
    assert [hold['env'] for hold in holds] == [words[3]]
    assert holds[0]['name'].startswith('ray-' + NODE_ID[:16])


def test_the_interpreter_is_looked_at_before_anybody_asks(agent):
    known = wait_until(lambda: json.loads(agent.rtlaunch('env', 'ls', '--json').stdout or '[]'), 30)
    assert [(env['name'], env['layers'], env['bytes']) for env in known] == [('pip: nothing to add', [], 0)]
    assert list(agent.store.glob('uv/cache/interpreter-v*/*/*')), 'uv knows it'
    assert not json.loads(agent.rtlaunch('env', 'ls', '--holds', '--json').stdout)
    assert not list(agent.logs.glob('runtime_env_setup-*')) and agent.states() == (0, {})


def test_ten_at_once_are_made_once(agent, tmp_path):
    env = {'py_modules': [f'file://{make_zip(tmp_path, {"mod.py": ""})}']}
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        contexts = list(pool.map(lambda _: json.dumps(agent.context(env)), range(10)))
    assert len(set(contexts)) == 1
    assert agent.log('runtime_env_setup-01000000.log').count('is ready after') == 1
    total, states = agent.states()
    assert total == 1 and list(states.values())[0].ref_cnt == 10
    assert all(agent.delete(env).status == 0 for _ in range(10))
    reply = agent.delete(env)
    assert reply.status == 1 and 'cannot decrement reference since the reference count is 0' in reply.error_message


def test_uses_are_counted_as_ray_counts(agent):
    env = {'env_vars': {'A': '1'}}
    agent.context(env, source='client_server')
    assert agent.states()[0] == 0
    agent.context(env)
    agent.context(env)
    _, states = agent.states()
    state = states[json.dumps(env)]
    assert state.ref_cnt == 2 and state.success and state.creation_time_ms >= 0
    assert agent.delete(env, source='client_server').status == 0
    assert agent.states()[1][json.dumps(env)].ref_cnt == 2
    # The same in another spelling is another.
    assert agent.delete('{"env_vars":{"A":"1"}}').status == 1
    agent.context({'env_vars': {'B': '1'}})
    assert agent.states(limit=1)[0] == 2 and len(agent.states(limit=1)[1]) == 1
    for _ in range(2):
        assert agent.delete(env).status == 0
    assert json.dumps(env) not in agent.states()[1]


def test_what_is_wrong_is_said(agent):
    assert 'json' in agent.fails('{"pip": ')
    assert 'conda' in agent.fails({'conda': 7})
    assert 'Expected URI but received path' in agent.fails({'working_dir': '/tmp/x'})
    assert 'env_vars.A' in agent.fails({'env_vars': {'A': 1}})
    assert "py_executable: /nowhere/python3 isn't on this node" in agent.fails({'py_executable': '/nowhere/python3 -X dev'})
    assert agent.fails({'working_dir': 'file:///nowhere/x.zip'})
    assert agent.fails({'working_dir': 'local:///nowhere'})
    assert all(state.ref_cnt == 0 for state in agent.states()[1].values())
    agent.context({'py_executable': f'{SYSTEM_PYTHON} -X dev'})


def test_a_failure_is_remembered_and_leaves_no_use(make_agent, tmp_path):
    agent = make_agent(env={'BAD_RUNTIME_ENV_CACHE_TTL_SECONDS': '2'}).start()
    env = {'working_dir': f'file://{tmp_path}/later.zip'}
    agent.fails(env)
    state = agent.states()[1][json.dumps(env)]
    assert state.ref_cnt == 0 and not state.success and 'later.zip' in state.error and '[Node' not in state.error
    assert agent.fails(env) == f'[Node 127.0.0.1] {state.error}'
    make_zip(tmp_path, {'a.txt': ''}, 'later.zip')
    agent.fails(env)
    time.sleep(2)
    agent.context(env)
    assert agent.states()[1][json.dumps(env)].ref_cnt == 1


def test_a_failure_that_may_pass_is_shown_and_tried_again(make_agent, tmp_path):
    agent = make_agent(env={'RUNTIME_ENV_RETRY_TIMES': '1'}).start()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler, bind_and_activate=False) as server:
        server.server_bind()   # and nobody listens
        env = {'working_dir': f'http://127.0.0.1:{server.server_port}/later.zip'}
        agent.fails(env)
        total, states = agent.states(limit=-1)
        state = states[json.dumps(env)]
        assert total == 1 and state.ref_cnt == 0 and not state.success and 'later.zip' in state.error
        make_zip(tmp_path, {'a.txt': ''}, 'later.zip')
        server.server_activate()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        agent.context(env)
        assert agent.states()[1][json.dumps(env)].success
        server.shutdown()


def test_unknown_fields_are_a_warning(agent):
    agent.context({'env_vars': {'A': '1'}, 'my_plugin': {'k': [1]}, '_ray_commit': 'abc', 'mpi': {}}, job='0a000000')
    log = agent.log('runtime_env_setup-0a000000.log')
    assert 'runtime_env field my_plugin is not recognized by Ray and will be ignored' in log
    assert '_ray_commit' not in log


def test_logs_are_where_ray_looks(agent, tmp_path):
    env = {'py_modules': [f'file://{make_zip(tmp_path, {"mod.py": ""})}']}
    agent.context(env, job='02000000', log_files=['mine.log', '../outside.log'])
    for name in ('runtime_env_setup-02000000.log', 'mine.log'):
        for line in agent.log(name).splitlines():
            assert re.match(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\t(INFO|WARNING|ERROR) \S+:\d+ -- ', line), line
        assert 'py_modules' in agent.log(name)
    assert not (agent.session / 'outside.log').exists()
    held = os.listdir(f'/proc/{agent.process.pid}/fd')
    assert not any('setup' in os.readlink(f'/proc/{agent.process.pid}/fd/{fd}') for fd in held)


def test_a_setup_has_one_deadline(make_agent):
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        agent = make_agent().start()
        began = time.monotonic()
        text = agent.fails({'working_dir': f'http://127.0.0.1:{silent.getsockname()[1]}/x.zip'}, timeout=2)
        assert time.monotonic() - began < 5
    assert 'Failed to install runtime_env within the timeout of 2 seconds. Consider increasing the timeout' in text
    assert 'It was at: working_dir: download' in text
    wait_until(lambda: not pathlib.Path(f'/proc/{agent.process.pid}/task/{agent.process.pid}/children').read_text(), 5)


def test_what_is_no_message_is_answered(agent):
    assert agent.post('/get_or_create_runtime_env', b'\xff\xff\xff')[0] == 500
    assert agent.post('/nowhere', b'')[0] == 404
    with socket.create_connection(('127.0.0.1', agent.port)) as line:
        line.sendall(b'nonsense\r\n\r\n')
        assert line.recv(4096).startswith(b'HTTP/1.1 400 ')
    with socket.create_connection(('127.0.0.1', agent.port)) as line:
        line.sendall(b'GET /get_or_create_runtime_env HTTP/1.1\r\nHost: x\r\n\r\n')
        assert line.recv(4096).startswith(b'HTTP/1.1 405 ')
    assert agent.context({'env_vars': {'A': '1'}})


def test_connections_are_kept_and_pipelined(agent):
    body = agent.request({'env_vars': {'A': '1'}}).SerializeToString()
    one = b'POST /get_or_create_runtime_env HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(body) + body
    with socket.create_connection(('127.0.0.1', agent.port), timeout=10) as line:
        for size in (1, 3, 200):
            line.sendall(one * size)
            got = b''
            while got.count(b'HTTP/1.1 200 OK') < size or not got.endswith(b'\x00' * 0 + got[-1:]) or got.count(b'py_executable') < size:
                got += line.recv(65536)
    assert agent.states()[1]['{"env_vars": {"A": "1"}}'].ref_cnt == 204


def test_tokens(make_agent):
    token = secrets.token_hex(32)
    agent = make_agent(env={'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': token}).start()
    body = agent.request({'env_vars': {'A': '1'}}).SerializeToString()

    def status(**headers):
        return agent.post('/get_or_create_runtime_env', body, headers)
    assert status() == (401, b'Unauthorized: Missing authentication token')
    assert status(Authorization='Bearer ' + 'x' * 64) == (403, b'Forbidden: Invalid authentication token')
    assert status(Authorization=token)[0] == 403
    assert status(Authorization=f'Bearer {token}')[0] == 200
    assert status(**{'X-Ray-Authorization': f'Bearer {token}'})[0] == 200
    assert status(Cookie=f'a=b; ray-authentication-token={token}')[0] == 200
    assert status(Cookie='ray-authentication-token=nope')[0] == 403
    assert token not in ''.join(path.read_text() for path in agent.logs.iterdir())


def test_a_token_file(make_agent, tmp_path):
    (tmp_path / 'token').write_text('  abc \nrest')
    agent = make_agent(env={'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN_PATH': str(tmp_path / 'token')}).start()
    assert agent.post('/get_runtime_envs_info', b'', {'Authorization': 'Bearer abc'})[0] == 200


def test_a_package_that_is_not_there_is_asked_for_once(agent):
    began = time.monotonic()
    text = agent.fails({'pip': {'packages': ['rtlaunch-no-such-package'], 'pip_check': False}})
    assert 'No matching distribution found for rtlaunch-no-such-package' in text and 'check its spelling' in text
    assert time.monotonic() - began < 10
    assert 'tried again' not in agent.log('runtime_env_setup-01000000.log')


def test_packages_that_break_the_base_are_told(make_agent, base):  # noqa: F811
    agent = make_agent(env={'RTLAUNCH_RAY_PYTHON': f'{base}/bin/python'}).start()
    env = {'pip': {'packages': ['urllib3==1.20'], 'pip_check': False}}
    for job in ('01000000', '02000000'):   # who finds it made is told, too
        assert agent.context({**env, 'env_vars': {'JOB': job}}, job=job)['command_prefix']
        log = agent.log(f'runtime_env_setup-{job}.log')
        assert re.search(r'WARNING .*requests \S+ in the base needs urllib3\S+, but you ask for urllib3==1.20', log), log
    assert 'urllib3' in agent.fails({'pip': {'packages': ['urllib3==1.20'], 'pip_check': True}})


def test_rays_variables_reach_whoever_downloads(make_agent, tmp_path):
    package, seen = make_zip(tmp_path, {'top/a.txt': ''}).read_bytes(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(dict(self.headers))
            if len(seen) == 1:   # once it is busy: that may pass
                return self.send_error(503)
            self.send_response(200)
            self.send_header('Content-Length', str(len(package)))
            self.end_headers()
            self.wfile.write(package)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        agent = make_agent(env={'RAY_RUNTIME_ENV_HTTP_USER_AGENT': 'mine/1', 'RAY_RUNTIME_ENV_BEARER_TOKEN': 'canary-bearer',
                                'RUNTIME_ENV_RETRY_INTERVAL_MS': '50'}).start()
        agent.context({'working_dir': f'http://127.0.0.1:{server.server_port}/x.zip'})
        server.shutdown()
    assert [headers['User-Agent'] for headers in seen] == ['mine/1', 'mine/1']
    assert seen[0]['Authorization'] == 'Bearer canary-bearer'
    assert 'canary-bearer' not in ''.join(path.read_text() for path in agent.logs.iterdir())


def test_sleeping_for_tests_holds_up_nobody_else(make_agent, tmp_path):
    agent = make_agent(env={'RAY_RUNTIME_ENV_SLEEP_FOR_TESTING_S': '3'}).start()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        asked = pool.submit(agent.context, {'env_vars': {'A': '1'}})
        time.sleep(0.3)
        assert agent.delete({'env_vars': {'B': '1'}}).status == 1
        assert time.monotonic() - began < 2
        asked.result()
        assert time.monotonic() - began >= 3


def test_a_plain_user_has_an_agent_too(make_agent, ray_programs):  # noqa: F811
    if os.geteuid() != 0:
        pytest.skip('this is that already')
    agent = make_agent()
    for path in [agent.folder, agent.session, agent.logs]:
        os.chown(path, PLAIN_UID, PLAIN_UID)
    for path in [agent.folder, *agent.folder.parents]:
        if path in (pathlib.Path('/tmp'), pathlib.Path('/')):
            break
        path.chmod(0o755)
    package = make_zip(agent.folder, {'mod.py': ''})
    agent.start(preexec_fn=become(PLAIN_UID))
    assert agent.context({'py_modules': [f'file://{package}']})['command_prefix']
    assert agent.store.stat().st_uid == PLAIN_UID


def test_rtlaunch_agent_is_the_same_program(agent):
    done = agent.rtlaunch('agent', '--node-id=x')
    assert done.returncode == 125 and '--session-dir' in done.stderr


def test_ends_with_its_raylet(agent):
    agent.process.stdin.close()
    assert agent.process.wait(5) == 0


def test_a_child_ends_with_the_agent(make_agent):
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        agent = make_agent().start()
        uri = f'http://127.0.0.1:{silent.getsockname()[1]}/x.zip'
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(agent.get, {'working_dir': uri})
            children = pathlib.Path(f'/proc/{agent.process.pid}/task/{agent.process.pid}/children')
            wait_until(lambda: children.read_text().strip(), 10)
            child = children.read_text().split()[0]
            agent.process.kill()
            wait_until(lambda: command_of(child) == '', 5)
            assert asked.exception(10)


def test_no_descriptor_reaches_a_child(make_agent):
    ours, theirs = os.pipe()
    agent = make_agent().start(pass_fds=[theirs])
    os.close(theirs)
    with socket.socket() as silent:
        silent.bind(('127.0.0.1', 0))
        silent.listen()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(agent.get, {'working_dir': f'http://127.0.0.1:{silent.getsockname()[1]}/x.zip'}, timeout=3)
            children = pathlib.Path(f'/proc/{agent.process.pid}/task/{agent.process.pid}/children')
            wait_until(lambda: children.read_text().strip(), 10)
            child = f'/proc/{children.read_text().split()[0]}'
            wait_until(lambda: os.readlink(f'{child}/exe').endswith('/rtlaunch'), 10)   # until its exec it has all of ours
            inherited = [os.readlink(f'{child}/fd/{fd}') for fd in os.listdir(f'{child}/fd')]
            assert os.readlink(f'/proc/self/fd/{ours}') not in inherited
            asked.result()
    agent.stop()
    assert os.read(ours, 1) == b''
    os.close(ours)


def test_secrets_stay_inside(agent, tmp_path):
    env = {'env_vars': {'TOKEN': 'canary-4711'}, 'py_modules': [f'file://{make_zip(tmp_path, {"mod.py": ""})}']}
    agent.context(env)
    agent.fails({'env_vars': {'TOKEN': 'canary-4711'}, 'working_dir': 'file:///nowhere.zip'})
    agent.delete({'env_vars': {'TOKEN': 'canary-4711'}})
    assert 'canary-4711' not in ''.join(path.read_text() for path in agent.logs.iterdir())
    for path in agent.store.rglob('*'):
        assert not path.is_file() or b'canary-4711' not in path.read_bytes()


def test_a_context_that_a_worker_could_not_be_given(agent):
    assert 'bytes' in agent.fails({'env_vars': {'A': 'x' * 131072}})
    assert agent.context({'env_vars': {'A': 'x' * 120000}})


def test_unused_ones_go_when_the_cache_is_small(make_agent, tmp_path):
    agent = make_agent(env={'RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB': '0'}).start()
    env = {'working_dir': f'file://{make_zip(tmp_path, {"a.txt": ""})}'}
    agent.context(env)
    agent.context(env)
    agent.delete(env)
    folder = agent.resources / 'working_dir_files'
    assert len(list(folder.iterdir())) == 1
    agent.delete(env)
    wait_until(lambda: not list(folder.iterdir()), 5)
    wait_until(lambda: json.loads(agent.rtlaunch('env', 'ls', '--holds', '--json').stdout) == [], 5)
    agent.context(env)
    assert len(list(folder.iterdir())) == 1


def test_an_unused_one_stays_while_there_is_room(agent, tmp_path):
    env = {'working_dir': f'file://{make_zip(tmp_path, {"a.txt": ""})}'}
    agent.context(env)
    agent.delete(env)
    assert agent.states()[0] == 0
    agent.context(env, job='02000000')
    assert agent.log('runtime_env_setup-01000000.log').count('is ready after') == 1
    again = agent.log('runtime_env_setup-02000000.log')
    assert f'{env["working_dir"]} is already installed and will be reused' in again and 'used.' in again
    agent.context(env, job='02000000')
    assert agent.log('runtime_env_agent.log').count('Runtime env already created successfully. Env: {working_dir}') == 1
    assert agent.log('runtime_env_setup-02000000.log') == again


def test_another_ray_is_refused(make_agent):
    agent = make_agent(env={'RTLAUNCH_RAY_PYTHON': f'{VENV}/bin/python'}).start()
    text = agent.fails({'pip': {'packages': ['ray[default]==2.9.3'], 'pip_check': False}})
    assert 'Changing the ray version is not allowed' in text and '2.60.0' in text


def test_ray_before_2_8_asks_over_grpc(make_agent, ray_programs, tmp_path):  # noqa: F811
    shutil.copy(BIN / 'rtlaunch-ray-grpc', ray_programs / 'rtlaunch-ray-grpc')
    port, token = free_port(), secrets.token_hex(32)
    make_agent(env={'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': token}, options=[f'--grpc-port={port}']).start()
    script = f'''
import grpc
from ray.core.generated import runtime_env_agent_pb2 as pb
channel = grpc.insecure_channel('127.0.0.1:{port}')
grpc.channel_ready_future(channel).result(10)
def ask(name, request, reply, **more):
    call = channel.unary_unary('/ray.rpc.RuntimeEnvService/' + name, request_serializer=lambda m: m.SerializeToString(),
                               response_deserializer=reply.FromString)
    return call(request, timeout=30, **more)
who = {{'metadata': [('authorization', 'Bearer {token}')]}}
env = '{{"env_vars": {{"A": "1"}}}}'
got = ask('GetOrCreateRuntimeEnv', pb.GetOrCreateRuntimeEnvRequest(serialized_runtime_env=env), pb.GetOrCreateRuntimeEnvReply, **who)
assert '"A"' in got.serialized_runtime_env_context, got
listed = ask('GetRuntimeEnvsInfo', pb.GetRuntimeEnvsInfoRequest(), pb.GetRuntimeEnvsInfoReply, **who)
assert listed.runtime_env_states[0].ref_cnt == 1, listed
for status in (0, 1):
    gone = ask('DeleteRuntimeEnvIfPossible', pb.DeleteRuntimeEnvIfPossibleRequest(serialized_runtime_env=env), pb.DeleteRuntimeEnvIfPossibleReply, **who)
    assert gone.status == status, gone
for name, code, more in [('GetRuntimeEnvsInfo', 'UNAUTHENTICATED', {{}}), ('Other', 'UNIMPLEMENTED', who)]:
    try:
        ask(name, pb.GetRuntimeEnvsInfoRequest(), pb.GetRuntimeEnvsInfoReply, **more)
        assert 0, name
    except grpc.RpcError as error:
        assert error.code().name == code, error
'''
    done = subprocess.run([VENV / 'bin/python', '-c', script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_profiler_is_not_tried_where_every_worker_is_shut_in(make_agent, tmp_path):
    """It is tried outside of any sandbox, with variables of the user's: PATH says what programs are."""
    mine, ran = tmp_path / 'mine', tmp_path / 'ran'
    mine.mkdir()
    (mine / 'mkdir').write_text(f'#!/bin/sh\necho ran >> {ran}\n')
    (mine / 'mkdir').chmod(0o755)
    env = {'_rocprof_sys': {'args': {}, 'env': {'PATH': f'{mine}:/usr/bin:/bin'}}}
    shut_in = make_agent(env={'RTLAUNCH_RAY_SANDBOX_ALL': '1'}).start()
    assert 'shuts in every worker' in shut_in.fails(env) and not ran.exists()
    make_agent().start().fails(env)
    assert ran.exists(), 'the control run'



def test_a_policy_that_is_read_again_holds_for_whoever_starts_then(make_agent, ray_programs, tmp_path):  # noqa: F811
    """Of an agent that runs: contexts that are known, and what was refused; and of Python workers that it isn't asked for."""
    if os.geteuid() != 0:
        pytest.skip('rtlaunchd has to be started by root')
    install_plugin()
    tmp_path.chmod(0o755)
    (tmp_path / 'node').mkdir()
    policy, script = tmp_path / 'policy.json', tmp_path / 'ray/_private/workers/default_worker.py'
    script.parent.mkdir(parents=True)
    script.write_text("import os; print(os.environ['RAY_RAYLET_PID'], 'RTLAUNCH_RAY_ASKED' in os.environ)")
    policy.write_text('{"version": 1}')
    daemon = Daemon(ray_programs, tmp_path / 'node', options=['--policy', str(policy)]).start()
    agent = make_agent(env={'RTLAUNCH_EMBEDDED': None, 'RTLAUNCH_STORE': None, 'RTLAUNCH_SOCKET': daemon.socket}).start()
    forks = tmp_path / 'forks'
    forks.write_text(f'#!/bin/sh\n{SYSTEM_PYTHON} "$@"\n')
    forks.chmod(0o755)

    def say(**words):
        before = len(daemon.events('policy'))
        policy.write_text(json.dumps({'version': 1, **words}))
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(daemon.events('policy')) > before)
        wait_until(lambda: ('every_worker' in json.dumps(words)) == ('every_worker' in pathlib.Path(f'{daemon.socket}.policy').read_text()))

    def seen():
        done = subprocess.run([VENV / 'bin/python', script, f'--raylet-name={tmp_path}/session_1/sockets/raylet'], text=True, capture_output=True,
                              env={**os.environ, 'RTLAUNCH_SOCKET': daemon.socket, 'RTLAUNCH_BIN': str(ray_programs), 'RAY_RUNTIME_ENV_PLUGINS': PLUGINS, 'RAY_RAYLET_PID': '77'})
        words = agent.context({'env_vars': {'A': '1'}})['command_prefix']
        return bool(words), agent.get({'py_executable': str(forks)}).status == 1, done.stdout.strip()
    try:
        off, required = (False, False, '77 False'), (True, True, '1 False')
        assert seen() == off
        say(every_worker='require')
        assert seen() == required
        say(rules=[{'name': 'others', 'if': {'user': [4242]}, 'every_worker': 'require'}])
        assert seen() == off, 'asked, and told that it is of others'
    finally:
        daemon.stop()


def test_what_is_held_is_renewed(make_agent, tmp_path):
    agent = make_agent(env={'RTLAUNCH_RAY_HOLD_SECONDS': '6'}).start()
    env = {'working_dir': f'file://{make_zip(tmp_path, {"a.txt": ""})}'}
    agent.context(env)

    def expires():
        return [hold['expires'] for hold in json.loads(agent.rtlaunch('env', 'ls', '--holds', '--json').stdout)]
    first = expires()
    wait_until(lambda: expires() > first, 10)
    # One that was taken away is made again when it is asked for.
    name = json.loads(agent.rtlaunch('env', 'ls', '--holds', '--json').stdout)[0]['name']
    assert agent.rtlaunch('env', 'release', name).returncode == 0
    wait_until(lambda: 'is lost' in agent.log('runtime_env_agent.log'), 10)
    agent.context(env)
    assert len(expires()) == 1


def test_through_a_daemon_that_is_killed(make_agent, ray_programs, tmp_path):  # noqa: F811
    if os.geteuid() != 0:
        pytest.skip('rtlaunchd has to be started by root')
    tmp_path.chmod(0o755)
    (tmp_path / "node").mkdir()
    daemon = Daemon(ray_programs, tmp_path / "node")
    daemon.start()
    try:
        agent = make_agent(env={'RTLAUNCH_EMBEDDED': None, 'RTLAUNCH_STORE': None, 'RTLAUNCH_SOCKET': str(daemon.socket),
                                'RUNTIME_ENV_RETRY_TIMES': '1'}).start()
        context = agent.context({'working_dir': f'file://{make_zip(tmp_path, {"a.txt": ""})}'})
        words = context['command_prefix']
        assert words[words.index('--socket') + 1] == str(daemon.socket)
        daemon.kill()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(agent.context, {'working_dir': f'file://{make_zip(tmp_path, {"b.txt": ""}, "b.zip")}'})
            time.sleep(0.5)
            daemon.start()
            assert asked.result()['command_prefix'][3] != words[3]
        daemon.kill()
        began = time.monotonic()
        assert 'rtlaunchd' in agent.fails({'working_dir': f'file://{make_zip(tmp_path, {"c.txt": ""}, "c.zip")}'})
        assert time.monotonic() - began < 20
        assert agent.process.poll() is None
    finally:
        daemon.stop()


def test_a_long_error_is_cut(agent):
    text = agent.fails({'working_dir': 'file:///' + 'x' * 200_000 + '.zip'})
    assert len(text) < 100_000


class Line:
    """A connection that stays open, for a request that is asked again and again."""

    def __init__(self, port, request):
        self.socket = socket.create_connection(('127.0.0.1', port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request
        self.socket.sendall(request)
        self.answer = self.socket.recv(65536)

    def ask(self, turns, batch):
        for _ in range(turns):
            self.socket.sendall(self.request * batch)
            left = len(self.answer) * batch
            while left:
                left -= len(self.socket.recv(1 << 20))

    def close(self):
        self.socket.close()


def cpu_seconds(pid):
    return int(pathlib.Path(f'/proc/{pid}/schedstat').read_text().split()[0]) / 1e9


def cached_request(agent):
    body = agent.request({'env_vars': {'A': '1'}}).SerializeToString()
    return b'POST /get_or_create_runtime_env HTTP/1.1\r\nHost: x\r\nUser-Agent: Boost.Beast/345\r\n' \
           b'Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n' % len(body) + body


def seconds_an_answer(line, pid, batch=1, turns=4000):
    """Of one core's time, as the process that answers has spent it."""
    began = cpu_seconds(pid)
    line.ask(turns // batch, batch)
    return (cpu_seconds(pid) - began) / (turns // batch * batch)


ECHO = '''
import socket, sys
with socket.create_server(('127.0.0.1', 0)) as server:
    print(server.getsockname()[1], flush=True)
    line = server.accept()[0]
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer = bytes.fromhex(sys.argv[1])
    while line.recv(65536):
        line.sendall(answer)
'''


@contextlib.contextmanager
def echo(answer):
    """What answers the same bytes to anything, without a look at it."""
    with subprocess.Popen([SYSTEM_PYTHON, '-c', ECHO, answer.hex()], stdout=subprocess.PIPE, text=True) as process:
        yield process.pid, int(process.stdout.readline())


def test_known_environments_are_answered_fast(agent):
    """As fast as the system calls let it, nearly: in turns with a program that looks at nothing. Held for what comes many at a
    time; of one after the other most is the kernel's waking up, ten times more on one machine than on another."""
    line = Line(agent.port, cached_request(agent))
    with echo(line.answer) as (pid, port):
        bare = Line(port, line.request)
        rounds = [(seconds_an_answer(line, agent.process.pid), seconds_an_answer(line, agent.process.pid, batch=100),
                   seconds_an_answer(bare, pid)) for _ in range(7)]
        bare.close()
    line.close()
    alone, piped, least = map(statistics.median, zip(*rounds))
    print(f'cached GetOrCreateRuntimeEnv: {1 / alone:,.0f} a second of one core, pipelined {1 / piped:,.0f}, echoed {1 / least:,.0f}')
    assert piped < 4 * least


@pytest.fixture
def cluster(stock, make_agent):  # noqa: F811
    """Packages in a real key-value store, and agents that are given its address, id and token."""
    class Cluster:
        def __init__(self):
            command = command_of(stock.raylet())
            self.id = re.search(r'--cluster-id-hex=(\w+)', command)[1]
            self.token = (stock.home / '.ray/auth_token').read_text()

        def put(self, key, path):
            return stock.drive(f'''
                connect()
                from ray.experimental.internal_kv import _internal_kv_put
                answer(_internal_kv_put({key!r}, open({str(path)!r}, 'rb').read(), overwrite=True))''')

        def agent(self, id=None, **env):
            env = {'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': self.token, **env}
            agent = make_agent(env=env, options=[f'--gcs-address={stock.address}', f'--cluster-id-hex={id or self.id}'])
            agent.start()
            agent.post = lambda path, body, post=agent.post: post(path, body, {'Authorization': f'Bearer {self.token}'})
            return agent
    return Cluster()


def files_in(agent, words):
    """What the layers of a context's environment hold."""
    listed = json.loads(agent.rtlaunch('env', 'ls', '--json').stdout)
    layers = next(env['layers'] for env in listed if env['id'] == words[3])
    return [sorted(str(path.relative_to(root)) for path in root.rglob('*') if path.is_file())
            for root in (next(agent.store.glob(f'layers/sha256/{digest[:2]}/{digest}*')) for digest in layers)]


def test_packages_of_the_key_value_store(cluster, tmp_path):
    cluster.put('gcs://_ray_pkg_0123.zip', make_zip(tmp_path, {'top/main.py': 'print(1)'}))
    cluster.put('gcs://_ray_pkg_4567.zip', make_zip(tmp_path, {'mod/__init__.py': ''}))
    agent = cluster.agent()
    context = agent.context({'working_dir': 'gcs://_ray_pkg_0123.zip', 'py_modules': ['gcs://_ray_pkg_4567.zip']})
    places = [f'{agent.resources}/py_modules_files/_ray_pkg_4567', f'{agent.resources}/working_dir_files/_ray_pkg_0123']
    assert context['env_vars']['PYTHONPATH'] == ':'.join(places)
    found = files_in(agent, context['command_prefix'])
    assert any(any(name.endswith('top/main.py') for name in layer) for layer in found), found
    # The same package with another field is not fetched again.
    agent.context({'working_dir': 'gcs://_ray_pkg_0123.zip', 'env_vars': {'A': '1'}}, job='03000000')
    assert 'download' not in agent.log('runtime_env_setup-03000000.log')
    assert cluster.token not in ''.join(path.read_text() for path in agent.logs.iterdir())


def test_another_cluster_names_its_own_packages(cluster, tmp_path):
    cluster.put('gcs://_ray_pkg_89.zip', make_zip(tmp_path, {'a.txt': '1'}))
    agent = cluster.agent()
    first = agent.context({'working_dir': 'gcs://_ray_pkg_89.zip'})
    text = cluster.agent(id='cd' * 28, RTLAUNCH_STORE=str(agent.store)).fails({'working_dir': 'gcs://_ray_pkg_89.zip'})
    assert 'WrongClusterID' in text and first


def test_a_package_that_is_gone(cluster):
    text = cluster.agent().fails({'working_dir': 'gcs://_ray_pkg_ffff.zip'})
    assert 'Failed to download runtime_env file package gcs://_ray_pkg_ffff.zip from the GCS to the Ray worker node.' in text
    assert 'RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S' in text


def test_a_package_that_must_not_be_fetched(cluster, tmp_path):
    cluster.put('gcs://_ray_pkg_01.zip', make_zip(tmp_path, {'a.txt': '1'}))
    agent = cluster.agent(RAY_RUNTIME_ENV_FAIL_DOWNLOAD_FOR_TESTING='1')
    assert 'Failed to download runtime_env file package' in agent.fails({'working_dir': 'gcs://_ray_pkg_01.zip'})


def test_a_wrong_token_for_the_store(cluster, tmp_path, make_agent, stock):  # noqa: F811
    agent = make_agent(env={'RAY_AUTH_MODE': 'disabled'}, options=[f'--gcs-address={stock.address}']).start()
    assert 'Authentication token is missing' in agent.fails({'working_dir': 'gcs://_ray_pkg_01.zip'})


def test_no_cluster_there(make_agent):
    agent = make_agent(env={'RUNTIME_ENV_RETRY_INTERVAL_MS': '100'}).start()
    text = agent.fails({'working_dir': 'gcs://_ray_pkg_01.zip'})
    assert "no connection to Ray's GCS at 127.0.0.1:1" in text
    assert agent.log('runtime_env_setup-01000000.log').count('it is tried again') == 2


def test_a_large_package_takes_little_memory(cluster, tmp_path):
    with open(tmp_path / 'noise', 'wb') as noise:
        for _ in range(200):
            noise.write(os.urandom(1 << 20))
    import zipfile
    with zipfile.ZipFile(tmp_path / 'big.zip', 'w') as archive:
        archive.write(tmp_path / 'noise', 'noise')
    cluster.put('gcs://_ray_pkg_aa.zip', tmp_path / 'big.zip')
    agent = cluster.agent()
    peak = 0
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(agent.context, {'working_dir': 'gcs://_ray_pkg_aa.zip'})
        while not asked.done():
            for pid in children_of(agent.process.pid):
                try:
                    status = pathlib.Path(f'/proc/{pid}/status').read_text()
                    peak = max(peak, int(re.search(r'VmHWM:\s*(\d+)', status)[1]))
                except (OSError, TypeError):
                    pass
            time.sleep(0.02)
        asked.result()
    print(f'200 MiB package: peak {peak} kB')
    assert peak < 30000
