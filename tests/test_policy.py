"""The policy at the command line: what it says, before anybody feels it. The README's example is the one
that is tried here; test_policy_enforced.py has what comes of it."""

import json
import os
import pathlib
import re
import subprocess

import jsonschema
import pytest

ROOT = pathlib.Path(__file__).parent.parent
EXAMPLES = re.findall(r'^```json\n(\{\n  "version".*?)^```', (ROOT / 'README.md').read_text(), re.M | re.S)


def policy(rt, *args, **more):
    return rt.ok('policy', *args, verb='policy', **more)


def as_json(rt, *args, **more):
    return json.loads(policy(rt, *args, '--json', **more))


def write(folder, content, name='policy.json'):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture(scope='module')
def schema(programs):
    text = subprocess.run([programs / 'rtlaunch', 'policy', 'schema'], capture_output=True, check=True).stdout
    checked = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(checked)
    return jsonschema.Draft202012Validator(checked)


def test_the_schema_takes_what_is_shipped_and_the_readmes_example(rt_one, schema, tmp_path):
    shipped = json.loads(policy(rt_one, 'show'))
    assert set(shipped['profiles']) == {'strict', 'ml', 'debug', 'ray'}
    schema.validate(shipped)
    assert len(EXAMPLES) == 1
    schema.validate(json.loads(EXAMPLES[0]))
    policy(rt_one, 'check', write(tmp_path, EXAMPLES[0]))


VALUES = {   # of each control: right ones, wrong ones
    'private_tmp': (['off', 'prefer', 'require'], [True, 'on', None]),
    'own_processes': (['require'], ['off']),
    'memory': ([1024, '4G', 'off', {'at_most': '1M', 'want': 'prefer'}], ['4X', -1, {'most': 3}, [4]]),
    'pids': ([10, {'at_most': 10}], [0, 1.5, {'at_most': 10, 'x': 1}]),
    'cpus': ([0.5, 4], [0, '-1', []]),
    'io_weight': ([1, 10000], [0, 10001]),
    'syscalls': (['ml', 'off', {'base': 'strict', 'allow': ['mbind'], 'deny': ['read']}],
                 ['no', {'allow': []}, {'base': 'ml', 'allow': ['Mbind']}]),
    'files': (['off', {'read': ['/usr'], 'write': []}], ['all', {'read': ['usr']}]),
    'ports': ([{'connect': [443, '8000-8100']}], [{'connect': [0]}, {'listen': [1]}]),
    'network': (['none', 'job', 'host', {'mode': 'egress', 'to': ['index.example:443', '[2001:db8::/32]:80-90']}],
                ['egress', 'some', {'to': []}]),
    'rlimits': ([{'nofile': 65536, 'core': 0}, 'off'], [{'files': 3}, 3]),
    'environment': ([['PATH', 'LC_*'], 'off', {'names': [], 'want': 'prefer'}], [['A*B'], {'want': 'prefer'}]),
    'devices': ([['/dev/nvidia*'], []], [['/etc/x'], '/dev/kfd']),
    'uids': ([{'first': 100000, 'count': 1000}], [{'first': 5}, [1, 2]]),
}


@pytest.mark.parametrize('control', VALUES)
def test_schema_and_parser_agree(rt_one, schema, tmp_path, control):
    for right, values in zip((True, False), VALUES[control]):
        for value in values:
            document = {'version': 1, 'profiles': {'p': {control: value}}}
            assert schema.is_valid(document) == right, value
            done = rt_one.run('policy', 'check', write(tmp_path, document), verb='policy')
            assert (done.returncode == 0) == right, (value, done.stderr)
            assert right or f'profiles.p.{control}' in done.stderr


def test_the_schema_has_every_control(rt_one, schema):
    controls = as_json(rt_one, 'explain')['controls']
    assert set(schema.schema['properties']['profiles']['additionalProperties']['properties']) == \
        {*controls, 'extends', 'about'}
    assert set(VALUES) <= set(controls)


@pytest.mark.parametrize('document', [
    {}, {'version': 2}, {'version': 1, 'rulez': []}, {'version': 1, 'rules': [{}]}, {'version': 1, 'choose': []},
    {'version': 1, 'profiles': {'..': {}}}, {'version': 1, 'profiles': {'-x': {}}},
    {'version': 1, 'rules': [{'name': 'r', 'unless': {'job': ['x']}}]},
    {'version': 1, 'every_worker': 'prefer'}, {'version': 1, 'rules': [{'name': 'r', 'every_worker': True}]},
    {'version': 1, 'allow': {'fields': ['pipp']}}, {'version': 1, 'allow': {'mounts': ['x']}}])
def test_both_refuse(rt_one, schema, tmp_path, document):
    assert not schema.is_valid(document)
    rt_one.fails('policy', 'check', write(tmp_path, document), verb='policy')


def test_check_warns(rt_one, tmp_path):
    document = {'version': 1, 'rules': [{'name': 'lost', 'if': {'user': ['nobody-of-this-name']}, 'profile': 'strict'}]}
    told = as_json(rt_one, 'check', write(tmp_path, document))
    assert any('lost never matches' in warning for warning in told['warnings']), told


@pytest.mark.skipif(os.geteuid() != 0, reason='gives files away')
def test_check_says_what_the_daemon_would_refuse(rt_one, tmp_path):
    path = write(tmp_path, {'version': 1})
    assert as_json(rt_one, 'check', path)['warnings'] == []
    os.chown(path, 12345, 0)
    assert 'belongs to user 12345' in as_json(rt_one, 'check', path)['warnings'][0]


DOCUMENT = {
    'version': 1, 'profiles': {'team': {'extends': 'ml', 'memory': '8G'}},
    'rules': [{'name': 'guests', 'if': {'user': ['5000-5999']}, 'unless': {'group': [77]}, 'profile': 'strict',
               'choose': ['strict'], 'ceiling': {'memory': '1G'}, 'allow': {'fields': ['pip']}}]}


def test_explain_names_rule_and_ceiling(rt_one, tmp_path):
    path = write(tmp_path, DOCUMENT)
    told = as_json(rt_one, 'explain', '--policy', path, '--user', 5000)
    assert told['profile'] == 'strict' and told['chosen_by'] == 'rule guests' and told['rules'] == ['guests']
    assert told['controls']['memory'] == {'value': {'want': 'require', 'at_most': 1 << 30}, 'text': 'require: 1G',
                                          'from': 'ceiling of rule guests'}
    assert told['controls']['private_tmp']['from'] == 'profile ml'
    assert as_json(rt_one, 'explain', '--policy', path, '--user', 5000, '--group', 77)['profile'] == 'ml'
    text = policy(rt_one, 'explain', '--policy', path, '--user', 5000, '--control', 'memory=100M')
    assert re.search(r'^memory +require: 100M +request$', text, re.M)


def test_every_worker_is_explained_and_compared(rt_one, schema, tmp_path):
    rule = {'name': 'guests', 'if': {'user': ['5000-5999']}, 'every_worker': 'require'}
    without, some, all_of_them = {'version': 1}, {'version': 1, 'rules': [rule]}, {'version': 1, 'every_worker': 'require'}
    for document in (some, all_of_them):
        schema.validate(document)
    path = write(tmp_path, some)
    assert as_json(rt_one, 'explain', '--policy', path, '--user', 5000)['every_worker'] == {'value': 'require', 'from': 'rule guests'}
    assert as_json(rt_one, 'explain', '--policy', path, '--user', 6000)['every_worker'] == {'value': 'off', 'from': 'default'}
    before, after = write(tmp_path, without, 'a.json'), write(tmp_path, all_of_them, 'b.json')
    told = rt_one.run('policy', 'diff', before, after, '--json', verb='policy')
    assert told.returncode == 1 and json.loads(told.stdout) == [
        {'where': 'policy', 'what': 'every_worker', 'before': 'off', 'after': 'require'}], told


def test_explain_refuses_what_a_start_would(rt_one, tmp_path):
    path = write(tmp_path, DOCUMENT)
    ask = ['policy', 'explain', '--policy', path, '--user', 5000]
    assert 'profile ml' in rt_one.fails(*ask, '--profile', 'ml', verb='policy')
    assert 'memory' in rt_one.fails(*ask, '--control', 'memory=2G', verb='policy')
    assert 'uv' in rt_one.fails(*ask, '--runtime-env', '{"uv": ["idna"]}', verb='policy')
    policy(rt_one, *ask[1:], '--runtime-env', '{"pip": ["idna"]}')


def test_simulate_answers_a_whole_list(rt_one, tmp_path):
    requests = [{'user': 5000}, {'user': 5000, 'profile': 'ml'}, {'user': 1000, 'controls': {'memory': '1G'}},
                {'user': 5000, 'runtime_env': {'working_dir': 'x.zip'}}]
    told = as_json(rt_one, 'simulate', write(tmp_path, requests, 'requests.json'), '--policy', write(tmp_path, DOCUMENT))
    assert [one.get('profile') for one in told] == ['strict', None, 'ml', None]
    assert 'choose' in told[1]['refused'] and 'working_dir' in told[3]['refused']


def test_diff_of_profiles_and_of_files(rt_one, tmp_path):
    def diff(*args):
        done = rt_one.run('policy', 'diff', *args, '--json', verb='policy')
        assert done.returncode == (1 if json.loads(done.stdout) else 0), done.stderr
        return json.loads(done.stdout)
    assert diff('ml', 'ml') == []
    assert {'network', 'no_home'} <= {one['what'] for one in diff('ml', 'strict')}
    old = write(tmp_path, DOCUMENT, 'old.json')
    changed = json.loads(json.dumps(DOCUMENT))
    changed['profiles']['team']['memory'] = '9G'
    changed['rules'].append({'name': 'more', 'profile': 'ml'})
    told = diff(old, write(tmp_path, changed, 'new.json'))
    assert {(one['where'], one['what'], one['before'], one['after']) for one in told} == {
        ('profile team', 'memory', 'require: 8G', 'require: 9G'), ('rule more', 'there', 'no', 'yes')}


def test_export_oci(rt_one):
    told = json.loads(policy(rt_one, 'export', '--oci', '--profile', 'strict', '--control', 'memory=1G',
                             '--control', 'cpus=1.5'))
    assert told['ociVersion'] == '1.1.0' and told['process']['noNewPrivileges'] is True
    assert {'mount', 'pid', 'ipc', 'uts', 'network'} <= {one['type'] for one in told['linux']['namespaces']}
    assert told['linux']['resources'] == {'memory': {'limit': 1 << 30}, 'cpu': {'quota': 150000, 'period': 100000},
                                          'pids': {'limit': 4096}}
    assert not any(told['process']['capabilities'].values())
    assert 'rtlaunch.control.no_home' in told['annotations']


def test_bad_words(rt_one):
    assert 'did you mean explain' in rt_one.fails('policy', 'explian', verb='policy')
    assert 'did you mean --profile' in rt_one.fails('policy', 'explain', '--profil', 'ml', verb='policy')
