/* For a set-user-id copy of this program: is it root now? */
#include "guest.h"

int main(void) {
  if (getuid() == 0) return kBroken;
  if (geteuid() == 0) return kEscaped;
  printf("euid %d\n", geteuid());
  return kRefused;
}
