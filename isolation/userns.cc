#include "isolation/userns.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "isolation/line.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch::isolation {
namespace {

Status write_proc(int self, const char* name, const std::string& text) {
  UniqueFd fd = TRY(sys::open_at(self, name, O_WRONLY));
  return sys::write_all(fd.get(), text, std::string("/proc/self/") + name);
}

Status write_maps(int process, uid_t uid, gid_t gid) {
  TRY(write_proc(process, "uid_map", "0 " + std::to_string(uid) + " 1\n"));
  return write_proc(process, "gid_map", "0 " + std::to_string(gid) + " 1\n");
}

// Our own namespace is ours to open; whoever acts for a caller may not reach into another process.
// However our parent ends: it may have done so before we could ask to die with it.
[[noreturn]] void hold_until_end(int socket) {
  auto map = sys::open_at(AT_FDCWD, "/proc/self/ns/user", O_RDONLY);
  if (!map || !send_line(socket, LineMessage::kStarted, 0, map->get()).ok()) ::_exit(1);
  (void)sys::close_all_but(&socket, 1).ok();
  (void)sys::die_with_parent().ok();
  char byte;
  while (::recv(socket, &byte, 1, 0) < 0 && errno == EINTR) {
  }
  ::_exit(0);
}

std::string identity(unsigned id) { return std::to_string(id) + " " + std::to_string(id) + " 1\n"; }

const char* clone_reason(int code, bool rootless) {
  switch (code) {
    case EPERM:
      return rootless ? "this system lets no unprivileged user make namespaces"
                      : "root may not make namespaces here (a container without CAP_SYS_ADMIN?)";
    case ENOSPC:
      return "the limit of namespaces is reached, or set to 0";
    case ENOSYS:
      return "the kernel or a seccomp filter around us has no clone3";
    case EINVAL:
      return "the kernel was built without one of the namespaces";
    default:
      return "";
  }
}

const char* clone_cure(int code, bool rootless) {
  if (code == ENOSPC)
    return "raise /proc/sys/user/max_*_namespaces, or run fewer sandboxes at once";
  if (!rootless) return "run it where CAP_SYS_ADMIN is given, or as a plain user";
  return "run it as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 and "
         "kernel.apparmor_restrict_unprivileged_userns=0, where they exist";
}

}  // namespace

bool is_rootless() { return ::geteuid() != 0; }

uint64_t sandbox_namespaces(bool rootless, bool shared) {
  uint64_t flags = CLONE_NEWNS | CLONE_NEWPID;
  if (!shared) flags |= CLONE_NEWIPC | CLONE_NEWUTS;
  return rootless ? flags | CLONE_NEWUSER : flags;
}

Status map_own_ids(uid_t uid, gid_t gid) {
  UniqueFd self = TRY(sys::open_at(AT_FDCWD, "/proc/self", O_PATH | O_DIRECTORY));
  TRY(write_proc(self.get(), "setgroups", "deny"));
  TRY(write_proc(self.get(), "uid_map", identity(uid)));
  return write_proc(self.get(), "gid_map", identity(gid));
}

namespace {

Result<UniqueFd> receive_map(int line) {
  UniqueFd map;
  (void)TRY(receive_line(line, &map));
  if (map.valid()) return map;
  return Error{"user namespace", EPERM, "/proc/self/ns/user", "", "", 125};
}

}  // namespace

Result<UniqueFd> make_id_map(uid_t uid, gid_t gid) {
  auto [ours, theirs] = TRY(make_line());
  sys::Cloned holder = TRY(sys::clone_process({.namespaces = CLONE_NEWUSER}));
  if (holder.pid == 0) hold_until_end(theirs.get());
  theirs.reset();
  std::string path = "/proc/" + std::to_string(holder.pid);
  Result<UniqueFd> process = sys::open_at(AT_FDCWD, path, O_PATH | O_DIRECTORY);
  Status mapped = process ? write_maps(process->get(), uid, gid) : Status(process.error());
  Result<UniqueFd> map = mapped ? receive_map(ours.get()) : Result<UniqueFd>(mapped.error());
  (void)sys::send_signal(holder.pidfd.get(), SIGKILL).ok();
  (void)sys::wait_for(holder.pidfd.get()).ok();
  return map;
}

Error explain_clone(Error error, bool rootless) {
  error.step = "make namespaces";
  error.reason = clone_reason(error.code, rootless);
  error.cure = clone_cure(error.code, rootless);
  return error;
}

Error explain_setup(Error error, bool rootless) {
  if (!rootless || (error.code != EPERM && error.code != EACCES)) return error;
  if (error.reason.empty()) error.reason = "refused inside our own user namespace";
  if (error.cure.empty()) error.cure = clone_cure(EPERM, rootless);
  return error;
}

}  // namespace rtlaunch::isolation
