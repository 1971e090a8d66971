/* Leaves a daemon behind: its own session, every signal ignored, stdout kept. Whoever reads our
   stdout sees the end of file only when the daemon is gone as well. */
#include "guest.h"

#include <signal.h>

int main(int argc, char** argv) {
  (void)argv;
  if (fork() == 0) {
    setsid();
    for (int signal_number = 1; signal_number < 65; ++signal_number) signal(signal_number, SIG_IGN);
    if (fork() == 0) {
      if (write(1, "daemon\n", 7) < 0) _exit(1);
      sleep(600);
    }
    _exit(0);
  }
  if (argc > 1) sleep(600);
  usleep(50000);
  return kEscaped;
}
