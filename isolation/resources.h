// Resource limits (rlimits) that a policy sets for a worker. Rests on prlimit(2).
#pragma once

#include <vector>

#include "isolation/controls.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// Of the calling process, read back. Where ours is stricter already it stays.
Status take_resources(const std::vector<Resource>& resources);

}  // namespace rtlaunch::isolation
