// `rtlaunch policy audit -- CMD`: runs CMD as it is, watches what it uses (isolation/sys/trace.h),
// and prints a policy whose profile `audited` allows just that: strict's, with the files, system
// calls and addresses beside it that were used, and the variables that there were. What policy
// files can't say finely is said coarsely (a directory that was listed, or of which many files were
// read, is allowed whole).
//
// What CMD did not do this time it may not do then; a run that is like those to come is the
// caller's part.
#pragma once

#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch {

// The command's exit status.
Result<int> audit(const std::vector<std::string>& command, const std::string& output);

}  // namespace rtlaunch
