// By what a Python worker is run where its runtime env says so: py_executable, a conda environment
// that is on the node already, a profiler (nsight, rocprof-sys). In Ray's order: the last of them
// that is named wins, but an environment is activated for whatever runs in it. Checked here, while
// the user still hears of it: a worker that can't start is six minutes of silence.
//
//   RunBy run_by = co_await executables.prepare(env, deadline);   // or an Error in Ray's words
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "isolation/sys/result.h"
#include "launcher/ray/agent_options.h"
#include "launcher/ray/child.h"
#include "launcher/ray/ray_env.h"

namespace rtlaunch::ray {

// Whether this shell text, behind `exec`, becomes Python itself. A raylet knows a worker by the pid
// that it tells of itself, and in a sandbox only the first process has one pid inside and outside:
// what starts Python as its child (`uv run`, a script, a profiler) can't be shut in.
bool becomes_python(const std::string& py_executable);

struct RunBy {
  std::optional<std::string> py_executable;  // shell text; nothing: the base's interpreter
  std::vector<std::string> activation;       // shell text before it, each command with its `&&`
  std::vector<std::pair<std::string, std::string>> env_vars;
  bool forks = false;  // see becomes_python()
};

class Executables {
 public:
  // `python`: the base's interpreter. Profiles lie in the session's logs, as with Ray.
  Executables(asio::io_context& io, Knobs::Variables variables, std::string python,
              const AgentOptions& options);

  awaitable<Result<RunBy>> prepare(RayEnv env, Clock::time_point deadline);

  // with_ray_in_conda() by the base's Python and its Ray, which are asked for once.
  awaitable<Result<std::string>> with_ray(std::string runtime_env, Clock::time_point deadline);

 private:
  awaitable<Result<std::vector<std::string>>> activate(std::string conda,
                                                       Clock::time_point deadline);
  awaitable<Status> try_profiler(Profiler profiler, Clock::time_point deadline);
  awaitable<Result<ChildEnded>> run(std::vector<std::string> argv, Knobs::Variables more,
                                    Clock::time_point deadline, std::string* said);
  std::string conda_program(const std::string& name) const;

  asio::io_context& io_;
  Knobs::Variables variables_;
  std::string python_, folder_;               // of the session's logs
  std::string python_version_, ray_version_;  // once asked
};

// The command line in front of Python, its output in `folder`. For tests.
std::vector<std::string> profiler_words(Profiler profiler, const std::string& folder);

}  // namespace rtlaunch::ray
