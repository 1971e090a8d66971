// What of the host's /sys is nobody's business in a worker: firmware and its variables, kernel
// debugging and tracing, other subsystems' control files, power meters (which tell other processes'
// secrets). CPUs, NUMA nodes, devices and cgroups stay: numerical programs read them.
#pragma once

#include <string>
#include <vector>

namespace rtlaunch::isolation {

// Those directories that this host has; to be covered by empty ones.
std::vector<std::string> masked_in_sys();

}  // namespace rtlaunch::isolation
