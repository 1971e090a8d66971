// Makes missing layers by running rtlaunch-build, one process a field, side by side. The processes
// die with this one (PDEATHSIG), and all that is theirs with them.
#pragma once

#include <string>
#include <vector>

#include "installers/plan.h"
#include "isolation/sys/result.h"
#include "launcher/report.h"
#include "launcher/signals.h"

namespace rtlaunch {

// Runs until all of `fields` are made, or one fails: then the others are ended. SIGINT, SIGTERM and
// SIGHUP end it with exit code 128+n.
Status build_fields(const std::vector<std::string>& fields, const installers::PlanRequest& request,
                    const std::string& store, Signals& signals, Report& report);

// Compiles bytecode of the packages and syncs new layers, in a process of its own at idle priority.
// The process dies if the launcher is killed, and goes on, detached, when the launcher ends of
// itself: see release().
class Background {
 public:
  Background() = default;
  static Result<Background> start(const installers::PlanRequest& request, const std::string& store);
  Background(Background&&) noexcept = default;
  Background& operator=(Background&&) noexcept = default;
  void release();  // it may outlive us from here on

 private:
  UniqueFd line_;
};

// Where rtlaunch-build and uv are: beside this program, or in ../libexec/rtlaunch.
Result<std::string> tools_folder();

}  // namespace rtlaunch
