#include "isolation/sys/caller.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "isolation/sys/process.h"

namespace rtlaunch::sys {
namespace {

std::optional<Caller> acting;  // written once, before there are threads
int death_signal = 0;          // of the main thread, from whoever started us
pid_t parent = 0;
thread_local int depth = 0;  // of AsRoots

Error not_a_caller(const std::string& text) {
  return make_error("caller", text, "is not UID:GID:GROUPS", "it is given by rtlaunchd");
}

// A number at the front of `text`, taken off.
bool take_id(std::string_view& text, uint32_t& id) {
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (code != std::errc() || id == uint32_t(-1)) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

bool take_colon(std::string_view& text) {
  if (!text.starts_with(':')) return false;
  text.remove_prefix(1);
  return true;
}

// The kernel has just forgotten it. Who died in between is noticed here.
void restore_death_signal() {
  if (death_signal == 0 || ::gettid() != ::getpid()) return;
  ::prctl(PR_SET_PDEATHSIG, death_signal);
  if (::getppid() != parent) ::_exit(125);
}

void switch_to(uid_t uid, gid_t gid) {
  if (!set_file_ids(uid, gid).ok()) std::abort();
  restore_death_signal();
}

struct Capabilities {
  struct __user_cap_data_struct half[2] = {};
};

Result<Capabilities> capabilities() {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  Capabilities held;
  if (::syscall(SYS_capget, &header, held.half) != 0) return sys_error("capget", "");
  return held;
}

// With it the links of /proc (another's root, cwd, exe) lead a path into another's namespace, where
// what a mount hides from the caller is open to him. Before the ids: this sets what they take away.
Status forgo_ptrace() {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  Capabilities held = TRY(capabilities());
  held.half[0].permitted &= ~(1u << CAP_SYS_PTRACE);
  held.half[0].effective &= ~(1u << CAP_SYS_PTRACE);
  if (::syscall(SYS_capset, &header, held.half) != 0) return sys_error("capset", "");
  return {};
}

// Securebits could have kept them (capabilities(7)).
Status check_rights() {
  constexpr uint32_t kOverFiles = 1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE |
                                  1u << CAP_DAC_READ_SEARCH | 1u << CAP_FOWNER | 1u << CAP_FSETID;
  Capabilities held = TRY(capabilities());
  if ((held.half[0].effective & (kOverFiles | 1u << CAP_SYS_PTRACE)) == 0) return {};
  return Error{"caller",
               EPERM,
               "capabilities over files",
               "are still held",
               "start rtlaunchd without securebits",
               125};
}

}  // namespace

Result<Caller> parse_caller(const std::string& text) {
  Caller caller;
  std::string_view rest = text;
  if (!take_id(rest, caller.uid) || !take_colon(rest) || !take_id(rest, caller.gid) ||
      !take_colon(rest)) {
    return not_a_caller(text);
  }
  while (!rest.empty()) {
    gid_t group = 0;
    if (!take_id(rest, group)) return not_a_caller(text);
    caller.groups.push_back(group);
    if (rest.empty()) break;
    if (!rest.starts_with(',') || rest.size() == 1) return not_a_caller(text);
    rest.remove_prefix(1);
  }
  return caller;
}

Status act_for(const Caller& caller) {
  if (::geteuid() != 0) {
    return Error{"caller",
                 EPERM,
                 std::to_string(caller.uid),
                 "only root can act for others",
                 "it is started by rtlaunchd",
                 125};
  }
  ::prctl(PR_GET_PDEATHSIG, &death_signal);
  parent = ::getppid();
  TRY(set_groups(caller.groups));
  if (caller.uid == 0) return {};
  TRY(forgo_ptrace());
  acting = caller;
  TRY(set_file_ids(caller.uid, caller.gid));
  restore_death_signal();
  return check_rights();
}

const Caller* acting_for() { return acting ? &*acting : nullptr; }

AsRoot::AsRoot() : outermost_(acting && depth++ == 0) {
  if (outermost_) switch_to(0, 0);
}

AsRoot::~AsRoot() {
  if (!acting) return;
  --depth;
  int code = errno;
  if (outermost_) switch_to(acting->uid, acting->gid);
  errno = code;
}

int become_caller_after_fork() {
  if (!acting) return 0;
  if (!set_ids(acting->uid, acting->gid, acting->groups).ok()) return -1;
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

}  // namespace rtlaunch::sys
