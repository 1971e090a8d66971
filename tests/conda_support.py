"""A conda channel that a test makes itself: packages of both formats, with a Python that is the system's."""

import bz2
import hashlib
import io
import json
import os
import pathlib
import struct
import subprocess
import tarfile
import zipfile

SYSTEM_PYTHON = pathlib.Path('/usr/bin/python3').resolve()
VERSION = subprocess.run([SYSTEM_PYTHON, '-c', 'import platform; print(platform.python_version())'],
                         capture_output=True, text=True, check=True).stdout.strip()
MINOR = VERSION.rpartition('.')[0]
SITE = subprocess.run([SYSTEM_PYTHON, '-c', 'import os, sys, sysconfig; print(os.path.relpath(sysconfig.get_path("purelib"), sys.prefix))'],
                      capture_output=True, text=True, check=True).stdout.strip()
# As conda-build has it: long enough for any prefix.
PLACEHOLDER = '/home/builder/placehold_' + 'placehold_' * 20


def zstd(data):
    """A frame of blocks that aren't compressed (RFC 8878): no Python before 3.14 has more."""
    frame = struct.pack('<IBB', 0xFD2FB528, 0, 0x50)
    blocks = [data[i:i + (1 << 17)] for i in range(0, len(data), 1 << 17)] or [b'']
    for i, block in enumerate(blocks):
        frame += struct.pack('<I', (i == len(blocks) - 1) | len(block) << 3)[:3] + block
    return frame


class Link(str):
    """What a symbolic link of a package leads to."""


def tar(entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w', format=tarfile.PAX_FORMAT) as archive:
        for name, (content, mode) in entries.items():
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = mode, 1_600_000_000
            if isinstance(content, Link):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Channel:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.packages = {'linux-64': {}, 'noarch': {}}
        for subdir in self.packages:
            (self.folder / subdir).mkdir(parents=True)
        self.index()

    def __str__(self):
        return f'file://{self.folder}'

    def add(self, name, version, files=None, depends=(), noarch=None, entry_points=(), binary=(), ending='.conda',
            build='0', programs=(),
            more=None):
        """`files`: by path, text or bytes; PLACEHOLDER in one is a prefix to be replaced, in those of `binary`
        with the length kept. Those of `programs` and in bin/ may be run. Returns the archive's path."""
        subdir = 'noarch' if noarch else 'linux-64'
        about = {'name': name, 'version': version, 'build': build, 'build_number': 0, 'depends': list(depends),
                 'subdir': subdir, **({'noarch': noarch} if noarch else {}), **(more or {})}
        entries, paths = {}, []
        for path, content in (files or {}).items():
            link = isinstance(content, Link)
            data = content if link or isinstance(content, bytes) else content.encode()
            executable = path.startswith(('bin/', 'python-scripts/')) or path in programs
            entries[path] = data, 0o755 if executable else 0o644
            said = {'_path': path, 'path_type': 'softlink' if link else 'hardlink'}
            if not link:
                said.update(sha256=hashlib.sha256(data).hexdigest(), size_in_bytes=len(data))
                if PLACEHOLDER.encode() in data:
                    said.update(prefix_placeholder=PLACEHOLDER, file_mode='binary' if path in binary else 'text')
            paths.append(said)
        info = {'info/index.json': about, 'info/paths.json': {'paths': paths, 'paths_version': 1}}
        if noarch == 'python':
            info['info/link.json'] = {'noarch': {'type': 'python', 'entry_points': list(entry_points)},
                                      'package_metadata_version': 1}
        info = {path: (json.dumps(said).encode(), 0o644) for path, said in info.items()}
        stem = f'{name}-{version}-{build}'
        archive = self.folder / subdir / (stem + ending)
        if ending == '.conda':
            with zipfile.ZipFile(archive, 'w', zipfile.ZIP_STORED) as outer:
                outer.writestr('metadata.json', '{"conda_pkg_format_version": 2}')
                outer.writestr(f'info-{stem}.tar.zst', zstd(tar(info)))
                outer.writestr(f'pkg-{stem}.tar.zst', zstd(tar(entries)))
        else:
            archive.write_bytes(bz2.compress(tar({**entries, **info})))
        data = archive.read_bytes()
        self.packages[subdir][archive.name] = {
            **about, 'sha256': hashlib.sha256(data).hexdigest(), 'md5': hashlib.md5(data).hexdigest(), 'size': len(data)}
        self.index()
        return archive

    def index(self):
        for subdir, packages in self.packages.items():
            kinds = {'packages': '.tar.bz2', 'packages.conda': '.conda'}
            repodata = {'info': {'subdir': subdir}, 'repodata_version': 1}
            for kind, ending in kinds.items():
                repodata[kind] = {name: about for name, about in packages.items() if name.endswith(ending)}
            (self.folder / subdir / 'repodata.json').write_text(json.dumps(repodata))

    def add_python(self):
        """The system's, below a prefix: its program, and links to its library. Debian's looks for packages in
        dist-packages, and says so; a lock can't, so site-packages are looked into as well."""
        library = f'lib/python{MINOR}'
        files = {f'bin/python{MINOR}': SYSTEM_PYTHON.read_bytes(), 'bin/python3': Link(f'python{MINOR}'),
                 'bin/python': Link(f'python{MINOR}')}
        for entry in sorted(os.listdir(f'/usr/lib/python{MINOR}')):
            if entry not in ('sitecustomize.py', 'site-packages', 'dist-packages', '__pycache__', 'EXTERNALLY-MANAGED'):
                files[f'{library}/{entry}'] = Link(f'/usr/lib/python{MINOR}/{entry}')
        files[f'{library}/sitecustomize.py'] = (
            f"import site, sys\nsite.addsitedir(sys.prefix + '/{library}/site-packages')\n")
        return self.add('python', VERSION, files, more={'python_site_packages_path': SITE})
