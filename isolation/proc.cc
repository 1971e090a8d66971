#include "isolation/proc.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace rtlaunch::isolation {
namespace {

constexpr const char* kMaskedFiles[] = {"kcore",         "keys", "timer_list",   "sched_debug",
                                        "sysrq-trigger", "kmsg", "latency_stats"};
constexpr const char* kMaskedFolders[] = {"acpi", "scsi"};
constexpr const char* kReadOnlyFolders[] = {"bus", "fs", "irq", "sys"};

bool exists(int dir, const char* name) {
  return ::faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

Status cover(int proc, const char* name, int source, const char* source_name) {
  sys::Mount mount = TRY(sys::clone_mount(source, source_name, false));
  TRY(sys::set_mount_attributes(mount.fd(), "", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, false));
  return mount.attach(proc, name);
}

}  // namespace

Status add_proc(bool rootless, Tree* tree) {
  sys::FsContext context = TRY(sys::FsContext::open("proc"));
  Result<sys::Mount> mount = context.mount(sys::kSafe | MOUNT_ATTR_NOEXEC);
  if (!mount && mount.error().code == EPERM && rootless) {
    mount.error().reason = "this host's own /proc is partly hidden, so a new one is refused";
    mount.error().cure = "run it as root, or in a container with an unmasked /proc "
                         "(podman/docker: --security-opt systempaths=unconfined)";
  }
  if (!mount) return mount.error();
  tree->add("/proc", std::move(mount.value()), true);
  return {};
}

Status mask_proc(int proc, const Devices& devices, const Vault& vault) {
  if (::mkdirat(vault.fd(), "empty", 0555) != 0) return sys_error("mkdir", "empty");
  for (const char* name : kMaskedFiles) {
    if (exists(proc, name)) TRY(cover(proc, name, devices.null().fd(), ""));
  }
  for (const char* name : kMaskedFolders) {
    if (exists(proc, name)) TRY(cover(proc, name, vault.fd(), "empty"));
  }
  for (const char* name : kReadOnlyFolders) {
    if (exists(proc, name)) TRY(cover(proc, name, proc, name));
  }
  return {};
}

}  // namespace rtlaunch::isolation
