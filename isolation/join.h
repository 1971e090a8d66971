// A command inside a sandbox that runs already: a look around, for debugging. Its parent, which
// stays outside of the sandbox's pid namespace and has its rights, can't be seen from within; it
// reaps the command, serves its line, and takes it along when it is killed. What the command leaves
// behind ends with the sandbox (and with the cgroup, where the spawner has one for it).
#pragma once

#include "isolation/launch.h"

namespace rtlaunch::isolation {

// Of the Spec count argv, env, cwd, stdio, user, keep_caps and the line (must be there).
[[noreturn]] void run_join(int socket, int target, const Prepare& prepare, StepClock clock);

}  // namespace rtlaunch::isolation
