#include "installers/python_probe.h"

namespace rtlaunch::installers {

// Raw strings only, no f-strings: an old Python must get as far as saying which one it is.
const char kProbeScript[] = R"python(
import json, os, sys
version = "%d.%d.%d" % sys.version_info[:3]
if not (3, 8) <= sys.version_info[:2] <= (3, 13):
    print(json.dumps({"version": version}))
    sys.exit(0)
import importlib.metadata, importlib.util, site, sysconfig

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

found, seen, unique = [], set(), []
for p in sites:
    if p not in unique:
        unique.append(p)
sites = unique
for dist in importlib.metadata.distributions(path=[p for p in sites if os.path.isdir(p)]):
    try:
        name, dist_version = dist.metadata["Name"], dist.version
        where = str(dist._path)
        requires = dist.requires or []
    except Exception:
        continue
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
    "magic": importlib.util.MAGIC_NUMBER.hex(),
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
