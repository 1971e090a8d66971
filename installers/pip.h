// The `pip` and `uv` fields: requirement lines on top of an interpreter's packages, made into
// layers that are mounted over the interpreter's own prefix. sys.executable and sys.prefix stay
// what they are, base packages stay importable, and one that is replaced is gone (whiteouts), not
// shadowed.
//
// Two ways, one result. *Compose* (compose.h): uv says what would change, a lock says from which
// wheels, each wheel becomes a layer of its own that every environment shares. *Capture*
// (capture.h): uv or pip runs in a build sandbox on an overlay of the prefix and its upper is the
// layer; for everything that compose can't do (sdists, VCS, editable, odd options).
//
//   Key key = TRY(packages_key(*env.packages, python, context));          // warm half
//   if (!TRY(store.lookup(key))) {
//     UniqueFd lock = TRY(store.lock(key));                               // then look again
//     Record record = TRY(make_packages(*env.packages, python, context, key, store, progress));
//   }
//   for (PackagesMount& m : TRY(packages_mounts(record))) overlay(m.target, m.layers);
//
// packages_key, packages_mounts: warm half. The rest is rtlaunch-build's.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/runtime_env.h"
#include "installers/progress.h"
#include "installers/python.h"
#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

struct PackagesContext {
  Environment environment;  // the caller's: PIP_*, UV_*, proxies, CA bundles, HOME (for pip.conf)
  // The runtime env's env_vars, expanded. Builds see them, as Ray's do; no key covers them.
  std::vector<std::pair<std::string, std::string>> env_vars;
  std::string cwd;  // where relative paths in requirement lines start
  // The working_dir's layer: what ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR} in a line means.
  struct WorkingDir {
    std::string path;    // a directory on the host
    std::string digest;  // of its layer
  };
  std::optional<WorkingDir> working_dir;
  std::string tools;                       // the folder with `uv` and `packaging.whl`
  std::vector<std::string> command;        // what is waiting for the packages; may be empty
  bool allow_conflicts = false;            // let a requirement break a base package
  bool capture_only = false;               // never compose: the tests' oracle
  std::optional<int64_t> timeout_seconds;  // for all of the build
  // What of the base must stay as it is and be kept whole ("ray" for a Ray worker), whatever else a
  // requirement breaks; "": all of it. RTLAUNCH_KEEP_VERSION_OF in `environment`.
  std::string kept() const;
};

// What was asked for and on top of what: requirement lines (in any order), tool, options, the
// interpreter's fingerprint, the index configuration without its credentials, the content of every
// local path that a line names, and the working_dir's digest if a line uses it.
// Errors: a local path that isn't there; the working_dir is used and there is none.
Result<store::Key> packages_key(const config::Packages& packages, const Interpreter& python,
                                const PackagesContext& context);

// Makes the layers of `key` and its record (kind "pip"). The caller holds store.lock(key).
// Layers that are published meanwhile are leased until this returns.
Result<store::Record> make_packages(const config::Packages& packages, const Interpreter& python,
                                    const PackagesContext& context, const store::Key& key,
                                    store::Store& store, Progress& progress);

// Compiles the bytecode of each of the record's layers that has none yet, once per layer and
// Python magic, in a sandbox at low priority, and replaces the record by one that includes it.
// Takes store.lock(key) only for the last step. For a background process.
Status make_bytecode(const store::Key& key, const Interpreter& python,
                     const PackagesContext& context, store::Store& store, Progress& progress);

// Which of a record's layers are mounted where: an overlay per entry, in this order, what is at
// `target` being the lowest lower.
struct PackagesMount {
  std::string target;
  std::vector<store::Digest> layers;  // top first
};
Result<std::vector<PackagesMount>> packages_mounts(const store::Record& record);
// True when some layer has no bytecode yet.
bool lacks_bytecode(const store::Record& record);
// What of the base is broken by it, a line each, both requirers named.
std::vector<std::string> broken_by(const store::Record& record);
// "emoji-2.2.0 idna-3.4", as pip's last line has it; "" when nothing was to be added.
std::string installed_by(const store::Record& record);

}  // namespace rtlaunch::installers
