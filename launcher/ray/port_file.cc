#include "launcher/ray/port_file.h"

#include <fcntl.h>

#include "isolation/sys/files.h"

namespace rtlaunch::ray {

Status write_port_file(const std::string& session_dir, const std::string& node_id, uint16_t port) {
  UniqueFd dir = TRY(sys::open_at(AT_FDCWD, session_dir, O_RDONLY | O_DIRECTORY));
  return sys::replace_file_at(dir.get(), "runtime_env_agent_port_" + node_id, std::to_string(port));
}

}  // namespace rtlaunch::ray
