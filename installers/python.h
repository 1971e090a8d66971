// Which Python an environment is for, and what has to be known of it: where it is, where packages
// go, what is installed, and a fingerprint that changes whenever any of that does.
//
// An interpreter is asked once, by running it (`-I`, about 60 ms); the answer lies in the store's
// wd/, checked on every later call by a stat of the executable, pyvenv.cfg and each site directory.
// So the warm path runs nothing. pyenv's shims are resolved here, not run.
//
//   Interpreter python = TRY(find_interpreter("", environment, cwd, store));
//   // python.mounts[0] == "/usr"; overlays of packages go there
//
// Warm half: no curl, no archives, no SQLite.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// The caller's variables. Values may be secret; nothing here stores or prints one.
using Environment = std::map<std::string, std::string>;

// Our own; what has no name isn't in it.
Environment own_environment();

// Where installed things go, each relative to Interpreter::mount. purelib == platlib nearly always.
struct Scheme {
  std::string purelib, platlib, scripts, data, headers;
  bool operator==(const Scheme&) const = default;
};

struct Interpreter {
  std::string executable;       // what sys.executable is: absolute, a venv's links not resolved
  std::string base_executable;  // the program behind it, links resolved; a venv's base's
  std::string version;          // "3.11.7"
  std::string implementation;   // "cpython"
  std::string cache_tag;        // "cpython-311"
  std::string magic;            // of its bytecode, hex
  std::string soabi;            // "cpython-311-x86_64-linux-gnu"
  std::string platform;         // sysconfig's, "linux-x86_64"
  std::string prefix, base_prefix;
  std::string stdlib;  // the folder that holds os.py
  bool venv = false;
  bool system_site = false;         // a venv that shows its base's packages too
  bool externally_managed = false;  // PEP 668
  // All folders in which packages are found, in the order of sys.path.
  std::vector<std::string> site_dirs;
  // Where overlays have to go so that new packages land and every package that is visible can be
  // masked. The first is sys.prefix; the others (the outer prefix of a venv with
  // system-site-packages, the user's ~/.local) only ever get masks.
  std::vector<std::string> mounts;
  const std::string& mount() const { return mounts.front(); }
  Scheme scheme;
  std::string scheme_id;    // digest of `scheme` and python X.Y: wheel layers are shared by it
  std::string fingerprint;  // version, prefixes, scheme, and every installed distribution
};

// One installed distribution, as importlib.metadata would list it.
struct Distribution {
  std::string name;        // as its metadata writes it
  std::string normalized;  // PEP 503
  std::string version;
  std::string path;                        // its .dist-info or .egg-info, absolute
  std::vector<std::string> requires_dist;  // "urllib3<3,>=1.26", markers included
  bool shadowed = false;                   // another of the same name comes first on sys.path
};

// `wanted`: a path, a name looked up on PATH ("python3.11"), or "": $VIRTUAL_ENV's python, else
// python3, else python on PATH. Reads PATH, VIRTUAL_ENV, HOME, PYENV_VERSION, PYENV_ROOT,
// PYENV_DIR, PYTHONNOUSERSITE. Errors: not found (127), not a Python 3.8-3.13, doesn't run.
Result<Interpreter> find_interpreter(const std::string& wanted, const Environment& environment,
                                     const std::string& cwd, const store::Store& store);

// The same without a store to remember it in, and the distributions with it.
struct Probe {
  Interpreter interpreter;
  std::vector<Distribution> distributions;
};
Result<Probe> probe_interpreter(const std::string& executable, const Environment& environment);
// What the probe's script (python_probe.h) said, for who has run it himself.
Result<Probe> parse_probe(const std::string& executable, const std::string& said);
void remember_distributions(const Probe& probe, const store::Store& store);

// To be kept in a record, and back.
std::string interpreter_text(const Interpreter& python);
Result<Interpreter> parse_interpreter(const std::string& text);

// What is installed in it; from the store where it is known.
Result<std::vector<Distribution>> distributions_of(const Interpreter& python,
                                                   const store::Store& store);

// The file that `wanted` means, without running it: PATH and pyenv's shims resolved.
Result<std::string> locate_python(const std::string& wanted, const Environment& environment,
                                  const std::string& cwd);

// Whether a program, in whatever folder, is called python, python3, python3.11.
bool names_python(const std::string& program);

std::string minor_version(const std::string& version);  // "3.11" of "3.11.7"

// PEP 503: "Foo.Bar_baz" is "foo-bar-baz".
std::string normalized_name(const std::string& name);

}  // namespace rtlaunch::installers
