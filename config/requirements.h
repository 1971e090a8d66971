// Requirement lines that stand in a list rather than in a file; the file's half is
// read_requirements in runtime_env.h.
#pragma once

#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::config {

// Like a file in the folder `base` with these lines, but that a line with `${…}` in an -r stays as
// it is: the installer knows its value, Ray's RAY_RUNTIME_ENV_CREATE_WORKING_DIR.
Result<std::vector<std::string>> read_requirement_list(const std::vector<std::string>& list,
                                                       const std::string& base);

}  // namespace rtlaunch::config
