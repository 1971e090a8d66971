// The typed runtime env, and its only parser. Field meanings are Ray 2.60.0's
// (python/ray/_private/runtime_env), an unknown field is an error.
//
// Values of env_vars are secrets: nothing here ever puts one into an Error.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/conda.h"
#include "isolation/sys/result.h"

namespace rtlaunch::config {

// `pip` or `uv`.
struct Packages {
  enum class Tool { kPip, kUv };
  Tool tool = Tool::kPip;
  std::vector<std::string> lines;      // requirement lines; files and nested -r are read in
  bool check = false;                  // pip_check, uv_check
  std::optional<std::string> version;  // pip_version, uv_version: a specifier, "==23.3"
  std::vector<std::string> options;    // pip_install_options, uv_pip_install_options
};

// `image_uri`, or `container`, Ray's older word for it.
struct Image {
  std::string field;  // which of the two
  std::string uri;
};

struct Config {
  std::optional<int64_t> setup_timeout_seconds = 600;  // nothing: no limit (-1)
  bool eager_install = true;
  std::vector<std::string> log_files;
};

struct RuntimeEnv {
  std::optional<std::string> working_dir;  // as written; "" never
  std::vector<std::string> excludes;
  std::vector<std::string> py_modules;  // as written
  std::vector<std::string> java_jars;   // as written
  std::optional<Packages> packages;
  std::optional<Conda> conda;  // not together with packages
  std::optional<Image> image;
  std::vector<std::pair<std::string, std::string>> env_vars;  // in the order written
  std::vector<std::pair<std::string, std::string>> plugins;   // field, its value as sorted JSON
  Config config;
};

// `name` is what the text is called in errors; `base` the directory that relative paths and
// requirement files start from.
// `plugins`: fields that are those of plugins (installers/plugin.h).
Result<RuntimeEnv> parse_runtime_env(std::string_view json, const std::string& name,
                                     const std::string& base,
                                     const std::vector<std::string>& plugins = {});

// All that a runtime env may have, those of Ray's that aren't there yet included, as a policy names
// them: `plugins` stands for the fields of all of them.
const std::vector<std::string>& field_names();

// Reads a requirements file with all that it includes (-r, -c stay relative to the file they are
// in). Comments and empty lines are dropped, continuation lines joined. A cycle is an error.
Result<std::vector<std::string>> read_requirements(const std::string& path);

// Ray's expansion at worker start: `${VAR}` and `$VAR` of what is set become the value, `${VAR}` of
// what isn't becomes "" when its name is upper case, everything else stays as it is.
// `environment` is what the worker would have without the field.
std::string expand_variables(const std::string& value,
                             const std::map<std::string, std::string>& environment);

}  // namespace rtlaunch::config
