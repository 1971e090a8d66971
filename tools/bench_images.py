"""OCI images: a start in one that is there beside `podman run`, and unpacking one of 1 GB beside umoci.
Both images are made here, of this host's programs and of bytes that compress about as code does."""

import os
import pathlib
import random
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'tests'))
from image_support import Image, programs_of  # noqa: E402


def small_image(folder):
    image = Image(folder).layer({**programs_of('/bin/sh', '/usr/bin/true'), 'etc/passwd': 'root:x:0:0::/root:/bin/sh\n'})
    for number in range(4):
        image.layer({f'srv/{number}/file{i}': 'x' * 1000 for i in range(200)})
    return image.write()


def large_image(folder, layers=5, files=2000, size=100_000):
    """10,000 files, 1 GB; half of each is noise."""
    noise = random.Random(1)
    image = Image(folder)
    for layer in range(layers):
        image.layer({f'data/{layer}/{i % 50}/file{i}': noise.randbytes(size // 2) + b'a line of a program\n' * (size // 40)
                     for i in range(files)})
    return image.write()


class Podman:
    def __init__(self, folder, image):
        self.words = ['podman', '--root', folder / 'root', '--runroot', folder / 'run', '--tmpdir', folder / 'tmp',
                      '--storage-driver', 'overlay', '--cgroup-manager', 'cgroupfs', '--events-backend', 'none', '--runtime', 'runc']
        said = subprocess.run([*self.words, 'pull', '-q', image.uri], capture_output=True, text=True)
        if said.returncode:
            self.end()
            raise SystemExit(f'podman pull failed:\n{said.stderr}')
        self.id = said.stdout.split()[-1]

    def end(self):
        """Its storage may still be a mount, which nobody could remove."""
        subprocess.run(['umount', self.words[2] / 'overlay'], check=False, capture_output=True)

    def run(self):
        return [*self.words, 'run', '--rm', '--network', 'host', '--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024', self.id, 'true']


def measure(bench, rtlaunch, row, timed, spawned):
    image = small_image(bench.fresh('image'))
    store, podman = bench.fresh('store'), Podman(bench.fresh('podman'), image)
    ours = [rtlaunch, 'run', '--embedded', '--store', store, '--image', image.uri, '--', 'true']
    spawned(ours), spawned(podman.run())
    pairs = [(spawned(ours), spawned(podman.run())) for _ in range(15)]
    row('image of 5 layers that is there, to its first exec', [p[0] for p in pairs], [p[1] for p in pairs], 'podman run', 0.1, 'ms')
    podman.end()
    large = large_image(bench.fresh('large'))
    pairs = []
    for _ in range(3):
        mine = timed([rtlaunch, 'env', 'create', '--embedded', '--store', bench.fresh('store'), '--image', large.uri])
        pairs.append((mine, timed(['umoci', 'unpack', '--image', f'{large.folder}:latest', bench.fresh('bundle')])))
    row('unpacking an image of 1 GB', [p[0] for p in pairs], [p[1] for p in pairs], 'umoci unpack', 0.7)
