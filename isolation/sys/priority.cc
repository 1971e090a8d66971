#include "isolation/sys/priority.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace rtlaunch::sys {

void step_back() {
  (void)::setpriority(PRIO_PROCESS, 0, 19);
  (void)::syscall(SYS_ioprio_set, kIoOfProcess, 0, kIdleIoClass);
}

}  // namespace rtlaunch::sys
