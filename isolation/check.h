// What a Spec must be before anything is done with it: a command, absolute paths without `..`, no
// mount over `/`, /dev or /proc (nor are those hidden). Returns it with every path as mountinfo
// would write it (no `//`,
// `.`, `/` at the end).
#pragma once

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

Result<Spec> checked(Spec spec);

}  // namespace rtlaunch::isolation
