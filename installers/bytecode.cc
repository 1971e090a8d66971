// Bytecode as layers of its own: one for each layer with modules, once per Python magic, shared
// like the layer itself. Compiling takes longer than all the rest together and saves 1.5 s of every
// worker's first import (numpy, pandas, scipy), so it happens behind the first launch's back.
//
// The sources' times are frozen, so the timestamps in the files stay right wherever they are
// mounted; the file names in them are put right by the import system (_fix_co_filename). A module
// that a worker edits in its private upper is compiled anew, as with pip: no unchecked hashes.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "installers/capture.h"
#include "installers/pip.h"
#include "isolation/sandbox.h"
#include "isolation/sys/files.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

// Two processes, each every second file. No package code runs: compiling only parses.
constexpr const char* kScript = R"python(
import os, py_compile, sys
# Nobody waits for this, and the worker that was just launched is importing. A nice value alone says
# nothing here: with autogroups, what is weighed are sessions.
for step in (lambda: os.nice(19),
             lambda: open("/proc/self/autogroup", "w").write("19"),
             lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))):
    try:
        step()
    except OSError:
        pass
jobs = []
count, sites = int(sys.argv[1]), sys.argv[2:]
for i in range(count):
    for site in sites:
        top = "/build/src/%d/%s" % (i, site)
        for folder, _, names in os.walk(top):
            for name in names:
                if name.endswith(".py"):
                    jobs.append((i, os.path.join(folder, name)))
def run(part):
    for i, path in jobs[part::2]:
        name = os.path.relpath(path, "/build/src/%d" % i)
        folder, module = os.path.split(name)
        target = "/build/out/%d/%s/__pycache__/%s.%s.pyc" % (
            i, folder, module[:-3], sys.implementation.cache_tag)
        try:
            py_compile.compile(path, target, name, doraise=True, quiet=2,
                               invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
        except (py_compile.PyCompileError, OSError, ValueError, RecursionError):
            pass  # Python 2 templates and the like: importing them fails just the same
child = os.fork()
run(1 if child else 0)
if not child:
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1] != 0)
)python";

store::Key pyc_key(const store::Digest& layer, const Interpreter& python) {
  return {store::Hasher()
              .field("pyc 1")
              .field(layer.hex)
              .field(python.magic)
              .field(python.cache_tag)
              .hex()};
}

// Of each layer that was compiled already, its bytecode layer; nothing when it has no modules.
using Compiled = std::map<std::string, std::optional<store::Digest>>;

Result<bool> is_compiled(const store::Digest& layer, const Interpreter& python, store::Store& store,
                         Compiled& compiled, std::vector<store::Lease>& leases) {
  auto record = TRY(store.lookup(pyc_key(layer, python)));
  if (!record) return false;
  if (record->layers.empty()) {
    compiled[layer.hex] = std::nullopt;
    return true;
  }
  auto lease = TRY(store.acquire(record->layers[0]));
  if (!lease) return false;
  leases.push_back(std::move(*lease));
  compiled[layer.hex] = record->layers[0];
  return true;
}

isolation::Spec compiler_spec(const Interpreter& python, size_t count) {
  isolation::Spec spec;
  spec.root = isolation::Root::kEmpty;
  if (::geteuid() == 0) spec.user = isolation::User{kBuildUid, kBuildUid, {}};
  spec.new_session = true;
  spec.env = {"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"};
  spec.argv = {python.base_executable, "-I", "-S", "-B", "-c", kScript, std::to_string(count)};
  std::set<std::string> sites = {python.scheme.purelib, python.scheme.platlib};
  spec.argv.insert(spec.argv.end(), sites.begin(), sites.end());
  for (const char* path : {"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"})
    spec.binds.push_back({path, path, false, true});
  std::string folder = python.base_executable.substr(0, python.base_executable.rfind('/'));
  for (const std::string& path : {python.base_prefix, folder}) {
    bool seen = std::any_of(spec.binds.begin(), spec.binds.end(), [&](const isolation::Bind& b) {
      return sys::is_beneath(path, b.target);
    });
    if (!seen) spec.binds.push_back({path, path, false, false});
  }
  return spec;
}

Status run_compiler(const std::vector<store::Digest>& layers,
                    const std::vector<store::Staging>& out, const Interpreter& python,
                    const store::Store& store) {
  isolation::Spec spec = compiler_spec(python, layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    spec.binds.push_back(
        {store.layer_path(layers[i]), "/build/src/" + std::to_string(i), false, false});
    spec.binds.push_back({out[i].path() + "/tree", "/build/out/" + std::to_string(i), true, false});
    if (spec.user && ::fchown(out[i].tree(), spec.user->uid, spec.user->gid) != 0)
      return sys_error("chown", "staging");
  }
  UniqueFd in = TRY(sys::memory_file("")), said = TRY(sys::memory_file(""));
  spec.stdin_fd = in.get(), spec.stdout_fd = spec.stderr_fd = said.get();
  isolation::Sandbox sandbox = TRY(isolation::start(spec));
  int status = TRY(sandbox.wait());
  if (status == 0) return {};
  ::lseek(said.get(), 0, SEEK_SET);
  auto text = sys::read_all(said.get(), "compiler");
  return make_error("bytecode", python.base_executable,
                    "compiling failed: " + (text.ok() ? text->substr(0, 300) : ""));
}

Status publish_bytecode(const store::Digest& layer, store::Staging staging,
                        const Interpreter& python, store::Store& store, Compiled& compiled,
                        std::vector<store::Lease>& leases) {
  TRY(store::clean_tree(staging.tree(), nullptr));
  store::Manifest manifest = TRY(store::scan_tree(staging.tree()));
  store::Record record{"pyc", "bytecode of " + layer.hex.substr(0, 12), {}, "{}"};
  compiled[layer.hex] = std::nullopt;
  if (manifest.size() > 1) {
    store::Lease lease =
        TRY(store.publish(std::move(staging), manifest, {.kind = "pyc", .name = record.name}));
    record.layers = {lease.digest};
    compiled[layer.hex] = lease.digest;
    leases.push_back(std::move(lease));
  }
  return store.record(pyc_key(layer, python), record);
}

// The bytecode layers go above all modules (whose order they keep), below the glue. Where a layer
// holds modules and scripts at once (capture), that is right above it.
store::Record with_bytecode(const store::Record& before, const Compiled& compiled) {
  json data = json::parse(before.data);
  store::Record record = before;
  for (json& mount : data["mounts"]) {
    json layers = json::array();
    std::vector<size_t> bytecode;
    size_t first = 0;
    std::vector<size_t> old = mount.at("layers").get<std::vector<size_t>>();
    for (size_t index : old) {
      auto it = compiled.find(before.layers.at(index).hex);
      if (it == compiled.end()) continue;
      if (!it->second) continue;
      bytecode.push_back(record.layers.size());
      record.layers.push_back(*it->second);
    }
    while (first < old.size() && !compiled.count(before.layers.at(old[first]).hex)) ++first;
    for (size_t i = 0; i < first; ++i) layers.push_back(old[i]);
    for (size_t index : bytecode) layers.push_back(index);
    for (size_t i = first; i < old.size(); ++i) layers.push_back(old[i]);
    if (!bytecode.empty()) mount["layers"] = layers;
  }
  data["bytecode"] = true;
  record.data = data.dump();
  return record;
}

Result<std::vector<store::Digest>> layers_to_compile(const store::Record& record) {
  try {
    std::vector<store::Digest> layers;
    const json data = json::parse(record.data);
    for (const json& hex : data.at("compile")) layers.push_back({hex});
    return layers;
  } catch (const json::exception& e) {
    return make_error("bytecode", record.name,
                      std::string("its record is unreadable: ") + e.what());
  }
}

}  // namespace

Status make_bytecode(const store::Key& key, const Interpreter& python, const PackagesContext&,
                     store::Store& store, Progress& progress) {
  auto record = TRY(store.lookup(key));
  if (!record || !lacks_bytecode(*record)) return {};
  std::vector<store::Lease> leases;
  std::vector<store::Digest> layers = TRY(layers_to_compile(*record)), missing;
  auto sources = TRY(store.acquire_all(layers));
  if (!sources) return {};  // collected meanwhile: whoever makes them again compiles them
  Compiled compiled;
  for (const store::Digest& layer : layers)
    if (!TRY(is_compiled(layer, python, store, compiled, leases))) missing.push_back(layer);
  if (!missing.empty()) {
    progress.report({"pip", "bytecode", record->name});
    std::vector<store::Staging> out;
    for (size_t i = 0; i < missing.size(); ++i) out.push_back(TRY(store.stage()));
    TRY(run_compiler(missing, out, python, store));
    for (size_t i = 0; i < missing.size(); ++i)
      TRY(publish_bytecode(missing[i], std::move(out[i]), python, store, compiled, leases));
  }
  UniqueFd lock = TRY(store.lock(key));
  auto now = TRY(store.lookup(key));
  bool same = now && now->layers == record->layers && now->data == record->data;
  return same ? store.record(key, with_bytecode(*record, compiled)) : Status();
}

}  // namespace rtlaunch::installers
