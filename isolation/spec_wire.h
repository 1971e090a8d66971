// A Spec as bytes, for a sandbox that another process starts: written by a caller without any
// right, read in the child that becomes its sandbox. Length-prefixed, little-endian, with a magic
// and a version; decode() checks every length before it believes it, and has a fuzz target. Only
// what a caller may choose is in it: descriptors, users and capabilities are not.
#pragma once

#include <string>
#include <string_view>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

inline constexpr size_t kMostSpecBytes = 8 << 20;  // argv and env alone may be 2 MiB (execve(2))

std::string encode(const Spec& spec);
Result<Spec> decode(std::string_view bytes);

}  // namespace rtlaunch::isolation
