// Requirement lines that stand in a list rather than in a file; the file's half is
// read_requirements in runtime_env.h.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::config {

// Like a file in the folder `base` with these lines, but that a line with `${…}` in an -r stays as
// it is: the installer knows its value, Ray's RAY_RUNTIME_ENV_CREATE_WORKING_DIR.
Result<std::vector<std::string>> read_requirement_list(const std::vector<std::string>& list,
                                                       const std::string& base);

// The file's half for files that lie elsewhere than their paths say: `read` gets absolute paths.
using ReadFile = std::function<Result<std::string>(const std::string& path)>;
Result<std::vector<std::string>> read_requirements_by(const ReadFile& read,
                                                      const std::string& path);
// What `-r x` (in any of its spellings) names; nothing for another line.
std::optional<std::string> included_file(const std::string& line);

}  // namespace rtlaunch::config
