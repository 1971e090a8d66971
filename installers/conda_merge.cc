#include "installers/conda_merge.h"

#include <fcntl.h>
#include <unistd.h>

#include <map>

#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using store::Entry;
using Type = Entry::Type;

// Below 500, with what scripts wrote, and pip on top of it, and its bytecode.
constexpr size_t kMostStacked = 480;
constexpr uint64_t kMostManifest = uint64_t{256} << 20;

struct Part {
  Entry entry;
  size_t layer = 0;
};

class Merging {
 public:
  Merging(const std::vector<store::Digest>& layers, store::Store& store)
      : layers_(layers), store_(store) {}

  Result<store::Lease> run() {
    for (size_t i = 0; i < layers_.size(); ++i) TRY(read(i));
    store::Staging staging = TRY(store_.stage());
    store::Manifest manifest;
    for (const auto& [path, part] : parts_) {
      if (!path.empty()) TRY(make(staging.tree(), part));
      manifest.add(part.entry);
    }
    TRY(manifest.finish());
    std::string name = std::to_string(layers_.size()) + " conda packages";
    return store_.publish(std::move(staging), manifest, {.kind = "conda", .name = name});
  }

 private:
  Status read(size_t i) {
    std::string path = store_.layer_path(layers_[i]);
    std::string text = TRY(sys::read_file(path + "/../manifest", kMostManifest));
    store::Manifest manifest = TRY(store::Manifest::parse(text));
    for (const Entry& entry : manifest.entries()) put(entry, i);
    trees_.push_back(TRY(sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY)));
    return {};
  }

  // A folder joins the one below it; all else hides what is there, and what lies in it.
  void put(const Entry& entry, size_t layer) {
    auto found = parts_.find(entry.path);
    bool both = found != parts_.end() && found->second.entry.type == Type::kDirectory &&
                entry.type == Type::kDirectory;
    if (found != parts_.end() && !both) {
      auto end = found;
      while (end != parts_.end() && end->first.starts_with(entry.path)) {
        auto next = std::next(end);
        if (sys::is_beneath(end->first, entry.path)) parts_.erase(end);
        end = next;
      }
    }
    parts_[entry.path] = {entry, layer};
  }

  Status make(int tree, const Part& part) {
    const std::string& path = part.entry.path;
    if (part.entry.type == Type::kDirectory) {
      if (::mkdirat(tree, path.c_str(), 0755) != 0) return sys_error("mkdir", path);
      return {};
    }
    int from = trees_[part.layer].get();
    std::string above = sys::parent_of(path), leaf = sys::leaf_of(path);
    UniqueFd parent =
        TRY(sys::open_beneath(tree, above.empty() ? "." : above, O_PATH | O_DIRECTORY));
    if (::linkat(from, path.c_str(), parent.get(), leaf.c_str(), 0) == 0) return {};
    return sys_error("link", path);
  }

  const std::vector<store::Digest>& layers_;
  store::Store& store_;
  std::map<std::string, Part> parts_;
  std::vector<UniqueFd> trees_;
};

}  // namespace

size_t conda_layers_to_merge(const std::vector<CondaLayer>& layers) {
  size_t stacked = layers.size(), merged = 0;
  for (const CondaLayer& layer : layers) stacked += layer.modules ? 1 : 0;
  if (stacked <= kMostStacked) return 0;
  stacked += 2;  // the merged one and its bytecode
  while (merged < layers.size() && stacked > kMostStacked)
    stacked -= layers[merged++].modules ? 2 : 1;
  return merged;
}

Result<store::Lease> merged_layer(const std::vector<store::Digest>& layers, store::Store& store) {
  store::Hasher hash;
  hash.field("merged layers 1");
  for (const store::Digest& layer : layers) hash.field(layer.hex);
  store::Key key{hash.hex()};
  UniqueFd lock = TRY(store.lock(key));
  auto known = TRY(store.lookup(key));
  if (known && known->layers.size() == 1) {
    auto lease = TRY(store.acquire(known->layers[0]));
    if (lease) return std::move(*lease);
  }
  sys::AsRoot root;
  store::Lease lease = TRY(Merging(layers, store).run());
  TRY(store.record(key, {"conda-merged", "merged conda packages", {lease.digest}}));
  return lease;
}

}  // namespace rtlaunch::installers
