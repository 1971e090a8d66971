/* Takes a mount away, to see what it hides: directly, and from a user namespace of its own. */
#include "guest.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

static int try_all(int count, char** paths) {
  for (int i = 1; i < count; ++i) {
    if (umount2(paths[i], MNT_DETACH) == 0) return kEscaped;
    if (mount(NULL, paths[i], NULL, MS_REMOUNT | MS_BIND, NULL) == 0) return kEscaped;
  }
  return refused("umount and remount");
}

int main(int argc, char** argv) {
  if (try_all(argc, argv) == kEscaped) return kEscaped;
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return refused("unshare");
  return try_all(argc, argv);
}
