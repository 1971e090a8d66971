/* Kills or stops pid 1 of its namespace. That pid 1 lives on is seen by whoever waits for us. */
#include "guest.h"

#include <signal.h>

int main(void) {
  kill(1, SIGTERM);
  kill(1, SIGKILL);
  kill(1, SIGSTOP);
  kill(1, SIGHUP);
  usleep(20000);
  return kRefused; /* in a sandbox without pid 1 nobody gets here */
}
