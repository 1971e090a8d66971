#include "config/fuzz_testing.h"
#include "config/requirements.h"
#include "config/runtime_env.h"

namespace rtlaunch::config {
namespace {

constexpr char kAll[] =
    R"({"working_dir": "/x", "excludes": ["*.log"], "py_modules": ["a.whl", "/m"], "java_jars": ["/a.jar"],
  "pip": {"packages": ["requests[socks]>=2 ; python_version > '3.8'", "-e ./pkg", "idna @ https://h/i.whl"], "pip_check": true,
    "pip_version": "==23.3", "pip_install_options": ["--no-deps"]},
  "env_vars": {"A": "${PATH}:x", "B": "\u00e9"}, "config": {"setup_timeout_seconds": -1, "eager_install": false, "log_files": ["l"]},
  "_ray_commit": "x"})";
constexpr char kUv[] =
    R"({"uv": ["emoji==2.14.0", "-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/r.txt"], "py_modules": null})";

const FuzzTarget kRuntimeEnv(
    "runtime_env",
    [] {
      return Seeds{kAll, kUv, R"({"uv": {"packages": ["a"], "uv_check": false}})"};
    },
    [](std::string_view input) {
      (void)parse_runtime_env(input, "runtime_env", "/nonexistent").ok();
    });

// Each file includes itself, under whatever name: a ring has to be noticed.
const FuzzTarget kRequirements(
    "requirements",
    [] {
      return Seeds{"a==1 \\\n  ; x\n# comment\n-r other.txt\n-c c.txt\n--hash=sha256:00\n",
                   "-r ${A}/b.txt\n-e .\n"};
    },
    [](std::string_view input) {
      auto read = [&](const std::string&) -> Result<std::string> { return std::string(input); };
      (void)read_requirements_by(read, "/r/requirements.txt").ok();
      (void)expand_variables(std::string(input), {{"A", "x"}});
    },
    5000);

}  // namespace
}  // namespace rtlaunch::config
