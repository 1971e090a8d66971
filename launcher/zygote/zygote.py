"""A zygote: imports Ray once, as a worker of Ray's does, and then is copied for each worker that is asked for
(library.cc, loaded here, does all of that). Started by rtlaunch, for one job of one raylet, user and interpreter,
outside of any sandbox; what it imports is the base's. In each copy, inside the worker's sandbox, it looks whether
a worker that had started there by itself would have imported the very same; if not, there is no worker from here.

RTLAUNCH_ZYGOTE: {"library", "script", "listener", "owner", "idle_ms"}."""

import contextlib
import ctypes
import json
import os
import sys

CONFIG = json.loads(os.environ.pop('RTLAUNCH_ZYGOTE'))
os.environ.pop('RTLAUNCH_ZYGOTE_ROOM')
SCRIPT = CONFIG['script']
LIBRARY = ctypes.PyDLL(CONFIG['library'])
for function in (LIBRARY.rtlaunch_zygote_open, LIBRARY.rtlaunch_zygote_serve):
    function.restype = ctypes.c_char_p

# Imported by Ray as `import X`, used by few workers, and often another version in an environment.
LATER = ('requests', 'yaml', 'jsonschema')
# Read by what isn't Python: the C library, Ray's native code, what is loaded with it.
NATIVE = ('RAY_', 'PYTHON', 'GRPC_', 'LD_', 'LC_', 'LANG', 'MALLOC_', 'GLIBC_', 'OMP_', 'OPENBLAS_', 'MKL_', 'KMP_',
          'BLIS_', 'OPENSSL_', 'SSL', 'TZ', 'LOCPATH', 'NLSPATH', 'JEMALLOC_', 'ABSL_')
NOT_READ = ('PYTHONPATH',)   # never by us; where it leads is looked at
EARLY = ('HOME',)   # by Python itself, before it could be seen


class Later:
    """Stands in for a module until somebody uses it; imports it then, from wherever it is by then."""

    def __init__(self, name):
        self.__dict__['__name__'] = name

    def __getattr__(self, attribute):
        import importlib
        return getattr(importlib.import_module(self.__dict__['__name__']), attribute)


class Missing:
    """The last finder: remembers what was looked for and isn't there."""

    names = set()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if path is None:
            cls.names.add(name)
        return None


def watch_variables(read):
    """Notes every variable that is read from os.environ; gives the way to stop."""
    kind = type(os.environ)
    get = kind.__getitem__

    def watched(self, key):
        read.add(key)
        return get(self, key)

    def all_of_them(self):
        read.add('*')
        return iterate(self)

    iterate = kind.__iter__
    kind.__getitem__, kind.__iter__ = watched, all_of_them

    def stop():
        kind.__getitem__, kind.__iter__ = get, iterate
    return stop


def import_all():
    for name in LATER:
        sys.modules[name] = Later(name)
    import ray
    import ray._private.workers.default_worker
    import ray._common.usage.usage_lib   # at connect()
    import ray._common.pydantic_compat, ray._private.arrow_serialization   # with the first value that is pickled
    with contextlib.suppress(ImportError):
        import pydantic.v1.fields   # then, too
    for name in LATER:
        if isinstance(sys.modules.get(name), Later):
            del sys.modules[name]
    # As `python SCRIPT` has it: there the first is __main__, and nothing needs the second.
    for name in ('ray._private.workers.default_worker', 'ray._private.workers'):
        module = sys.modules.pop(name, None)
        parent, _, child = name.rpartition('.')
        if module is not None and getattr(sys.modules.get(parent), child, None) is module:
            delattr(sys.modules[parent], child)


def stamp(path):
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_size, info.st_mtime_ns, info.st_ino


def fresh(text):
    """Another string of the same text: each copy looks at all of them, and so has all pages that they lie in as
    pages of its own. These lie side by side; those of modules lie everywhere."""
    return text.encode(errors='surrogateescape').decode(errors='surrogateescape')


def names_in(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []


class Loaded:
    """What was imported, from which files, and what lies where imports look."""

    def __init__(self, read, variables):
        self.read = read
        self.variables = variables
        self.changed = {name: value for name, value in os.environ.items() if variables.get(name) != value}
        self.files = {}
        for module in list(sys.modules.values()):
            path = getattr(module, '__file__', None)
            if path:
                self.files[fresh(path)] = stamp(path)
        for path in (sys.executable, os.path.realpath(sys.executable), SCRIPT, os.path.join(sys.prefix, 'pyvenv.cfg')):
            self.files[fresh(path)] = stamp(path)
        self.names = {name.partition('.')[0] for name in sys.modules} | Missing.names
        self.names |= {'sitecustomize', 'usercustomize'}
        self.names -= set(LATER)
        self.path = list(sys.path)
        self.folders = {folder: self.matter(folder) for folder in self.path}

    def matter(self, folder):
        """Entries of a folder that `import` would take for something that was imported, or wasn't there; and what
        Python reads at its start."""
        found = set()
        for entry in names_in(folder):
            if entry.partition('.')[0] in self.names:
                found.add(entry)
            elif entry.endswith('.pth'):
                found.add((entry, stamp(os.path.join(folder, entry))))
        return found

    def differing_variable(self, variables):
        for name in self.variables.keys() | variables.keys():
            if name in NOT_READ or self.variables.get(name) == variables.get(name):
                continue
            if name in self.read or name in EARLY or name.startswith(NATIVE):
                return name
        return None

    def obstacle(self, python_path):
        """Why this isn't what would be imported here and now."""
        for path, before in self.files.items():
            if stamp(path) != before:
                return f'{path} is another file'
        for folder, before in self.folders.items():
            if self.matter(folder) != before:
                return f'{folder} has other modules'
        for folder in python_path:
            if folder not in self.folders and any(not isinstance(entry, tuple) for entry in self.matter(folder)):
                return f'{folder} has modules of the same names'
        return None


def texts(pointer):
    found, index = [], 0
    while pointer[index] is not None:
        found.append(pointer[index])
        index += 1
    return found


def variables_in(entries):
    return dict(entry.partition(b'=')[::2] for entry in entries)


def misfit(words, variables):
    """Why a copy can't be the worker that is asked for."""
    words = [os.fsdecode(word) for word in words]
    if len(words) != len(sys.orig_argv) or words[0] != sys.orig_argv[0] or words[1] != SCRIPT:
        return 'it is another command'
    name = LOADED.differing_variable({os.fsdecode(name): os.fsdecode(value) for name, value in variables.items()})
    return f'{name} is another' if name else None


def python_path():
    """The entries of PYTHONPATH as Python's start makes them of it."""
    value = os.environ.get('PYTHONPATH')
    return [os.path.abspath(entry) for entry in value.split(os.pathsep)] if value else []


def take_path(entries):
    """sys.path: Ray's own first ones, the script's folder, PYTHONPATH, the rest; each once."""
    at = LOADED.path.index(os.path.dirname(SCRIPT)) + 1
    rest = []
    for entry in entries + LOADED.path[at:]:
        if entry not in rest:
            rest.append(entry)
    sys.path[:] = LOADED.path[:at] + rest
    sys.path_importer_cache.clear()


def take_identity(argv, variables):
    data = os.environ._data
    data.clear()
    data.update(variables)
    sys.orig_argv = [os.fsdecode(word) for word in argv]
    sys.argv = sys.orig_argv[1:]
    os.environ.update(LOADED.changed)   # as importing Ray does


def forget_the_past():
    """What a process has by its start, and a copy has from another."""
    import random
    import signal
    import threading
    random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.main_thread()._set_native_id()
    logging, process = sys.modules.get('logging'), sys.modules.get('multiprocessing.process')
    if logging:
        import time
        logging._startTime = time.time_ns() if sys.version_info >= (3, 13) else time.time()
    if process:
        process.current_process()._config['authkey'] = process.AuthenticationString(os.urandom(32))


def main_module():
    main = type(sys)('__main__')
    from importlib.machinery import SourceFileLoader
    main.__dict__.update(__file__=SCRIPT, __builtins__=__builtins__, __cached__=None, __annotations__={},
                         __loader__=SourceFileLoader('__main__', SCRIPT))
    sys.modules['__main__'] = main
    return main.__dict__


def end(code):
    """As at the end of any Python, exit handlers and all."""
    ctypes.pythonapi.Py_Exit(ctypes.c_int(code))


def work(argv, entries):
    """In the copy. Never returns."""
    try:
        words, variables = texts(argv), variables_in(texts(entries))
        why = misfit(words, variables)
        take_identity(words, variables)
        entries = python_path()
        why = why or LOADED.obstacle(entries)
    except BaseException as error:
        why = repr(error)
    if why:
        LIBRARY.rtlaunch_zygote_refuse(why.encode(errors='replace'))
    take_path(entries)
    forget_the_past()
    LIBRARY.rtlaunch_zygote_ready()
    try:
        exec(CODE, main_module())
    except SystemExit as stop:
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
        end(0 if stop.code is None else stop.code & 0xff if isinstance(stop.code, int) else 1)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        end(1)
    end(0)


def unfit():
    """What a copy couldn't have."""
    import faulthandler
    if len(os.listdir('/proc/self/task')) != 1:
        return 'importing Ray has started threads'
    if faulthandler.is_enabled():
        return 'faulthandler is on'
    if '*' in LOADED.read:
        return 'all variables were read at once'
    return None


def stop(why):
    """For good: what stands in the lock's file keeps others from trying again."""
    os.write(CONFIG['lock'], why.encode(errors='replace') or b'?')
    os._exit(1)


def run():
    failed = LIBRARY.rtlaunch_zygote_open()
    if failed:
        stop(failed.decode())
    sys.path[0] = os.path.dirname(SCRIPT)
    sys.meta_path.append(Missing)
    variables_read = set()
    variables = dict(os.environ)
    stop_watching = watch_variables(variables_read)
    import_all()
    stop_watching()
    sys.meta_path.remove(Missing)
    with open(SCRIPT) as source:
        code = compile(source.read(), SCRIPT, 'exec', dont_inherit=True)
    import gc
    global CODE, LOADED
    CODE, LOADED = code, Loaded(variables_read, variables)
    failed = unfit()
    if failed:
        stop(failed)
    sys.path_importer_cache.clear()   # each copy would, and touch every name that is in it
    gc.collect()
    gc.freeze()
    texts_type = ctypes.POINTER(ctypes.c_char_p)
    go_on = ctypes.PYFUNCTYPE(None, texts_type, texts_type)(work)
    LIBRARY.rtlaunch_zygote_serve(CONFIG['listener'], CONFIG['owner'], CONFIG['idle_ms'], go_on)
    os._exit(0)


if __name__ == '__main__':
    try:
        run()
    except BaseException as error:
        stop(repr(error))
