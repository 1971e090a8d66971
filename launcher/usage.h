// What `--help` says: of rtlaunch, and of each of its verbs.
#pragma once

#include <string>
#include <vector>

namespace rtlaunch {

extern const char kUsage[];

const char* usage_of(const std::string& verb);  // kUsage when there is no such verb
std::vector<std::string> known_verbs();

}  // namespace rtlaunch
