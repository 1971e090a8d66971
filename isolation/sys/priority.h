// Work that nobody waits for: lowest CPU priority and idle I/O class for the calling thread and
// what it starts. Best effort: a system without I/O classes still runs it.
//
// Rests on setpriority(2), ioprio_set(2).
#pragma once

namespace rtlaunch::sys {

void step_back();

}  // namespace rtlaunch::sys
