#include "isolation/sysfs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "isolation/sys/files.h"

namespace rtlaunch::isolation {

namespace {

constexpr uint64_t kReadOnly = sys::kSafe | MOUNT_ATTR_RDONLY;
constexpr size_t kRootSize = sizeof "/sys/" - 1;

Status cover(const sys::Mount& copy, const std::string& path, int vault) {
  sys::Mount empty = TRY(sys::clone_mount(vault, "sys", false));
  TRY(sys::set_mount_attributes(empty.fd(), "", kReadOnly, false));
  UniqueFd point = TRY(sys::open_beneath(copy.fd(), path.substr(kRootSize), O_PATH));
  return empty.attach(point.get(), "");
}

Result<sys::Mount> masked_copy(int vault) {
  sys::Mount copy = TRY(sys::clone_mount(AT_FDCWD, "/sys", true));
  TRY(sys::make_private(copy.fd()));
  TRY(sys::set_mount_attributes(copy.fd(), "", kReadOnly, true));
  if (::mkdirat(vault, "sys", 0555) != 0) return sys_error("mkdir", "sys");
  for (const std::string& path : masked_in_sys()) TRY(cover(copy, path, vault));
  return copy;
}

}  // namespace

void mask_sys_ahead(Spares* spares) {
  const sys::Mount& vault = spares->peek(Spares::kVault);
  if (!vault.valid()) return;
  Result<sys::Mount> copy = masked_copy(vault.fd());
  if (copy) spares->sys = std::move(*copy);
}

std::vector<std::string> masked_in_sys() {
  constexpr const char* kMasked[] = {"/sys/firmware",
                                     "/sys/kernel/config",
                                     "/sys/kernel/debug",
                                     "/sys/kernel/security",
                                     "/sys/kernel/tracing",
                                     "/sys/kernel/livepatch",
                                     "/sys/fs/bpf",
                                     "/sys/fs/pstore",
                                     "/sys/fs/selinux",
                                     "/sys/fs/resctrl",
                                     "/sys/devices/virtual/powercap"};
  std::vector<std::string> found;
  for (const char* path : kMasked) {
    if (::access(path, F_OK) == 0) found.push_back(path);
  }
  return found;
}

}  // namespace rtlaunch::isolation
