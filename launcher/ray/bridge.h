// Ray's own plugins, classes in Python that RAY_RUNTIME_ENV_PLUGINS names, run in a process beside
// the agent (python/rtlaunch/ray/bridge.py, which has the protocol). It is started when it is first
// needed, serves any number of setups at once, and is started anew at the next need after it has
// died. What it has made is remembered here, so nothing is lost with it. A plugin that is late is
// told to end; one that doesn't obey ends all that are under way, as they share one Python.
//
//   Bridge bridge(io, python, variables);
//   if (bridge.has_plugins()) {
//     auto names = co_await bridge.names(deadline);
//     auto done = co_await bridge.setup({env, context, working_dir}, deadline, log);
//   }
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "isolation/sys/result.h"
#include "launcher/ray/agent_options.h"
#include "launcher/ray/ray_env.h"
#include "launcher/ray/setup_log.h"
#include "launcher/server_async.h"

namespace rtlaunch::ray {

class Bridge {
 public:
  // `python`: Ray's interpreter; "": the first on PATH.
  Bridge(asio::io_context& io, std::string python, Knobs::Variables variables);
  ~Bridge();

  bool has_plugins() const { return !classes_.empty(); }
  // Fields that they serve. Errors: a class that can't be loaded.
  awaitable<Result<std::set<std::string>>> names(Clock::time_point deadline);

  struct Setup {
    std::string env;          // as the raylet sent it
    std::string context;      // JSON, as Ray's plugins know it
    std::string working_dir;  // a directory, or ""
  };
  struct Done {
    std::optional<Error> error;
    bool again = false;                          // it may help to try once more
    std::string context;                         // what has become of it
    std::vector<std::pair<Uri, uint64_t>> uris;  // that are there now, after an error, too
  };
  // Error::code is kTimeIsUp when the deadline came first.
  awaitable<Done> setup(Setup what, Clock::time_point deadline, SetupLog& log);

  void remove(const Uri& uri);                  // delete_uri, sometime
  bool serves(const std::string& field) const;  // known once names() was answered
  const std::set<std::string>& fields() const { return names_; }
  // No setup is under way: what nobody uses by now may be removed.
  bool idle() const { return waiting_ == 0; }

 private:
  struct Process;
  struct Asked;
  using ProcessPtr = std::shared_ptr<Process>;

  Status start();
  awaitable<Result<ProcessPtr>> ready(Clock::time_point deadline);
  awaitable<void> listen(ProcessPtr process);
  awaitable<void> write(ProcessPtr process);
  void send(const ProcessPtr& process, const std::string& line);
  void take_line(Process& process, const std::string& line);
  awaitable<void> end_setup(ProcessPtr process, std::shared_ptr<Asked> asked, uint64_t id);

  asio::io_context& io_;
  std::string python_, classes_;  // JSON of the classes; "": there are none
  Knobs::Variables variables_;
  ProcessPtr process_;
  std::set<std::string> names_;
  std::set<std::pair<std::string, std::string>> made_;  // plugin, URI
  uint64_t ids_ = 0;
  int waiting_ = 0;
};

}  // namespace rtlaunch::ray
