/* Makes a device node in each directory given, and opens it; or opens one that is there. */
#include "guest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    char path[512];
    snprintf(path, sizeof path, "%s/guest-device", argv[i]);
    int made = mknod(path, S_IFCHR | 0666, makedev(1, 5)) == 0;
    if (made || errno == EEXIST) {
      if (open(path, O_RDONLY) >= 0) return kEscaped;
    }
    if (made) unlink(path);
  }
  return refused("mknod or open");
}
