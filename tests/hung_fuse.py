"""A FUSE file system with one file, `file`, whose every close(2) waits for ever: FLUSH is not answered.
`hung_fuse.py DIR` mounts it at DIR; killed, all that waits goes on."""

import ctypes
import os
import struct
import sys

FORGET, LOOKUP, GETATTR, OPEN, WRITE, RELEASE, FLUSH, INIT = 2, 1, 3, 14, 16, 18, 25, 26
ENOSYS = 38


def attributes(node):
    mode = 0o40755 if node == 1 else 0o100666
    return struct.pack('<6Q10I', node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(code, node, data):
    if code == INIT:
        return struct.pack('<4I2H2I2HI', 7, 31, 0, 0, 16, 12, 65536, 1, 16, 0, 0).ljust(64, b'\0')
    if code == LOOKUP:
        return struct.pack('<4Q2I', 2, 1, 3600, 3600, 0, 0) + attributes(2)
    if code == GETATTR:
        return struct.pack('<Q2I', 3600, 0, 0) + attributes(node)
    if code == OPEN:
        return struct.pack('<Q2I', 1, 0, 0)
    if code == WRITE:
        return struct.pack('<2I', struct.unpack_from('<I', data, 16)[0], 0)
    return b'' if code == RELEASE else None


def main(folder):
    device = os.open('/dev/fuse', os.O_RDWR)
    options = f'fd={device},rootmode=40000,user_id=0,group_id=0,allow_other'.encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b'hung', folder.encode(), b'fuse', 6, options) != 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    print('mounted', flush=True)
    while True:
        request = os.read(device, 1 << 18)
        _, code, unique, node = struct.unpack_from('<IIQQ', request)
        if code in (FORGET, FLUSH):
            continue
        body = answer(code, node, request[40:])
        os.write(device, struct.pack('<IiQ', 16 + len(body or b''), 0 if body is not None else -ENOSYS, unique) + (body or b''))


if __name__ == '__main__':
    main(sys.argv[1])
