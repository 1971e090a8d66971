// `rtlaunch setup-worker`: what Ray's setup_worker.py does, without Python's start: the worker's
// variables are set and expanded, and its command line is put together and given to bash.
//
// Rests on Ray 2.60.0, python/ray/_private/workers/setup_worker.py and runtime_env/context.py. The
// context is one JSON object: command_prefix, env_vars, py_executable, override_worker_entrypoint,
// java_jars. Of py_executable and command_prefix nothing is quoted: they are shell text. Another
// entrypoint is for Python alone (Ray puts it in place of Java's -cp, too).
//
// Workers without a runtime env are shut in as the others are where the node or the policy says so
// (ray_node.h); one that can't be, or of which that can't be told, is not started.
//
// A Python worker whose environment is variables and nothing else may come from a zygote instead;
// then this waits for it, and is its parent as far as the raylet can see.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch {

struct SetupWorker {
  std::string context = "{}";          // --serialized-runtime-env-context
  std::string language;                // --language: PYTHON, JAVA or CPP
  std::vector<std::string> arguments;  // all others, in their order
};

// Options may be written `--name value` or `--name=value`; what follows `--` is passed on.
Result<SetupWorker> parse_setup_worker(const std::vector<std::string>& args);

struct WorkerCommand {
  std::string text;                          // for `bash -c`
  std::map<std::string, std::string> added;  // variables, expanded
  std::vector<std::string> plain;            // what bash would exec, where no shell text says more
};

// `python` is Ray's interpreter, for a context that names none; `ray` the folder of the package
// ray, whose jars Java workers get; `environment` what the worker would have without the context.
Result<WorkerCommand> worker_command(const SetupWorker& setup, const std::string& python,
                                     const std::string& ray,
                                     const std::map<std::string, std::string>& environment);

// `args`: PYTHON SETUP_WORKER_PY [ARG]...  Becomes the worker, or returns the exit status of one
// that came from a zygote, or says why it couldn't.
Result<int> setup_worker(const std::vector<std::string>& args);

}  // namespace rtlaunch
