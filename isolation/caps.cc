#include "isolation/caps.h"

#include <linux/capability.h>

#include "isolation/sys/process.h"

namespace rtlaunch::isolation {
namespace {

constexpr uint64_t bit(int capability) { return uint64_t{1} << capability; }

}  // namespace

constexpr uint64_t kKeptByRoot = bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER) |
                                 bit(CAP_FSETID) | bit(CAP_KILL) | bit(CAP_SETGID) |
                                 bit(CAP_SETUID) | bit(CAP_SETPCAP) | bit(CAP_NET_BIND_SERVICE) |
                                 bit(CAP_SYS_CHROOT) | bit(CAP_SETFCAP);

Status drop_privileges(const Privileges& to) {
  TRY(sys::drop_bounding_set(to.keep, to.shrunk ? ~kKeptByRoot : 0));
  if (to.keep == 0) TRY(sys::lock_securebits());
  if (to.user) TRY(sys::set_ids(to.user->uid, to.user->gid, to.user->groups));
  TRY(sys::set_capabilities(to.keep));
  TRY(sys::set_no_new_privs());
  return sys::check_capabilities(to.keep);
}

Status shrink_bounding_set() { return sys::drop_bounding_set(kKeptByRoot, 0); }

Status drop_to_reaper(bool worker_is_another_user) {
  uint64_t keep = worker_is_another_user ? bit(CAP_KILL) : 0;
  TRY(sys::set_capabilities(keep));
  return sys::set_no_new_privs();
}

}  // namespace rtlaunch::isolation
