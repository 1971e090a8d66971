// The sandbox's first process after the setup: reaps orphans, passes signals on, and holds the
// leases. It keeps no capability it doesn't need, can't be traced by its peers, has no stdio (a
// reader of the command's pipe sees its end), and blocks every signal, so that the terminal's
// Ctrl-C and Ctrl-Z are the command's alone. It ends with the command, of which it leaves nothing,
// or with the launcher, and the kernel then kills whatever is left in its namespace
// (pid_namespaces(7)).
#pragma once

#include <sys/types.h>

#include <vector>

#include "isolation/cgroup_limits.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// Before the worker exists: so it can never see us unguarded.
Status guard_pid1();

// After the exec: gives up what was needed to set up, and all descriptors but `keep`. A supervised
// one no longer depends on its parent.
Status shed_privileges(bool worker_is_another_user, bool supervised, const std::vector<int>& keep);

// A mount namespace, by a descriptor that will be the last to hold it: once all else of ours is
// closed the kernel takes it down when it has time, and nobody waits. Nothing is lost where that
// fails.
void leave_to_the_kernel(int mounts);

// Serves the launcher: `socket` is our end of the report pair, `children` a signalfd for SIGCHLD,
// `limits` what the command may have met when it ends. `quick`: it ends before its mounts are gone,
// which the kernel then takes down by itself, within milliseconds.
[[noreturn]] void serve(int socket, int children, const LimitWatch& limits, pid_t worker,
                        bool quick);

// Serves the line, and nobody else.
struct Supervised {
  int children;     // signalfd
  int line;         // line.h
  int record = -1;  // gets {"status","ended"} appended
  int socket = -1;  // gets report_ended()
  const LimitWatch* limits = nullptr;
};
[[noreturn]] void serve_line(const Supervised& with, pid_t worker);

}  // namespace rtlaunch::isolation
