// The system calls that a worker may make, in OCI's words (runtime-spec 1.1.0, linux.seccomp), for
// `rtlaunch policy export`. What those words can't say is let through, and so told beside it:
// ioctl's commands, of which the kernel looks at the low 32 bits alone, and, where there is no list
// of calls, those that are refused by their arguments.
#pragma once

#include "config/json.h"
#include "isolation/controls.h"

namespace rtlaunch {

config::Json oci_filter(const isolation::FilterRules& rules);

}  // namespace rtlaunch
