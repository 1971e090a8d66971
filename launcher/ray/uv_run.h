// `uv run` as a py_executable, as Ray makes it of a driver that `uv run` has started. Where the
// working_dir is a project with a uv.lock, what each worker's `uv run` would sync is made once, as
// a layer (installers/uv_run.py), and a worker is that environment's Python itself: so it can be
// shut in, and nothing is left to do at its start. Only where we know that it means the same; with
// any word, file or variable that we don't know nothing is found here, and each worker is started
// by `uv run` as it stands.
//
//   auto run = understand_uv_run("uv run --frozen --python 3.11.2 python");
//   auto field = co_await look_into_project(...);   // nothing: not ours;  else the field `uv_run`
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launcher/ray/ray_env.h"

namespace rtlaunch::ray {

struct UvRun {
  std::string uv;                  // the first word
  std::vector<std::string> sync;   // options of `uv sync`
  std::vector<std::string> extra;  // what `--with` names
  std::string python;              // "": as uv finds one
};

std::optional<UvRun> understand_uv_run(const std::string& py_executable);

// Whether the rest of the environment, and the node's variables, leave it its meaning.
bool may_be_a_layer(const RayEnv& env, const std::map<std::string, std::string>& variables);

// A program for /bin/sh that says in a working_dir what is there: {uv, which interpreter, its
// folder, pyproject.toml, uv.lock}, each with a NUL behind it. A status other than 0: no project.
std::vector<std::string> project_question(const UvRun& run);

// The field's value, JSON. Nothing: the answer, or the lock, has something that we don't know.
std::optional<std::string> uv_run_field(const UvRun& run, const std::string& answer,
                                        const std::map<std::string, std::string>& variables);

// `runtime_env` (RayEnv's) with it.
std::string with_uv_run(const std::string& runtime_env, const std::string& field);

}  // namespace rtlaunch::ray
