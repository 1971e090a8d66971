// Work that nobody waits for: lowest CPU priority and idle I/O class for the calling thread and
// what it starts. Best effort: a system without I/O classes still runs it.
//
// Rests on setpriority(2), ioprio_set(2).
#pragma once

namespace rtlaunch::sys {

// As ioprio_set(2) has them: not all of Debian 12's <linux/ioprio.h> are C++.
inline constexpr int kIoOfProcess = 1;        // IOPRIO_WHO_PROCESS
inline constexpr int kIdleIoClass = 3 << 13;  // IOPRIO_CLASS_IDLE

void step_back();

}  // namespace rtlaunch::sys
