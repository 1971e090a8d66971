#include "isolation/sysfs.h"

#include <unistd.h>

namespace rtlaunch::isolation {

std::vector<std::string> masked_in_sys() {
  constexpr const char* kMasked[] = {"/sys/firmware",
                                     "/sys/kernel/config",
                                     "/sys/kernel/debug",
                                     "/sys/kernel/security",
                                     "/sys/kernel/tracing",
                                     "/sys/kernel/livepatch",
                                     "/sys/fs/bpf",
                                     "/sys/fs/pstore",
                                     "/sys/fs/selinux",
                                     "/sys/fs/resctrl",
                                     "/sys/devices/virtual/powercap"};
  std::vector<std::string> found;
  for (const char* path : kMasked) {
    if (::access(path, F_OK) == 0) found.push_back(path);
  }
  return found;
}

}  // namespace rtlaunch::isolation
