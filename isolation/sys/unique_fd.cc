#include "isolation/sys/unique_fd.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace rtlaunch {

void UniqueFd::reset(int fd) {
  int old = std::exchange(fd_, fd);
  if (old < 0) return;
  int saved = errno;
  if (::close(old) != 0 && errno == EBADF) std::abort();
  errno = saved;
}

}  // namespace rtlaunch
