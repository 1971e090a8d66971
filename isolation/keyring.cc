#include "isolation/keyring.h"

#include <linux/keyctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace rtlaunch::isolation {

Status take_new_keyring() {
  long made = ::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
  if (made < 0) return sys_error("keyring", "");
  long ours = ::syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
  if (ours == made) return {};
  return make_error("keyring", "", "the session keyring is another than the one that was made");
}

}  // namespace rtlaunch::isolation
