// What rtlaunch asks of rtlaunch-build: one JSON document on its standard input (a memfd: secrets
// of env_vars pass through it and never through argv), and JSON lines on its standard output.
//
//   request   {"format": 1, "store", "cwd", "python", "tools", "allow_conflicts", "runtime_env":
//   {...}} answers   {"event": "progress", "layer", "phase", "object", "done", "total"}
//             {"event": "error", "step", "errno", "object", "reason", "cure", "exit_code"}
//             {"event": "done"}
#pragma once

#include <string>

#include "installers/plan.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

std::string request_json(const installers::PlanRequest& request, const std::string& store);

struct BuildRequest {
  installers::PlanRequest plan;  // without `variables`: the builder inherits them
  std::string store;
};
Result<BuildRequest> parse_request(const std::string& text);

std::string event_line(const Event& event);
std::string error_line(const Error& error);
std::string done_line();

struct Answer {
  enum class Kind { kProgress, kError, kDone } kind;
  Event event;
  Error error;
};
Result<Answer> parse_answer(const std::string& line);

}  // namespace rtlaunch
