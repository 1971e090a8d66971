// Places where a test can make the store die or fail: every step of publish and collect has one.
// Nothing is armed unless the program asks for it: tests, and rtlaunch-build by
// arm_failpoints_from_environment(), which reads RTLAUNCH_FAILPOINT once. Costs one load when
// unarmed.
//
//   RTLAUNCH_FAILPOINT=publish.renamed=kill    SIGKILL there
//   RTLAUNCH_FAILPOINT=publish.meta=ENOSPC     fail there, as the kernel would
//   RTLAUNCH_FAILPOINT=*=kill@7                at the 7th failpoint that is reached
#pragma once

#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::store {

Status failpoint(const char* name);

// "" disarms. Unknown text is an error.
Status arm_failpoint(const std::string& text);
Status arm_failpoints_from_environment();
// From now on, the names that are reached are added to `names` (nullptr: no more).
void trace_failpoints(std::vector<std::string>* names);

}  // namespace rtlaunch::store
