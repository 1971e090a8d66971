// What of the host's /sys is nobody's business in a worker: firmware and its variables, kernel
// debugging and tracing, other subsystems' control files, power meters (which tell other processes'
// secrets). CPUs, NUMA nodes, devices and cgroups stay: numerical programs read them.
#pragma once

#include <string>
#include <vector>

#include "isolation/spares.h"

namespace rtlaunch::isolation {

// Those directories that this host has; to be covered by empty ones.
std::vector<std::string> masked_in_sys();

// All of the host's /sys in one piece, covered, read-only and private, while nobody waits. Mounts
// can be put on one that isn't attached itself since Linux 6.15; elsewhere there is none.
void mask_sys_ahead(Spares* spares);

}  // namespace rtlaunch::isolation
