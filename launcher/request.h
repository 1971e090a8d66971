// What rtlaunch asks of rtlaunch-build: one JSON document on its standard input (a memfd: secrets
// of env_vars pass through it and never through argv), and JSON lines on its standard output.
//
//   request   {"format": 3, "store", "cwd", "python", "tools", "command": [...], "allow_conflicts",
//              "allowed": text of JSON, "variables": {NAME: value...}, "plugins": {"fields":
//              [NAME...], "folders": [...]}, "runtime_env": {...}}
//   answers   {"event": "progress", "layer", "phase", "object", "done", "total"}
//             {"event": "error", "step", "errno", "object", "reason", "cure", "exit_code"}
//             {"event": "done"}
//
// `variables` are the caller's, all of them: the builder takes none from its own environment, which
// may be a daemon's. Paths, words and variables are bytes, which JSON can't hold: each byte is
// written as the character of that number (Latin-1), so ASCII looks as it is.
#pragma once

#include <string>

#include "installers/plan.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

std::string request_json(const installers::PlanRequest& request, const std::string& store);

struct BuildRequest {
  installers::PlanRequest plan;
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
