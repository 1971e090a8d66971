// The `conda` field: an environment of conda packages, made without conda. py-rattler solves it, in
// a build sandbox; the rest is ours: each package becomes a layer of its own, as it is below one
// canonical prefix (<store>/conda), and every environment that has the package shares it. An
// environment is a stack of them, mounted at that prefix in place of nothing: its Python is the
// command's Python, and nothing of the host's packages is seen.
//
//   Key key = TRY(conda_key(conda, request variables, prefix));            // warm half
//   if (!TRY(store.lookup(key))) Record record = TRY(make_conda(...));     // under store.lock(key)
//   overlay(prefix, packages_mounts(record));
//
// A record is like one of `pip`, bytecode included, and `data` has beside: "prefix", "interpreter"
// (none without a python), "variables" of its own, "channels" (URLs, without credentials).
// Layers are keyed by the package's SHA-256, the prefix, and for noarch Python also by where that
// Python's packages lie.
//
// conda_prefix, conda_key, conda_python, conda_variables: warm half. The rest is rtlaunch-build's.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/allowed.h"
#include "config/conda.h"
#include "installers/progress.h"
#include "installers/python.h"
#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// Where every conda environment of the store at `store` is mounted, in what covers it.
inline constexpr char kCondaInStore[] = "/conda";
std::string conda_prefix(const std::string& store);

// What was asked for, for which prefix, and what the caller's configuration says of channels.
// Errors: an environment that is only named.
Result<store::Key> conda_key(const config::Conda& conda, const Environment& variables,
                             const std::string& prefix);

// Of a record. The Python's paths are those inside.
Result<std::optional<Interpreter>> conda_python(const store::Record& record);
// In the order in which they are to be set; with the prefix's own.
std::vector<std::pair<std::string, std::string>> conda_variables(const store::Record& record);
// What it was made from, as policies see it.
Status check_channels(const store::Record& record, const config::Allowed& allowed);

struct CondaContext {
  Environment environment;  // the caller's
  std::string cwd;
  std::string tools;  // the folder with rattler/ and rtlaunch-conda.py
  config::Allowed allowed;
  std::chrono::steady_clock::time_point deadline;
};

// Makes the layers of `key` and its record (kind "conda"). The caller holds store.lock(key).
Result<store::Record> make_conda(const config::Conda& conda, const CondaContext& context,
                                 const store::Key& key, store::Store& store, Progress& progress);

// For who builds on top of it (its pip section, bytecode): the record's environment at its prefix,
// read-only, in a mount namespace of this process's own (rootless: in a user namespace too).
// Single-threaded, once a process; until the process ends.
Status enter_conda(const store::Record& record, store::Store& store);

}  // namespace rtlaunch::installers
