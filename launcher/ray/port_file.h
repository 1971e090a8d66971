// The file that tells a raylet where its agent listens. The raylet looks for it every 50 ms, for
// 15 s at most, and takes the node down without it.
#pragma once

#include <cstdint>
#include <string>

#include "isolation/sys/result.h"

namespace rtlaunch::ray {

// <session>/runtime_env_agent_port_<node id>, as a whole or not at all. Listen first.
Status write_port_file(const std::string& session_dir, const std::string& node_id, uint16_t port);

}  // namespace rtlaunch::ray
