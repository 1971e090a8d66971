/* Types a command into the terminal on stdin, as if its user had: TIOCSTI, plain and with bits set
   that the kernel doesn't look at; and pastes a selection: TIOCLINUX. */
#include "guest.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>

int main(void) {
  const unsigned long high[] = {0, 1ul << 32, 0xdeadbeeful << 32};
  char key = 'x', paste = 3;
  for (unsigned i = 0; i < sizeof high / sizeof *high; ++i) {
    if (syscall(SYS_ioctl, 0, high[i] | TIOCSTI, &key) == 0) return kEscaped;
    if (errno != EPERM) return kBroken;
    if (syscall(SYS_ioctl, 0, high[i] | TIOCLINUX, &paste) == 0) return kEscaped;
    if (errno != EPERM) return kBroken; /* ENOTTY: it got as far as the terminal */
  }
  return refused("TIOCSTI");
}
