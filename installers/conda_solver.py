"""Solves a conda environment with py-rattler, which lies in the folder `rattler` beside this file. Runs in
a build sandbox; reads one JSON object from stdin, writes one to stdout:

    {"ask": "channels", "channels": [NAME...], "alias": URL}           -> {"channels": [URL...]}
    {"ask": "solve", "channels": [URL...], "specs": [...]}             -> {"packages": [RECORD...]}, dependencies first

A record is what the channel's repodata says, with its `url`. What can't be done is {"error", "kind"}."""

import asyncio
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import rattler   # noqa: E402
from rattler import exceptions   # noqa: E402

KINDS = [(exceptions.SolverError, 'solve'), (exceptions.GatewayError, 'channel'), (exceptions.FetchRepoDataError, 'channel'),
         (exceptions.InvalidMatchSpecError, 'spec'), (exceptions.InvalidChannelError, 'channel')]


def name_channels(asked):
    alias = {'channel_alias': asked['alias']} if asked.get('alias') else {}
    config = rattler.ChannelConfig(root_dir='/', **alias)
    urls = [rattler.Channel(name, config).base_url for name in asked['channels'] if name != 'nodefaults']
    return {'channels': urls}


def virtual_packages():
    return rattler.VirtualPackage.detect(rattler.VirtualPackageOverrides.from_env())


def specs_of(asked):
    """As conda reads them: py-rattler's solve() refuses `name 1.0`, and the `name=1.0=build` of an export."""
    for spec in asked['specs']:
        try:
            yield rattler.MatchSpec(spec, strict=False)
        except exceptions.InvalidMatchSpecError as error:
            raise exceptions.InvalidMatchSpecError(f'`{spec}`: {error}') from error


async def solve(asked):
    gateway = rattler.Gateway(cache_dir=os.environ['RATTLER_CACHE_DIR'], show_progress=False)
    records = await rattler.solve(
        sources=[rattler.Channel(url) for url in asked['channels']], specs=list(specs_of(asked)), gateway=gateway,
        virtual_packages=virtual_packages(), channel_relations='disabled', timestamp_policy='allow-missing')
    urls = {record.name.normalized: record.url for record in records}
    ordered = rattler.PackageRecord.sort_topologically(records)
    return {'packages': [{**json.loads(record.to_json()), 'url': urls[record.name.normalized]} for record in ordered]}


def main():
    asked = json.load(sys.stdin)
    try:
        answer = name_channels(asked) if asked['ask'] == 'channels' else asyncio.run(solve(asked))
    except Exception as error:
        kind = next((kind for known, kind in KINDS if isinstance(error, known)), type(error).__name__)
        answer = {'error': str(error), 'kind': kind}
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    os._exit(0)   # py-rattler's threads outlive the interpreter, now and then fatally


if __name__ == '__main__':
    main()
