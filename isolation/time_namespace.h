// Clocks that begin with the worker: neither the host's uptime nor its boot time can be read.
// They are made by a process in a user namespace of its own: to set them takes CAP_SYS_TIME over
// that alone, and so nobody has to have it who could set the host's. Entered at once: unshare(2)
// makes them for children, and until Linux 6.2 an exec changes nothing of that, and as long as ours
// are others neither vfork(2) nor a thread is allowed.
//
// Rests on time_namespaces(7) and setns(2), which wants a process that shares its memory with none.
#pragma once

#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// From here on CLOCK_MONOTONIC and CLOCK_BOOTTIME begin at zero. Only for who may be looked into
// (PR_SET_DUMPABLE), or is root.
Status take_new_clocks();

}  // namespace rtlaunch::isolation
