/* Opens a pseudo-terminal pair, and says which name the terminal on stdin has. Not forbidden. */
#include "guest.h"

#include <fcntl.h>

int main(void) {
  int fd = posix_openpt(O_RDWR | O_NOCTTY);
  if (fd < 0 || grantpt(fd) != 0 || unlockpt(fd) != 0) return refused("openpt");
  int other = open(ptsname(fd), O_RDWR | O_NOCTTY);
  if (other < 0) return refused(ptsname(fd));
  printf("pty %s, stdin %s\n", ptsname(fd), isatty(0) ? ttyname(0) ? ttyname(0) : "?" : "none");
  return kEscaped;
}
