/* Looks for the key "canary" in its session keyring. */
#include "guest.h"

#include <linux/keyctl.h>
#include <sys/syscall.h>

int main(void) {
  long key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "canary", 0);
  if (key >= 0) return kEscaped;
  return refused("keyctl");
}
