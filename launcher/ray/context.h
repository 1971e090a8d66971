// What a raylet starts a worker with: the JSON that Ray's setup_worker.py reads, with exactly five
// keys. A worker that needs layers, or is to be shut in anyhow, is started by `rtlaunch exec`:
// command_prefix is `exec rtlaunch exec ID ... --`, which setup_worker puts in front of
//   exec <py_executable> default_worker.py ...        for Python
//   java -cp ... io.ray....DefaultWorker              for Java
//   exec default_worker ...                           for C++
// so one prefix serves all three; the word `exec` that it finds behind its `--` rtlaunch drops.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "launcher/ray/executable.h"
#include "launcher/ray/in_image.h"
#include "launcher/ray/ray_env.h"

namespace rtlaunch::ray {

struct ContextRequest {
  const RayEnv& env;
  const RunBy& run_by;
  std::string id;  // of the environment; "": it has no layers
  std::string runtime_env_dir, session_dir;
  std::string rtlaunch;            // the program
  std::vector<std::string> where;  // --socket S, --embedded, --store D
  std::string pythonpath, path;    // our own PYTHONPATH and PATH
  std::string python;              // the node's interpreter, which packages are added to
  bool every_worker = false;       // also what has no layers is shut in (launcher/ray_node.h)
  bool plain = false;              // its files lie at their places: no sandbox
  bool zygotes = false;
  std::string changed = "";  // what Ray's plugins made of context_for_plugins(); "": there are none
  const InImage* in_image = nullptr;
};

// What says where Ray's session is, and what of the host is shown in an image.
std::vector<std::string> session_words(const std::string& session_dir, const InImage& in);

// The same JSON, in which nothing is expanded on the way to whom it is for (asked.h).
std::string without_dollars(std::string json);

// What a plugin of Ray's sees: the context as Ray's own agent would have it by then, without what
// is rtlaunch's. Words that it puts into command_prefix come before ours.
std::string context_for_plugins(const ContextRequest& request);

// EFBIG: longer than the kernel lets one argument be (128 KiB, execve(2)); the raylet would fail
// without a word.
Result<std::string> make_context(const ContextRequest& request);

// Where the working_dir's files are for whoever isn't shut in.
std::string place_of_working_dir(const RayEnv& env, const std::string& runtime_env_dir);
std::optional<std::string> py_executable_in(const std::string& context);

// The directories, absolute, that have to be there as mount points.
std::vector<std::string> mount_points(const RayEnv& env, const std::string& runtime_env_dir);

}  // namespace rtlaunch::ray
