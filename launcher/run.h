// `rtlaunch run`: from a runtime env to a running command, and its exit status.
#pragma once

#include "isolation/sys/result.h"
#include "launcher/options.h"
#include "launcher/report.h"

namespace rtlaunch {

// The exit status of the command: its own, or 128+n for signal n.
Result<int> run(const RunOptions& options, Report& report);

}  // namespace rtlaunch
