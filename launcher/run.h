// `rtlaunch run`: from a runtime env to a running command, and its exit status. The same, on an
// embedded host or a daemon; `exec` and `env create` are parts of it.
#pragma once

#include "isolation/sys/result.h"
#include "launcher/host.h"
#include "launcher/options.h"
#include "launcher/report.h"

namespace rtlaunch {

HostOptions host_options(const RunOptions& options);

// The exit status of the command: its own, or 128+n for signal n.
Result<int> run(const RunOptions& options, Report& report);

// In an environment that is known by its id or by the name of a hold: nothing is planned or made.
Result<int> exec(const RunOptions& options, Report& report);

// A plan whose fields are all made, if need be by making them.
struct Ready {
  installers::Plan plan;
  bool cold = false;
};
Result<Ready> make_ready(const installers::PlanRequest& request, Host& host, Report& report);

}  // namespace rtlaunch
