// Clocks that begin with the worker: neither the host's uptime nor its boot time can be read.
// Rests on time_namespaces(7) and on execve(2) entering one that was made since fork (Linux 6.1).
#pragma once

#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// From the next exec on, CLOCK_MONOTONIC and CLOCK_BOOTTIME begin at zero. Read back.
Status take_new_clocks();

}  // namespace rtlaunch::isolation
