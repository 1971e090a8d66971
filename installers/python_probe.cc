#include "installers/python_probe.h"

namespace rtlaunch::installers {

// Raw strings only, no f-strings: an old Python must get as far as saying which one it is.
// importlib.metadata takes longer to load than all the rest together, so it is asked only of what
// is out of the ordinary: eggs, and metadata that folds a line we want, or that isn't UTF-8.
const char kProbeScript[] = R"python(
import json, os, sys
version = "%d.%d.%d" % sys.version_info[:3]
if not (3, 8) <= sys.version_info[:2] <= (3, 13):
    print(json.dumps({"version": version}))
    sys.exit(0)
import site, sysconfig
from _frozen_importlib_external import MAGIC_NUMBER

prefix, base_prefix = sys.prefix, sys.base_prefix
venv = prefix != base_prefix
system_site, home = False, ""
if venv:
    try:
        with open(os.path.join(prefix, "pyvenv.cfg")) as f:
            for line in f:
                key, _, value = line.partition("=")
                if key.strip().lower() == "include-system-site-packages":
                    system_site = value.strip().lower() == "true"
                elif key.strip().lower() == "home":
                    home = value.strip()
    except OSError:
        pass

base_executable = os.path.realpath(sys.executable)
for name in ("python%d.%d" % sys.version_info[:2], "python3", "python"):
    if home and os.path.exists(os.path.join(home, name)):
        base_executable = os.path.realpath(os.path.join(home, name))
        break

paths = sysconfig.get_paths()
headers = paths["include"]
if venv:  # as pip and uv have it
    headers = os.path.join(prefix, "include", "site", "python%d.%d" % sys.version_info[:2])

standard = {os.path.realpath(paths[k]) for k in ("stdlib", "platstdlib")}
standard |= {os.path.join(p, "lib-dynload") for p in standard}
def is_site(p):
    return (p and os.path.realpath(p) not in standard and not p.endswith(".zip"))
sites = [os.path.abspath(p) for p in sys.path if is_site(p)]
for p in site.getsitepackages([prefix]) + [paths["purelib"], paths["platlib"]]:
    if p not in sites and not (p.endswith("dist-packages") and not os.path.isdir(p)
                               and p not in (paths["purelib"], paths["platlib"])):
        sites.append(p)

user_base = ""
if (not venv or system_site) and not os.environ.get("PYTHONNOUSERSITE"):
    try:
        user, user_base = site.getusersitepackages(), site.getuserbase()
        first = [p for p in sites if venv and p.startswith(prefix + os.sep)]
        sites.insert(len(first), user)
    except Exception:
        pass

def plain(where):
    said, last = {"name": [], "version": [], "requires-dist": []}, ""
    with open(os.path.join(where, "METADATA"), encoding="utf-8") as f:
        for line in f:
            if line == "\n":
                break
            if line[0] in " \t":
                if last in said:
                    return None
                continue
            last, colon, value = line.partition(":")
            if not (last and colon and last.isascii() and last.isprintable()) or " " in last:
                return None
            last = last.lower()
            if last in said:
                said[last].append(value.lstrip(" \t").rstrip("\r\n"))
    if not (said["name"] and said["version"]):
        return None
    if not said["requires-dist"] and os.path.exists(os.path.join(where, "requires.txt")):
        return None
    return said["name"][0], said["version"][0], said["requires-dist"]

def asked(where):
    import importlib.metadata, pathlib
    dist = importlib.metadata.PathDistribution(pathlib.Path(where))
    return dist.metadata["Name"], dist.version, dist.requires or []

def metadata_in(folder):
    names = [(n, n.lower()) for n in os.listdir(folder)]
    for name, low in names:
        if low.endswith((".dist-info", ".egg-info")):
            yield os.path.join(folder, name)
    for name, low in names:
        if low == "egg-info" and folder.lower().endswith(".egg"):
            yield os.path.join(folder, name)

def about(where):
    try:
        said = plain(where) if where.lower().endswith(".dist-info") else None
    except Exception:
        said = None
    try:
        return said or asked(where)
    except Exception:
        return None, None, []

found, unique = [], []
for p in sites:
    if p not in unique:
        unique.append(p)
sites = unique
for where in [m for p in sites if os.path.isdir(p) for m in metadata_in(p)]:
    name, dist_version, requires = about(where)
    if not name or not dist_version:
        continue
    try:
        st = os.stat(os.path.join(where, "RECORD"))
        record = [st.st_size, st.st_mtime_ns]
    except OSError:
        record = [0, 0]
    found.append({"name": name, "version": dist_version, "path": where,
                  "requires": list(requires), "record": record})

print(json.dumps({
    "version": version,
    "implementation": sys.implementation.name,
    "cache_tag": sys.implementation.cache_tag or "",
    "magic": MAGIC_NUMBER.hex(),
    "soabi": sysconfig.get_config_var("SOABI") or "",
    "platform": sysconfig.get_platform(),
    "executable": sys.executable,
    "base_executable": base_executable,
    "prefix": prefix,
    "base_prefix": base_prefix,
    "user_base": user_base,
    "stdlib": paths["stdlib"],
    "venv": venv,
    "system_site": system_site,
    "externally_managed": not venv and os.path.exists(
        os.path.join(paths["stdlib"], "EXTERNALLY-MANAGED")),
    "sites": sites,
    "scheme": {"purelib": paths["purelib"], "platlib": paths["platlib"],
               "scripts": paths["scripts"], "data": paths["data"], "headers": headers},
    "distributions": found,
}))
)python";

}  // namespace rtlaunch::installers
