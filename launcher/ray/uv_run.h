// `uv run` as a py_executable, as Ray makes it of a driver that `uv run` has started. Where the
// working_dir is a project with a uv.lock, what each worker's `uv run` would sync is made once, as
// a layer (installers/uv_run.py), and a worker is that environment's Python itself: so it can be
// shut in, and nothing is left to do at its start. Only where we know that it means the same; with
// any word, file or variable that we don't know nothing is found here, and each worker is started
// by `uv run` as it stands.
//
//   auto run = understand_uv_run("uv run --frozen --python 3.11.2 python");
//   auto project = read_uv_project(*run, answer to project_question(*run));
//   auto field = uv_run_field(*run, *project, answer to files_question(*project), place,
//   variables);
//
// Packages that lie in folders of the project, its own first of all, are built from a copy of
// these, which the field holds: one layer for a lock and their content. Those that uv installs
// editable are imported from the working_dir, as ever; so the layer is for one place of it, that is
// for one content of a working_dir that Ray keeps. Packages of git repositories are fetched by the
// commit that the lock names, over http or https, without credentials: what the node's git is told
// by files and variables isn't the build's, and where there are any each worker syncs by itself.
// So it does where packages lie outside of the working_dir, with ssh, and where folders are larger
// than 64 MiB (a field goes from program to program as JSON).
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
// folder, pyproject.toml, uv.lock, "git" where git has settings}, each with a NUL behind it. A
// status other than 0: no project.
std::vector<std::string> project_question(const UvRun& run);

struct UvProject {
  std::string uv, python, python_folder, pyproject, lock;
  std::vector<std::string> indexes;
  std::vector<std::string> folders;   // with packages, as the lock has them: "." or "a/b"; or files
  std::vector<std::string> editable;  // those of them that are found where they lie
};
// Nothing: the answer, or the lock, has something that we don't know.
std::optional<UvProject> read_uv_project(const UvRun& run, const std::string& answer);

// Of a field's files: all is one JSON text, of 16 MiB at most.
inline constexpr size_t kMostUvRunFiles = 10 << 20;
// For a project with folders: says what is in them, .tar.gz in base64. A status other than 0: it is
// too much.
std::vector<std::string> files_question(const UvProject& project);

// The field's value, JSON; `place` is where workers have the working_dir.
std::string uv_run_field(const UvRun& run, const UvProject& project, const std::string& files,
                         const std::string& place,
                         const std::map<std::string, std::string>& variables);

// `runtime_env` (RayEnv's) with it.
std::string with_uv_run(const std::string& runtime_env, const std::string& field);

}  // namespace rtlaunch::ray
