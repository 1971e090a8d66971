// Is every layer still what its name says? And the index anew, when somebody doubts it.
#include <fcntl.h>

#include <cerrno>

#include "installers/store/house.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::store {
namespace {

std::string describe(const Entry& entry) {
  return entry.path.empty() ? "the root directory" : entry.path;
}

// The first entry that differs from the manifest that was written at publish.
std::string first_difference(int store, const Digest& digest, const Manifest& found) {
  auto text = sys::read_file_at(store, layer_dir(digest) + "/manifest", 256 << 20);
  auto written = text ? Manifest::parse(*text) : Result<Manifest>(text.error());
  if (!written || written->digest() != digest) return "tree and manifest are damaged";
  Manifest::Entries was = written->entries(), is = found.entries();
  auto a = was.begin(), b = is.begin();
  for (; a != was.end() && b != is.end(); ++a, ++b) {
    if (*a == *b) continue;
    if (a->path == b->path) return describe(*a) + " has changed";
    return describe(*a) + " is missing, or " + describe(*b) + " is too many";
  }
  if (a != was.end()) return describe(*a) + " is missing";
  return b != is.end() ? describe(*b) + " is too many" : "the manifest does not lead to the digest";
}

// "" when all is well.
std::string damage(int store, const Digest& digest) {
  auto tree = sys::open_at(store, Store::layer_name(digest), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!tree) return tree.error().message();
  auto found = scan_tree(tree->get());
  if (!found) return found.error().message();
  if (found->digest() == digest) return "";
  return first_difference(store, digest, *found);
}

}  // namespace

Result<std::vector<Store::Damage>> Store::verify(
    const std::function<void(const LayerRow&)>& progress) {
  sys::AsRoot root;
  House house(*this);
  std::vector<Damage> damages;
  for (const LayerRow& row : TRY(house.rows())) {
    std::optional<Lease> lease = TRY(take(row.digest, /*touch=*/false));
    if (!lease) continue;  // collected meanwhile
    if (progress) progress(row);
    std::string what = damage(dir_.get(), row.digest);
    if (what.empty()) continue;
    damages.push_back({row.digest, what});
    lease.reset();
    if (!read_only_) TRY(house.evict(row.digest));  // stays while somebody runs from it
  }
  if (damages.empty() || read_only_) return damages;
  TRY(house.drop_orphans());
  TRY(sweep());
  return damages;
}

Status Store::rebuild() {
  sys::AsRoot root;
  TRY(writable("rebuild"));
  UniqueFd lock = TRY(lock_name("locks/index", {}));
  index_.reset();
  auto opened = Index::open(path_, false);
  Status cleared = opened ? (*opened)->clear() : Status(opened.error());
  if (opened) opened->reset();
  if (!cleared.ok()) TRY(remove_index(dir_.get()));
  lock.reset();
  TRY(index());
  return {};
}

}  // namespace rtlaunch::store
