/* Leaves an orphan that ends, and looks whether it stays as a zombie. */
#include "guest.h"

#include <signal.h>
#include <sys/wait.h>

int main(void) {
  int report[2];
  if (pipe(report) != 0) return kBroken;
  pid_t child = fork();
  if (child == 0) {
    pid_t orphan = fork();
    if (orphan == 0) {
      usleep(10000);
      _exit(0);
    }
    if (write(report[1], &orphan, sizeof orphan) < 0) _exit(1);
    _exit(0);
  }
  pid_t orphan;
  if (waitpid(child, NULL, 0) != child) return kBroken;
  if (read(report[0], &orphan, sizeof orphan) != sizeof orphan) return kBroken;
  for (int i = 0; i < 200; ++i) {
    if (kill(orphan, 0) != 0) return refused("zombie");
    usleep(10000);
  }
  return kEscaped;
}
