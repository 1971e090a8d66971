#include "isolation/userns.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <set>
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

constexpr char kOurs[] = "/proc/self/ns/user";

// Our own namespace is ours to open; whoever acts for a caller may not reach into another process.
// Nor do they know it by the number that it has in here. However our parent ends: it may have done
// so before we could ask to die with it.
[[noreturn]] void hold_until_end(int socket) {
  auto self = sys::open_at(AT_FDCWD, "/proc/self", O_PATH | O_DIRECTORY);
  auto map = sys::open_at(AT_FDCWD, kOurs, O_RDONLY);
  for (const auto* one : {&self, &map})
    if (!*one || !send_line(socket, LineMessage::kStarted, 0, (*one)->get()).ok()) ::_exit(1);
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

// As the kernel takes them: "INSIDE OUTSIDE COUNT" lines.
struct IdMaps {
  std::string users, groups;
};

Result<UniqueFd> receive_one(int line, const char* name) {
  UniqueFd one;
  (void)TRY(receive_line(line, &one));
  if (one.valid()) return one;
  return Error{"user namespace", EPERM, name, "", "", 125};
}

Result<UniqueFd> mapped_by(int line, const IdMaps& maps) {
  UniqueFd process = TRY(receive_one(line, "/proc/self"));
  UniqueFd made = TRY(receive_one(line, kOurs));
  TRY(write_proc(process.get(), "uid_map", maps.users));
  TRY(write_proc(process.get(), "gid_map", maps.groups));
  return made;
}

Result<UniqueFd> make_namespace(const IdMaps& maps) {
  auto [ours, theirs] = TRY(make_line());
  sys::Cloned holder = TRY(sys::clone_process({.namespaces = CLONE_NEWUSER}));
  if (holder.pid == 0) hold_until_end(theirs.get());
  theirs.reset();
  Result<UniqueFd> made = mapped_by(ours.get(), maps);
  (void)sys::send_signal(holder.pidfd.get(), SIGKILL).ok();
  (void)sys::wait_for(holder.pidfd.get()).ok();
  return made;
}

Result<struct stat> looked_at(int fd) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return sys_error("user namespace", kOurs);
  return info;
}

}  // namespace

Result<UniqueFd> make_id_map(uid_t uid, gid_t gid) {
  return make_namespace({"0 " + std::to_string(uid) + " 1\n", "0 " + std::to_string(gid) + " 1\n"});
}

Result<UniqueFd> make_worker_namespace(const User& user) {
  std::set<gid_t> groups(user.groups.begin(), user.groups.end());
  groups.insert(user.gid);
  std::string lines;
  for (gid_t group : groups) lines += identity(group);
  return make_namespace({identity(user.uid), lines});
}

Status enter_worker_namespace(int user_namespace) {
  if (::setns(user_namespace, CLONE_NEWUSER) != 0) return sys_error("user namespace", kOurs);
  UniqueFd now = TRY(sys::open_at(AT_FDCWD, kOurs, O_RDONLY));
  struct stat wanted = TRY(looked_at(user_namespace)), is = TRY(looked_at(now.get()));
  if (wanted.st_ino == is.st_ino && wanted.st_dev == is.st_dev) return {};
  return make_error("user namespace", kOurs, "it is another than the one that was entered");
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
