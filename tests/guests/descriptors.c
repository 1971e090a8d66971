/* Finds a descriptor above 2. */
#include "guest.h"

#include <fcntl.h>

int main(void) {
  for (int fd = 3; fd < 4096; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) continue;
    printf("descriptor %d is open\n", fd);
    return kEscaped;
  }
  return refused("descriptors above 2");
}
