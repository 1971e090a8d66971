// `rtlaunch env …` and `rtlaunch store limits`: environments that somebody wants to be there, by a
// daemon or, without one, in the files of the store.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "launcher/options.h"
#include "launcher/report.h"

namespace rtlaunch {

// `env create`: makes an environment, prints its id, and holds it if it was given a name.
Result<int> create(const RunOptions& options, Report& report);

// Nothing: it is rtlaunch-build's to do, with `args` (which lose what only we understand, and name
// the daemon's store where root asks about it).
Result<std::optional<int>> env_verb(const std::string& noun, std::vector<std::string>& args);
Result<std::optional<int>> store_verb(const std::string& noun, std::vector<std::string>& args);

}  // namespace rtlaunch
