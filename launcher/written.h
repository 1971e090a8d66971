// What a command left in its working directory's upper: counted, and saved with --keep.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch {

struct Written {
  uint64_t files = 0, bytes = 0;  // regular files and links
  uint64_t deleted = 0;           // whiteouts: files of the layer that were removed
};

// Counts below the directory `upper`; follows no link. `skip` are relative directories that are not
// the command's (mount points).
Result<Written> count_written(int upper, const std::vector<std::string>& skip);

// Copies all that was written (not the whiteouts) into `destination`, which is made when missing.
// A file that is there is replaced; a link on the way out of it is an error, never followed.
Result<Written> keep_written(int upper, const std::vector<std::string>& skip,
                             const std::string& destination);

}  // namespace rtlaunch
