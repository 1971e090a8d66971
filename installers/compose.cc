#include "installers/compose.h"

#include <fcntl.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "installers/capture.h"
#include "installers/early_wheels.h"
#include "installers/glue.h"
#include "installers/resolve.h"
#include "installers/wheels.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;
using Kind = Requirement::Kind;

// With a bytecode layer each, glue and mask, still below overlayfs' 500.
constexpr size_t kMostWheels = 200;
constexpr size_t kMostBroken = 10;  // that a record tells of

bool is_simple_option(const Requirement& r) {
  static const std::set<std::string> kKnown = {"--index-url", "--extra-index-url", "--find-links",
                                               "--no-index", "--pre"};
  return kKnown.count(r.option) != 0;
}

// Why this can't be composed; "" when it can.
std::string obstacle(const Job& job) {
  if (job.context.capture_only) return "capture was asked for";
  if (job.packages.version) return job.field + "_version is given";
  std::string option = option_that_matters(job.packages.options);
  if (!option.empty()) return "the option " + without_credentials(option);
  for (const Requirement& r : job.requirements) {
    bool simple = r.kind == Kind::kName || r.kind == Kind::kConstraint ||
                  (r.kind == Kind::kOption && is_simple_option(r));
    if (!simple || r.has_options || r.uses_working_dir) return r.canonical;
  }
  const IndexConfig& index = job.uv.index();
  if (!index.no_binary.empty()) return "no-binary is configured";
  if (!index.client_cert.empty()) return "a client certificate is configured";
  return "";
}

std::vector<NewDistribution> coming_in(const Resolution& resolution) {
  std::vector<NewDistribution> added;
  for (const LockedWheel& w : resolution.wheels) added.push_back({w.name, w.version, ""});
  return added;
}

// Two wheels with one path and different content: uv's outcome depends on its threads, ours is that
// of the later name. The user should know.
void warn_of_overlaps(const Job& job, const std::vector<WheelLayer>& wheels) {
  sys::AsRoot root;
  std::unordered_map<std::string, std::pair<size_t, std::string>> seen;
  for (size_t i = 0; i < wheels.size(); ++i) {
    auto text = sys::read_file(job.store.layer_path(wheels[i].digest) + "/../manifest");
    if (!text.ok()) return;
    auto manifest = store::Manifest::parse(text.value());
    if (!manifest.ok()) return;
    for (const store::Entry& entry : manifest->entries()) {
      if (entry.type != store::Entry::Type::kFile) continue;
      auto [it, fresh] = seen.try_emplace(entry.path, i, entry.content.substr(0, 8));
      if (fresh || it->second.second == entry.content.substr(0, 8)) continue;
      job.progress.report({job.field, "warning",
                           wheels[it->second.first].name + " and " + wheels[i].name +
                               " both bring " + entry.path + "; that of " + wheels[i].name +
                               " is used"});
      return;
    }
  }
}

// Only wheels that lie in one of a few shared folders can meet; most environments have none, and
// their manifests needn't be read.
bool may_overlap(const Job& job, const std::vector<WheelLayer>& wheels) {
  sys::AsRoot root;
  std::set<std::string> seen;
  for (const WheelLayer& w : wheels) {
    auto dir = sys::open_at(AT_FDCWD, job.store.layer_path(w.digest) + "/" + w.site,
                            O_RDONLY | O_DIRECTORY);
    if (!dir.ok()) continue;
    auto names = sys::list_dir(dir->get());
    if (!names.ok()) continue;
    for (const std::string& name : names.value())
      if (!seen.insert(name).second) return true;
  }
  return false;
}

Status add_glue(const Job& job, const std::vector<WheelLayer>& wheels, Made& made) {
  std::set<std::string> requested;
  for (const Requirement& r : job.requirements)
    if (!r.name.empty()) requested.insert(r.name);
  store::Staging staging = TRY(job.store.stage());
  store::Manifest manifest;
  bool any = TRY(write_glue(wheels, requested, job.python, job.store, staging.tree(), manifest));
  if (!any) return {};
  store::Digest digest =
      TRY(publish_layer(job, std::move(staging), manifest,
                        {.kind = "glue", .name = "scripts of " + job.key.hex.substr(0, 12)}, made));
  auto& layers = made.mounts[0].layers;
  layers.insert(layers.begin(), digest);
  return {};
}

Status read_metadata(const Job& job, const std::vector<WheelLayer>& wheels, Made& made) {
  sys::AsRoot root;
  for (const WheelLayer& w : wheels) {
    std::string path =
        job.store.layer_path(w.digest) + "/" + w.site + "/" + w.dist_info + "/METADATA";
    made.packages.push_back({w.name, w.version, TRY(sys::read_file(path))});
  }
  return {};
}

// Complete bytecode of layers that other environments have had before.
Status add_known_bytecode(const Job& job, Made& made) {
  size_t complete = 0;
  for (const store::Digest& layer : made.compile)
    complete += TRY(find_bytecode(layer, job.python, job.store, made.bytecode, made.leases));
  made.bytecode_complete = complete == made.compile.size();
  return {};
}

Result<Made> compose_resolved(const Job& job, const Resolution& resolution, EarlyWheels& early) {
  std::vector<NewDistribution> added = coming_in(resolution);
  std::vector<Conflict> conflicts =
      TRY(refuse_conflicts(added, job.requirements, job.uv, job.python, job.context, job.field));
  std::vector<Distribution> removed = TRY(replaced_by(added, job.python, job.store));
  Masks masks = TRY(masks_for(removed, job.python));
  Made made;
  made.way = "compose";
  made.conflicts = std::move(conflicts);
  std::vector<WheelLayer> wheels = TRY(wheel_layers(job, resolution.wheels, early, made));
  if (may_overlap(job, wheels)) warn_of_overlaps(job, wheels);
  made.mounts.push_back({job.python.mount(), {}});
  for (auto wheel = wheels.rbegin(); wheel != wheels.rend(); ++wheel)  // the last on top
    made.mounts[0].layers.push_back(wheel->digest);
  made.compile = made.mounts[0].layers;
  job.progress.report({job.field, "publish", ""});
  TRY(add_glue(job, wheels, made));
  TRY(add_masks(job, masks, made));
  TRY(read_metadata(job, wheels, made));
  TRY(add_known_bytecode(job, made));
  return made;
}

}  // namespace

Result<std::vector<Distribution>> replaced_by(const std::vector<NewDistribution>& added,
                                              const Interpreter& python,
                                              const store::Store& store) {
  std::vector<Distribution> all = TRY(distributions_of(python, store));
  std::erase_if(all, [&](const Distribution& d) {
    return std::none_of(added.begin(), added.end(),
                        [&](const NewDistribution& n) { return n.name == d.normalized; });
  });
  return all;
}

Result<store::Digest> publish_layer(const Job& job, store::Staging staging,
                                    store::Manifest& manifest, const store::LayerInfo& info,
                                    Made& made) {
  TRY(manifest.finish());
  store::Lease lease = TRY(job.store.publish(std::move(staging), manifest, info));
  store::Digest digest = lease.digest;
  made.leases.push_back(std::move(lease));
  return digest;
}

Status add_masks(const Job& job, const Masks& masks, Made& made) {
  for (const std::string& target : job.python.mounts) {
    auto paths = masks.find(target);
    if (paths == masks.end() || paths->second.empty()) continue;
    store::Staging staging = TRY(job.store.stage());
    store::Manifest manifest;
    TRY(write_mask(paths->second, staging.tree(), manifest));
    store::Digest digest =
        TRY(publish_layer(job, std::move(staging), manifest,
                          {.kind = "mask", .name = "what is replaced in " + target}, made));
    auto mount = std::find_if(made.mounts.begin(), made.mounts.end(),
                              [&](const Made::Mount& m) { return m.target == target; });
    if (mount == made.mounts.end())
      made.mounts.push_back({target, {digest}});
    else
      mount->layers.push_back(digest);
  }
  return {};
}

store::Record to_record(const Job& job, const Made& made) {
  store::Record record{"pip", "", {}, ""};
  auto index_of = [&](const store::Digest& digest) {
    auto it = std::find(record.layers.begin(), record.layers.end(), digest);
    if (it == record.layers.end()) it = record.layers.insert(record.layers.end(), digest);
    return size_t(it - record.layers.begin());
  };
  json mounts = json::array(), compile = json::array(), packages = json::array();
  json breaks = json::array();
  for (const Made::Mount& mount : made.mounts) {
    if (mount.layers.empty()) continue;
    json layers = json::array();
    for (const store::Digest& digest : mount.layers) layers.push_back(index_of(digest));
    mounts.push_back({{"target", mount.target}, {"layers", layers}});
  }
  for (const store::Digest& digest : made.compile) compile.push_back(digest.hex);
  for (const NewDistribution& p : made.packages) {
    packages.push_back({p.name, p.version});
    if (record.name.size() < 120)
      record.name += (record.name.empty() ? "" : ", ") + p.name + " " + p.version;
  }
  for (const Conflict& c : made.conflicts) {
    if (breaks.size() == kMostBroken) break;
    breaks.push_back(describe_conflict(c, made.packages, job.requirements));
  }
  record.data = json({{"way", made.way},
                      {"python", job.python.executable},
                      {"magic", job.python.magic},
                      {"mounts", mounts},
                      {"compile", compile},
                      {"bytecode", made.compile.empty()},
                      {"packages", packages},
                      {"breaks", breaks}})
                    .dump();
  return record;
}

Result<std::optional<Made>> compose(const Job& job) {
  std::string why_not = obstacle(job);
  if (!why_not.empty()) {
    job.progress.report({job.field, "resolve", "not by wheels alone: " + why_not});
    return std::optional<Made>{};
  }
  EarlyWheels early(job);
  Uv::Meanwhile meanwhile = early.meanwhile();
  auto resolution =
      TRY(resolve(job.requirements, job.uv, job.key, job.store, job.progress, &meanwhile));
  if (!resolution || resolution->wheels.size() > kMostWheels) return std::optional<Made>{};
  auto made = compose_resolved(job, *resolution, early);
  if (made.ok()) return std::optional<Made>{std::move(made.value())};
  if (!is_unusual(made.error())) return std::move(made.error());
  job.progress.report({job.field, "resolve", "not by wheels alone: " + made.error().message()});
  return std::optional<Made>{};
}

}  // namespace rtlaunch::installers
