// A command in no sandbox at all: a copy of the launcher (Spec::goes_on) with the launcher's own
// namespaces and rights, for who would otherwise have exec'ed it. Its parent ties it to its line,
// both ways, as pid 1 of a sandbox does.
#pragma once

#include "isolation/launch.h"
#include "isolation/setup.h"

namespace rtlaunch::isolation {

// Of the Spec count argv, env, cwd, stdio, limits, goes_on and the line (must be there).
[[noreturn]] void run_bare(Setup& setup, const Prepare& prepare);

}  // namespace rtlaunch::isolation
