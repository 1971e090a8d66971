// Clocks that begin with the worker: neither the host's uptime nor its boot time can be read.
// Rests on time_namespaces(7) and setns(2), which wants a process that shares its memory with none.
#pragma once

#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// From here on CLOCK_MONOTONIC and CLOCK_BOOTTIME begin at zero. Read back.
Status take_new_clocks();

}  // namespace rtlaunch::isolation
