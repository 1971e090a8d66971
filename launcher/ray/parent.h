// What a raylet hands its agent, and how the agent hears of its end. A raylet holds the other end
// of our stdin and never writes to it: its end of file is the raylet's. What else it has open (the
// pipe by which it hears of *our* end among it) must reach no child of ours, or it would hear late.
//
// The raylet, its driver and we are one process group of one terminal: Ctrl-C is the driver's, so
// SIGINT stays ignored here; children are started with signals as they are by default.
#pragma once

#include <string>

#include "isolation/sys/result.h"
#include "launcher/server_async.h"

namespace rtlaunch::ray {

// All descriptors from 3 on are close-on-exec; signals; 1 and 2 become the named files ("": stay).
Status settle_in(const std::string& stdout_path, const std::string& stderr_path);

// Shown by ps(1); `ray stop` and Ray's tests look for it. Overwrites argv, which must have been
// copied.
void set_title(int argc, char** argv, const char* title);

// Returns when the parent is gone. `by_stdin`: stdin is the raylet's pipe; else its pid is watched.
awaitable<void> wait_for_parents_end(asio::io_context& io, bool by_stdin);

}  // namespace rtlaunch::ray
