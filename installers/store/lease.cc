// Problem: a layer must stay while anything is mounted from it, whoever is killed, and go when
// nothing is. Counters drift, and mounts in other namespaces can't be seen. Choice: a shared flock
// on a file, inherited by the sandbox's pid 1. Whoever collects needs it exclusively, and unlinks
// the file while holding it; so after waiting, a file without a name means that the layer was
// collected meanwhile.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "installers/store/internal.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

// On a read-only file system the file may be missing and can't be made. The directory of the layer
// does as well: a collector that sees the store writable asks for both.
Result<std::optional<Lease>> lease_on_directory(int store, const Digest& digest) {
  std::string name = layer_dir(digest);
  auto dir = sys::open_at(store, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!dir && dir.error().code == ENOENT) return std::optional<Lease>();
  if (!dir) return dir.error();
  TRY(sys::lock_file(dir->get(), sys::Lock::kShared, name));
  struct stat held = TRY(sys::stat_fd(dir->get(), name));
  auto now = sys::stat_at(store, name);
  if (!now || now->st_ino != held.st_ino) return std::optional<Lease>();
  return std::optional<Lease>(Lease{digest, std::move(*dir)});
}

}  // namespace

Result<std::optional<Lease>> Store::take(const Digest& digest, bool touch) const {
  if (!is_hex64(digest.hex)) return make_error("lease", digest.hex, "is not a digest");
  std::string name = lease_name(digest);
  while (true) {
    auto fd = sys::open_at(dir_.get(), name, O_RDONLY | O_NOFOLLOW);
    if (!fd && fd.error().code == ENOENT) {
      if (!sys::exists_at(dir_.get(), layer_dir(digest))) return std::optional<Lease>();
      if (read_only_) return lease_on_directory(dir_.get(), digest);
      fd = sys::open_at(dir_.get(), name, O_RDONLY | O_CREAT | O_NOFOLLOW, 0600);
    }
    if (!fd) return fd.error();
    TRY(sys::lock_file(fd->get(), sys::Lock::kShared, name));
    if (TRY(sys::stat_fd(fd->get(), name)).st_nlink == 0) continue;  // collected while we waited
    if (!sys::exists_at(dir_.get(), layer_dir(digest))) return std::optional<Lease>();
    if (touch && !read_only_) (void)sys::touch(fd->get(), name).ok();
    return std::optional<Lease>(Lease{digest, std::move(*fd)});
  }
}

Result<std::optional<Lease>> Store::acquire(const Digest& digest) const {
  sys::AsRoot root;
  return take(digest, /*touch=*/true);
}

Result<std::optional<std::vector<Lease>>> Store::acquire_all(std::vector<Digest> digests) const {
  sys::AsRoot root;
  std::sort(digests.begin(), digests.end());
  digests.erase(std::unique(digests.begin(), digests.end()), digests.end());
  std::vector<Lease> leases;
  leases.reserve(digests.size());
  for (const Digest& digest : digests) {
    std::optional<Lease> lease = TRY(acquire(digest));
    if (!lease) return std::optional<std::vector<Lease>>();
    leases.push_back(std::move(*lease));
  }
  return std::optional<std::vector<Lease>>(std::move(leases));
}

}  // namespace rtlaunch::store
