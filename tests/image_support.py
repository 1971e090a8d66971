"""OCI images for tests, made of small files and of this host's own programs: nothing is pulled.

    image = Image(folder).layer({'etc/motd': 'hello'}).layer(programs_of('/bin/sh')).write()
    rt.ok('--image', image.uri, '--', 'sh', '-c', 'cat /etc/motd')
"""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import pathlib
import platform
import re
import subprocess
import sysconfig
import tarfile
import threading

ARCHITECTURE = {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine())
PASSWD = 'root:x:0:0:root:/root:/bin/sh\nray:x:1001:100::/home/ray:/bin/sh\n'


def libraries_of(program):
    said = subprocess.run(['ldd', program], capture_output=True, text=True).stdout
    return re.findall(r'(/\S+) \(0x', said)


def programs_of(*programs):
    """Each program at its own path, with the libraries that it needs at theirs."""
    files = {}
    for program in programs:
        for path in [program, *libraries_of(program)]:
            files[path.lstrip('/')] = pathlib.Path(os.path.realpath(path))
    return files


def python_files():
    """The host's own Python: program, libraries, standard library (without what only tests need)."""
    stdlib = pathlib.Path(sysconfig.get_path('stdlib'))
    real = os.path.realpath('/usr/bin/python3')
    files = programs_of(real)
    files['usr/bin/python3'] = Link(os.path.basename(real))
    for path in stdlib.rglob('*'):
        parts = path.relative_to(stdlib).parts
        if path.is_symlink() or not path.is_file() or {'__pycache__', 'test', 'idlelib', 'tkinter'} & set(parts) \
                or parts[0].startswith('config-') or path.suffix == '.a':
            continue
        files[str(path).lstrip('/')] = path
        if path.suffix == '.so':
            files.update({name: file for name, file in programs_of(str(path)).items() if '/lib/' in '/' + name})
    return files


def tar_of(files, mode=0o644):
    """name → text, bytes, a host's file (pathlib), '' with a slash for a directory; a str as link: Link."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w', format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name.rstrip('/'))
            info.uid = info.gid = 1000
            info.mtime = 1_600_000_000
            header = content if isinstance(content, Special) else {}
            content = content.content if header else content
            for key in set(header) - {'mode'}:
                setattr(info, key, header[key])
            if isinstance(content, Link):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            elif info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                archive.addfile(info)
            elif name.endswith('/'):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            else:
                if isinstance(content, pathlib.Path):
                    info.mode = header.get('mode', content.stat().st_mode & 0o7777)
                    content = content.read_bytes()
                else:
                    info.mode = header.get('mode', mode)
                    content = content.encode() if isinstance(content, str) else content
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


class Link(str):
    pass


class Special(dict):
    """A file with what else a tar header says of it: Special('text', mode=0o4755)."""

    def __init__(self, content='', **header):
        super().__init__(header)
        self.content = content


def digest(data):
    return 'sha256:' + hashlib.sha256(data).hexdigest()


class Image:
    def __init__(self, folder, architecture=ARCHITECTURE, **run):
        self.folder = pathlib.Path(folder)
        self.run, self.layers, self.architecture = run, [], architecture

    @property
    def uri(self):
        return f'oci:{self.folder}'

    def put(self, data):
        path = self.folder / 'blobs/sha256' / digest(data)[7:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {'digest': digest(data), 'size': len(data)}

    def layer(self, files, packed=True, kind=None):
        """`packed`: whether, or what packs it."""
        tar = files if isinstance(files, bytes) else tar_of(files)
        blob = packed(tar) if callable(packed) else gzip.compress(tar, 1, mtime=0) if packed else tar
        kind = kind or 'application/vnd.oci.image.layer.v1.tar' + ('+gzip' if packed is True else '')
        self.layers.append((digest(tar), {'mediaType': kind, **self.put(blob)}))
        return self

    def write(self, config_changes=None, manifest_changes=None):
        config = {'architecture': self.architecture, 'os': 'linux', 'config': self.run,
                  'rootfs': {'type': 'layers', 'diff_ids': [diff for diff, _ in self.layers]}, **(config_changes or {})}
        manifest = {'schemaVersion': 2, 'mediaType': 'application/vnd.oci.image.manifest.v1+json',
                    'config': {'mediaType': 'application/vnd.oci.image.config.v1+json',
                               **self.put(json.dumps(config).encode())},
                    'layers': [blob for _, blob in self.layers], **(manifest_changes or {})}
        self.listed = listed = {'mediaType': manifest['mediaType'], **self.put(json.dumps(manifest).encode()),
                  'annotations': {'org.opencontainers.image.ref.name': 'latest'}}
        self.index([listed])
        (self.folder / 'oci-layout').write_text('{"imageLayoutVersion": "1.0.0"}')
        return self

    def index(self, listed, nested=0):
        """What index.json says; `nested`: through so many indexes more."""
        for _ in range(nested):
            blob = self.put(json.dumps({'schemaVersion': 2, 'manifests': listed}).encode())
            listed = [{'mediaType': 'application/vnd.oci.image.index.v1+json', **blob}]
        (self.folder / 'index.json').write_text(json.dumps({'schemaVersion': 2, 'manifests': listed}))
        return self

    def blob_of(self, number):
        return self.folder / 'blobs/sha256' / self.layers[number][1]['digest'][7:]


class Registry(http.server.ThreadingHTTPServer):
    """Serves one image as registries do, by plain http, to who knows `login`, or to all."""

    def __init__(self, image, name, login=None):
        super().__init__(('127.0.0.1', 0), Answer)
        self.image, self.name, self.asked = image, name, []
        self.header = login and 'Basic ' + base64.b64encode(login.encode()).decode()
        self.at = f'127.0.0.1:{self.server_port}'
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def configure(self, folder, login=None):
        """Variables of who may reach it; with an auth file if there is a login."""
        conf = folder / '.config/containers/registries.conf'
        conf.parent.mkdir(parents=True, exist_ok=True)
        conf.write_text(f'[[registry]]\nlocation = "{self.at}"\ninsecure = true\n')
        env = {'HOME': str(folder)}
        if login:
            auth = base64.b64encode(login.encode()).decode()
            (folder / 'auth.json').write_text(json.dumps({'auths': {self.at: {'auth': auth}}}))
            env['REGISTRY_AUTH_FILE'] = str(folder / 'auth.json')
        return env


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get('Authorization') != self.server.header:
            self.send_response(401)
            self.send_header('WWW-Authenticate', 'Basic realm="test"')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        self.server.asked.append(self.path)
        index = json.loads((self.server.image.folder / 'index.json').read_text())['manifests'][0]
        _, _, rest = self.path.partition(f'/v2/{self.server.name}/')
        kind, _, reference = rest.partition('/')
        wanted = index['digest'] if kind == 'manifests' and not reference.startswith('sha256:') else reference
        blob = self.server.image.folder / 'blobs/sha256' / wanted[7:]
        found = kind in ('manifests', 'blobs') and blob.is_file() or self.path == '/v2/'
        body = blob.read_bytes() if found and self.path != '/v2/' else b'{}'
        self.send_response(200 if found else 404)
        self.send_header('Content-Type', index['mediaType'] if kind == 'manifests' else 'application/octet-stream')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(b'' if self.command == 'HEAD' else body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass
