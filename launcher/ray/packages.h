// Ray's own version in a worker must be the node's: a requirement that would bring another one is
// refused before anything is made, in Ray's words.
#pragma once

#include <string>

#include "isolation/sys/result.h"
#include "launcher/ray/ray_env.h"

namespace rtlaunch::ray {

// `python`: the interpreter of Ray, whose site-packages say which version it is. When it isn't
// known nothing is refused.
Status check_packages(const RayEnv& env, const std::string& python);

// The version in the prefix of `python`; "" when it can't be told.
std::string ray_version(const std::string& python);

}  // namespace rtlaunch::ray
