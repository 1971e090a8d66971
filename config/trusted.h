// Files that say what others may do, or run for them: believed only if nobody but root (or one more
// user) could have written them, that is the file and every folder on the way to it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::config {

// One name after the other, each from the directory that was checked: what is renamed meanwhile
// changes nothing, and no link is followed. `step` is for errors. `also`: this user's is fine, too.
Result<UniqueFd> open_trusted(const std::string& path, const std::string& step,
                              std::optional<uid_t> also = {});

}  // namespace rtlaunch::config
