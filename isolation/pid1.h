// The sandbox's first process after the setup: reaps orphans, passes signals on, and holds the
// leases. It keeps no capability it doesn't need, can't be traced by its peers, has no stdio (a
// reader of the command's pipe sees its end), and blocks every signal, so that the terminal's
// Ctrl-C and Ctrl-Z are the command's alone. It ends with the command or with the launcher, and the
// kernel then kills whatever is left in its namespace (pid_namespaces(7)).
#pragma once

#include <sys/types.h>

#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// Before the worker exists: so it can never see us unguarded.
Status guard_pid1();

// After the exec: gives up what was needed to set up, then serves. `socket` is its end of the
// report pair, `children` a signalfd for SIGCHLD.
Status shed_privileges(bool worker_is_another_user, int socket, int children,
                       const std::vector<int>& leases);
[[noreturn]] void serve(int socket, int children, pid_t worker);

}  // namespace rtlaunch::isolation
