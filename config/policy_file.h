// The policy as a file. It is believed only if nobody but root could have written it: the file and
// every directory above it belong to root and are writable by nobody else, or sticky, where others
// can't touch what is root's. No link is followed. The file is opened once, by descriptor, and what
// is checked is what is read.
#pragma once

#include <string>

#include "config/policy.h"
#include "isolation/sys/result.h"

namespace rtlaunch::config {

inline constexpr char kPolicyFile[] = "/etc/rtlaunch/policy.json";

// EPERM: somebody else could write there; ENOENT: there is none.
Result<Policy> load_policy(const std::string& path);
// kPolicyFile, or the built-in policy where there is no such file, or none that we may read.
Result<Policy> load_default_policy();
// Whether that is the built-in one.
bool has_built_in_policy();
// Of the calling process.
Result<Who> ourselves();
// For who only wants to know what is in it: whoever wrote it.
Result<Policy> read_policy_of_anybody(const std::string& path);

}  // namespace rtlaunch::config
