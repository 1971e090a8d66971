// What the command may do. A caller that isn't root gets nothing at all: five empty sets,
// securebits locked, no_new_privs. Root with keep_caps gets kKeptByRoot, so that package managers
// and servers that change their user work: what Docker gives, less mknod, net_raw and audit_write.
#pragma once

#include <cstdint>
#include <optional>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot,
// setfcap: their bits.
extern const uint64_t kKeptByRoot;

struct Privileges {
  std::optional<User> user;  // change to this one
  uint64_t keep = 0;         // capabilities that stay
  bool shrunk = false;       // shrink_bounding_set() was here: saves looking for what is gone
};

// The worker's way down; afterwards reads everything back. Raw system calls only.
Status drop_privileges(const Privileges& to);

// While nobody waits yet: out of the bounding set with all that no worker keeps. What this process
// itself may do stays the same.
Status shrink_bounding_set();

// pid 1's: it keeps what it needs to signal the worker, nothing else.
Status drop_to_reaper(bool worker_is_another_user);

}  // namespace rtlaunch::isolation
