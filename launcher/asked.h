// What a command line asks for, as planning understands it: the runtime env with what its options
// add, and the caller's variables and directory.
#pragma once

#include "installers/plan.h"
#include "isolation/sys/result.h"
#include "launcher/host.h"
#include "launcher/options.h"

namespace rtlaunch {

Result<std::string> caller_cwd();

// Reads the files that options name; finds nothing out about the machine.
// `host` is asked for the folder of plugins, when there are fields that may be theirs.
Result<installers::PlanRequest> read_request(const RunOptions& options, Host& host);

// A variable of ours with env_vars of a command, as JSON: an environment has no values, these shall
// be expanded by the variables of its image, not by the caller's, and what starts us (Ray's shell)
// shall not heed them.
inline constexpr char kGivenVariables[] = "RTLAUNCH_ENV_VARS";

// Of a command in an environment that is known: no file is read.
Result<installers::PlanRequest> exec_request(const RunOptions& options);

}  // namespace rtlaunch
