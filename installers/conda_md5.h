// MD5, for locks that know nothing better.
#pragma once

#include <string>

#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// Of the whole file, in hex; `name` is what it is called in errors.
Result<std::string> md5_of(int fd, const std::string& name);

}  // namespace rtlaunch::installers
