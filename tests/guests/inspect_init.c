/* Looks into its parent, which in a sandbox is pid 1: memory, descriptors, ptrace. */
#include "guest.h"

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

static int opens(pid_t pid, const char* name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  int fd = open(path, O_RDONLY);
  if (fd < 0) return 0;
  printf("opened %s\n", path);
  return 1;
}

static int links(pid_t pid, const char* name) {
  char path[64], target[256];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  if (readlink(path, target, sizeof target) < 0) return 0;
  printf("read the link %s\n", path);
  return 1;
}

int main(int argc, char** argv) {
  pid_t pid = argc > 1 ? atoi(argv[1]) : getppid();
  if (opens(pid, "mem") || opens(pid, "environ") || links(pid, "root") || links(pid, "fd/0") ||
      links(pid, "fd/3") || links(pid, "fd/4") || links(pid, "fd/5")) {
    return kEscaped;
  }
  int pidfd = syscall(SYS_pidfd_open, pid, 0);
  for (int fd = 0; fd < 16; ++fd) {
    if (syscall(SYS_pidfd_getfd, pidfd, fd, 0) >= 0) return kEscaped;
    if (errno == EBADF) return kEscaped; /* allowed, only empty */
  }
  if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) return kEscaped;
  return refused("ptrace");
}
