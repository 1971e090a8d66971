// Compiling everything takes longer than all the rest together and saves 1.5 s of every worker's
// first import (numpy, pandas, scipy), so it happens behind the first launch's back, except for
// what a first import needs.
//
// The sources' times are frozen, so the timestamps in the files stay right wherever they are
// mounted; the file names in them are put right by the import system (_fix_co_filename). A module
// that a worker edits in its private upper is compiled anew, as with pip: no unchecked hashes.
#include "installers/bytecode.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "installers/archive_tree.h"
#include "installers/compiler.h"
#include "installers/pip.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

constexpr uint64_t kLargestSource = 16 << 20;

store::Key pyc_key(const store::Digest& layer, const Interpreter& python) {
  return {store::Hasher()
              .field("pyc 1")
              .field(layer.hex)
              .field(python.magic)
              .field(python.cache_tag)
              .hex()};
}

// What will be the bytecode layer of `layer`.
struct Draft {
  Draft(const store::Digest& of, store::Staging place)
      : layer(of), staging(std::move(place)), writer(staging.tree(), manifest, {}) {}
  store::Digest layer;
  store::Staging staging;
  store::Manifest manifest;
  TreeWriter writer;
};

Result<std::vector<std::string>> modules_of(const store::Digest& layer, const Interpreter& python,
                                            const store::Store& store) {
  std::string text =
      TRY(sys::read_file(store.layer_path(layer) + "/../manifest", uint64_t(256) << 20));
  store::Manifest manifest = TRY(store::Manifest::parse(text));
  std::vector<std::string> modules;
  for (const store::Entry& entry : manifest.entries()) {
    bool code = entry.path.ends_with(".py") && entry.type != store::Entry::Type::kDirectory &&
                entry.type != store::Entry::Type::kWhiteout;
    bool found = false;
    for (const std::string& site : {python.scheme.purelib, python.scheme.platlib})
      found |= site == "." || sys::is_beneath(entry.path, site);
    if (code && found) modules.push_back(entry.path);
  }
  return modules;
}

Status take_answers(Compilers& compilers, const std::vector<std::string>& modules,
                    const Interpreter& python, Draft& draft) {
  for (Compiled& done : TRY(compilers.answers(-1))) {
    if (done.bytecode.empty()) continue;
    OpenFile file = TRY(draft.writer.create(bytecode_path(modules.at(done.id), python), 0644));
    TRY(file.write(done.bytecode.data(), done.bytecode.size()));
    TRY(draft.writer.close(std::move(file), store::kFixedMtime));
  }
  return {};
}

Status compile_layer(Compilers& compilers, const Interpreter& python, const store::Store& store,
                     Draft& draft) {
  sys::AsRoot root;
  std::vector<std::string> modules = TRY(modules_of(draft.layer, python, store));
  UniqueFd tree =
      TRY(sys::open_at(AT_FDCWD, store.layer_path(draft.layer), O_RDONLY | O_DIRECTORY));
  for (size_t next = 0; next < modules.size() || compilers.pending() > 0;) {
    while (next < modules.size() && compilers.wants_more()) {
      auto fd = sys::open_in_root(tree.get(), modules[next], O_RDONLY);
      auto source = fd.ok() ? sys::read_all(fd->get(), modules[next], kLargestSource)
                            : Result<std::string>(std::move(fd.error()));
      if (source.ok()) compilers.ask({next, modules[next], "", std::move(source.value())});
      ++next;  // a link to nowhere, say, is no module
    }
    if (compilers.pending() > 0) TRY(take_answers(compilers, modules, python, draft));
  }
  return draft.writer.finish();
}

Status publish_bytecode(Draft& draft, const Interpreter& python, store::Store& store,
                        BytecodeLayers& known, std::vector<store::Lease>& leases) {
  TRY(draft.manifest.finish());
  store::Record record{"pyc", "bytecode of " + draft.layer.hex.substr(0, 12), {}, "{}"};
  known[draft.layer.hex] = std::nullopt;
  if (draft.manifest.size() > 1) {
    store::Lease lease = TRY(store.publish(std::move(draft.staging), draft.manifest,
                                           {.kind = "pyc", .name = record.name}));
    record.layers = {lease.digest};
    known[draft.layer.hex] = lease.digest;
    leases.push_back(std::move(lease));
  }
  return store.record(pyc_key(draft.layer, python), record);
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

// The layers of a mount, top first, without any bytecode.
std::vector<store::Digest> without_bytecode(const json& mount, const store::Record& record,
                                            const std::set<std::string>& bytecode) {
  std::vector<store::Digest> layers;
  for (size_t index : mount.at("layers").get<std::vector<size_t>>()) {
    const store::Digest& digest = record.layers.at(index);
    if (!bytecode.count(digest.hex)) layers.push_back(digest);
  }
  return layers;
}

// Above the first layer that has an entry, a bytecode layer for each that has one.
std::vector<store::Digest> between(const std::vector<store::Digest>& layers,
                                   const BytecodeLayers& bytecode) {
  auto compiled = [&](const store::Digest& d) { return bytecode.count(d.hex) != 0; };
  auto modules = std::find_if(layers.begin(), layers.end(), compiled);
  std::vector<store::Digest> result(layers.begin(), modules);
  for (auto layer = modules; layer != layers.end(); ++layer)
    if (compiled(*layer) && bytecode.at(layer->hex)) result.push_back(*bytecode.at(layer->hex));
  result.insert(result.end(), modules, layers.end());
  return result;
}

}  // namespace

std::string bytecode_path(const std::string& source, const Interpreter& python) {
  size_t name = source.rfind('/') + 1;  // npos + 1 is 0
  return source.substr(0, name) + "__pycache__/" + source.substr(name, source.size() - name - 3) +
         "." + python.cache_tag + ".pyc";
}

Result<bool> find_bytecode(const store::Digest& layer, const Interpreter& python,
                           const store::Store& store, BytecodeLayers& known,
                           std::vector<store::Lease>& leases) {
  auto record = TRY(store.lookup(pyc_key(layer, python)));
  if (!record) return false;
  if (record->layers.empty()) {
    known[layer.hex] = std::nullopt;
    return true;
  }
  auto lease = TRY(store.acquire(record->layers[0]));
  if (!lease) return false;
  leases.push_back(std::move(*lease));
  known[layer.hex] = record->layers[0];
  return true;
}

store::Record with_bytecode(const store::Record& before, const BytecodeLayers& layers,
                            bool complete) {
  json data = json::parse(before.data);
  store::Record record = before;
  record.layers.clear();
  auto index_of = [&](const store::Digest& digest) {
    auto it = std::find(record.layers.begin(), record.layers.end(), digest);
    if (it == record.layers.end()) it = record.layers.insert(record.layers.end(), digest);
    return size_t(it - record.layers.begin());
  };
  auto old = data.value("pyc", std::set<std::string>{});
  for (json& mount : data["mounts"]) {
    json indices = json::array();
    for (const store::Digest& digest : between(without_bytecode(mount, before, old), layers))
      indices.push_back(index_of(digest));
    mount["layers"] = indices;
  }
  data["pyc"] = json::array();
  for (const auto& [layer, digest] : layers)
    if (digest) data["pyc"].push_back(digest->hex);
  data["bytecode"] = complete;
  record.data = data.dump();
  return record;
}

Status make_bytecode(const store::Key& key, const Interpreter& python, const PackagesContext&,
                     store::Store& store, Progress& progress) {
  auto record = TRY(store.lookup(key));
  if (!record || !lacks_bytecode(*record)) return {};
  std::vector<store::Lease> leases;
  std::vector<store::Digest> layers = TRY(layers_to_compile(*record)), missing;
  auto sources = TRY(store.acquire_all(layers));
  if (!sources) return {};  // collected meanwhile: whoever makes them again compiles them
  BytecodeLayers known;
  for (const store::Digest& layer : layers)
    if (!TRY(find_bytecode(layer, python, store, known, leases))) missing.push_back(layer);
  if (!missing.empty()) {
    progress.report({"pip", "bytecode", record->name});
    Compilers compilers = TRY(Compilers::start(python, Compilers::Pace::kIdle));
    for (const store::Digest& layer : missing) {
      Draft draft(layer, TRY(store.stage()));
      TRY(compile_layer(compilers, python, store, draft));
      TRY(publish_bytecode(draft, python, store, known, leases));
    }
  }
  UniqueFd lock = TRY(store.lock(key));
  auto now = TRY(store.lookup(key));
  bool same = now && now->layers == record->layers && now->data == record->data;
  return same ? store.record(key, with_bytecode(*record, known, true)) : Status();
}

}  // namespace rtlaunch::installers
