// What the drivers of a cluster should read on their terminals: that a raylet has died, or that a
// job's packages break others. It goes where Ray's own agents publish such lines, by a short run of
// Ray's interpreter, since GCS's messages are Ray's affair and this is rare: each job reads a text
// once. Nobody waits for it, it leaves the processors to the worker that is starting meanwhile, and
// that it fails is no failure: the same stands in a log.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "launcher/ray/agent_options.h"
#include "launcher/ray/child.h"

namespace rtlaunch::ray {

class Drivers {
 public:
  // `python`: Ray's interpreter; "": nobody is told anything.
  Drivers(asio::io_context& io, std::string python, Knobs::Variables variables,
          const AgentOptions& options)
      : io_(io), python_(std::move(python)), variables_(std::move(variables)), options_(options) {}

  // `job`: its hex digits. Returns at once; what was said to it already isn't said again.
  void warn(const std::string& job, const std::vector<std::string>& texts);
  // Ray's own report, in its words: an unexpected end is published with the raylet's last lines.
  awaitable<void> report_raylets_end();

 private:
  awaitable<void> run(std::string script, std::string input, bool unhurried);

  asio::io_context& io_;
  std::string python_;
  Knobs::Variables variables_;
  const AgentOptions& options_;
  std::set<std::pair<std::string, std::string>> told_;  // jobs, and texts
};

}  // namespace rtlaunch::ray
