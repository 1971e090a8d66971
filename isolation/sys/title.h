// What /proc/PID/cmdline says of this process: for one that stands in for another.
//
//   TRY(sys::show_as({"raylet", "--node_id=12ab"}));
#pragma once

#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::sys {

// PR_SET_MM_MAP (Linux 3.18, CONFIG_CHECKPOINT_RESTORE); asks for no right. Needs /proc, and that
// the process is still dumpable. The words stay in memory for ever.
Status show_as(const std::vector<std::string>& words);

}  // namespace rtlaunch::sys
