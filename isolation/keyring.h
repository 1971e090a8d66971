// The kernel keeps keys (Kerberos tickets, file system keys) in a keyring per session that children
// inherit: a worker that kept its launcher's could use them. Rests on keyctl(2).
#pragma once

#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// An empty session keyring for the calling process and what it starts, read back. It counts
// against the quota of whoever calls, so call it while that is root: EDQUOT.
Status take_new_keyring();

}  // namespace rtlaunch::isolation
