#include "isolation/proc.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <string_view>

#include "isolation/sys/files.h"

namespace rtlaunch::isolation {
namespace {

constexpr const char* kMaskedFiles[] = {"kcore",         "keys", "timer_list",   "sched_debug",
                                        "sysrq-trigger", "kmsg", "latency_stats"};
constexpr const char* kMaskedFolders[] = {"acpi", "scsi"};
constexpr const char* kReadOnlyFolders[] = {"bus", "fs", "irq", "sys"};

bool exists(int dir, const char* name) {
  return ::faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

Status make_read_only(const sys::Mount& mount) {
  return sys::set_mount_attributes(mount.fd(), "", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, false);
}

// `cover`, then copies of it (which keep its flags), over each of `names` that this kernel has.
Status cover_all(int proc, const char* const* names, size_t count, const sys::Mount& cover) {
  TRY(make_read_only(cover));
  bool attached = false;  // only then can it be copied, before Linux 6.15
  for (size_t i = 0; i < count; ++i) {
    if (!exists(proc, names[i])) continue;
    if (attached) {
      sys::Mount copy = TRY(sys::clone_mount(cover.fd(), "", false));
      TRY(copy.attach(proc, names[i]));
    } else {
      TRY(cover.attach(proc, names[i]));
      attached = true;
    }
  }
  return {};
}

Status cover_by_itself(int proc, const char* name) {
  if (!exists(proc, name)) return {};
  sys::Mount mount = TRY(sys::clone_mount(proc, name, false));
  TRY(make_read_only(mount));
  return mount.attach(proc, name);
}

Status mask_all(int proc, const sys::Mount& nothing, const sys::Mount& vault) {
  if (::mkdirat(vault.fd(), "empty", 0555) != 0 && errno != EEXIST) {
    return sys_error("mkdir", "empty");
  }
  sys::Mount empty = TRY(sys::clone_mount(vault.fd(), "empty", false));
  TRY(cover_all(proc, kMaskedFiles, std::size(kMaskedFiles), nothing));
  TRY(cover_all(proc, kMaskedFolders, std::size(kMaskedFolders), empty));
  for (const char* name : kReadOnlyFolders) TRY(cover_by_itself(proc, name));
  return {};
}

}  // namespace

void mask_ahead(const Devices& devices, Spares* spares) {
  const sys::Mount& proc = spares->peek(Spares::kProc);
  const sys::Mount& vault = spares->peek(Spares::kVault);
  if (!proc.valid() || !vault.valid()) return;
  Result<sys::Mount> nothing = sys::clone_mount(devices.null().fd(), "", false);
  spares->proc_is_masked = nothing && mask_all(proc.fd(), *nothing, vault).ok();
}

Result<bool> host_masks_proc(Spares* spares) {
  if (!spares->mounts) spares->mounts = TRY(sys::MountTable::open());
  for (const std::string& point : spares->mounts->below("/proc")) {
    std::string name = point.substr(6);
    auto is = [&](const char* other) { return name == other; };
    if (std::any_of(std::begin(kMaskedFiles), std::end(kMaskedFiles), is)) return true;
    if (std::any_of(std::begin(kReadOnlyFolders), std::end(kReadOnlyFolders), is)) return true;
  }
  return false;
}

Status add_proc(bool rootless, Spares* spares, Tree* tree) {
  Result<sys::Mount> mount = spares->take(Spares::kProc);
  if (!mount && mount.error().code == EPERM && rootless) {
    mount.error().reason = "this host's own /proc is partly hidden, so a new one is refused";
    mount.error().cure =
        "run it as root, or in a container with an unmasked /proc "
        "(podman/docker: --security-opt systempaths=unconfined)";
  }
  if (!mount) return mount.error();
  tree->add(Tree::Kind::kPrivate, "/proc", std::move(mount.value()));
  return {};
}

// Until Linux 5.8 it was the pid namespace's option, and shown as a number.
Status hide_others_processes(int proc) {
  TRY(sys::change_option(proc, "hidepid", "invisible"));
  std::string table = TRY(sys::read_file("/proc/self/mountinfo"));
  for (size_t at = table.find(" /proc "); at != std::string::npos; at = table.find(" /proc ", at)) {
    size_t end = table.find('\n', at);
    std::string_view line = std::string_view(table).substr(at, end - at);
    if (line.find("hidepid=invisible") != std::string_view::npos) return {};
    at = end == std::string::npos ? table.size() : end;
  }
  return make_error("hidepid", "/proc", "it is off after having been turned on");
}

Status mask_proc(int proc, sys::Mount nothing, const Vault& vault) {
  return mask_all(proc, nothing, vault.mount());
}

}  // namespace rtlaunch::isolation
