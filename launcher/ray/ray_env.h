// From the JSON that a raylet sends to what rtlaunch makes of it.
//
//   RayEnv env = TRY(read_ray_env(text));
//
// An error says which field and what to do. What Ray adds by itself (_ray_commit, ...) and what is
// no concern of ours (worker_process_setup_hook, config: the request has one of its own) is passed
// over. `rtlaunch_image` is image_uri, by a name that Ray doesn't know: Ray's drivers refuse that
// one beside most others, and pass this one on. Fields that are none of Ray's own are named: they
// may be a plugin's, and are else, as with Ray, a warning. Values of env_vars are secrets: they are
// in no error and no warning.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::ray {

// A thing with a name of its own, that Ray counts and caches.
struct Uri {
  std::string field;  // "working_dir", "py_modules", "java_jars", "pip", "uv", "conda", "image_uri"
  std::string uri;    // "pip://<sha1>" for packages
  std::string directory;  // below the runtime env folder; "": none
  bool operator==(const Uri&) const = default;
  auto operator<=>(const Uri&) const = default;
};

// A program that a worker runs under: `_nsight`, `_rocprof_sys`.
struct Profiler {
  std::string field;
  std::vector<std::pair<std::string, std::string>> args, env;
};

struct RayEnv {
  std::string runtime_env;  // rtlaunch's JSON; "" when no layer is needed
  std::vector<std::pair<std::string, std::string>> env_vars;  // in the order written
  std::optional<std::string> working_dir;                     // URIs as they came
  std::vector<std::string> py_modules, java_jars;
  std::optional<std::string> py_executable;  // raw shell text
  std::optional<std::string> conda;          // the name or prefix of one that is there
  bool makes_conda = false;                  // one that is to be made: it has layers
  std::string image_field;                   // the one that names an image; "": none
  std::vector<Profiler> profilers;
  std::vector<Uri> uris;
  std::vector<std::string> others;  // names of fields that are none of Ray's own
  bool allows_conflicts() const;    // RTLAUNCH_ALLOW_CONFLICTS=1 in its env_vars
  bool has_plugins = false;         // of ours
  bool has_image() const { return !image_field.empty(); }
  bool has_packages() const;  // pip, uv or a conda environment that is made
};

// `plugins`: names of those that rtlaunch has (installers/plugin.h).
Result<RayEnv> read_ray_env(const std::string& text, const std::vector<std::string>& plugins = {});

// `runtime_env` (RayEnv's) whose conda environment is made: with this Python and this Ray in it, as
// Ray puts them there, since a worker in it is one of this cluster. Its Ray comes from the package
// index by its version, where Ray's own agent names a URL of the wheel.
std::string with_ray_in_conda(const std::string& runtime_env, const std::string& python,
                              const std::string& ray);

// The warning for a field that is no plugin's either.
std::string not_recognized(const std::string& field);

// "{env_vars, pip}": the fields of an env, without what is in them.
std::string fields_of(const std::string& text);

// As Python's json.dumps(value, sort_keys=True) writes it: Ray hashes such texts.
std::string python_dump(const std::string& json);

}  // namespace rtlaunch::ray
