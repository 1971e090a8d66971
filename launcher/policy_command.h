// `rtlaunch policy …`: what a policy says, before anybody feels it. Asks no daemon and starts
// nothing.
#pragma once

#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch {

// The exit status; `diff` has 1 where there is a difference.
Result<int> policy_command(const std::vector<std::string>& args);

}  // namespace rtlaunch
