/* Takes back a privilege: uid 0, a capability, the bounding set, securebits. */
#include "guest.h"

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

int main(int argc, char** argv) {
  (void)argv;
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  if (argc == 1 && getuid() != 0 && (setuid(0) == 0 || setresuid(0, 0, 0) == 0)) return kEscaped;
  memset(data, 0xff, sizeof data);
  data[1].effective = data[1].permitted = data[1].inheritable = 0x1ff;
  if (syscall(SYS_capset, &header, data) == 0) return kEscaped;
  memset(data, 0, sizeof data);
  data[0].effective = data[0].permitted = 1u << CAP_SYS_ADMIN % 32;
  if (syscall(SYS_capset, &header, data) == 0) return kEscaped;
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0) == 0) return kEscaped;
  if (prctl(PR_SET_SECUREBITS, 0, 0, 0, 0) == 0) return kEscaped;
  if (prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0) return kEscaped;
  return refused("securebits");
}
