#include "launcher/ray/executable.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <sstream>

#include "installers/python.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"
#include "launcher/words.h"

namespace rtlaunch::ray {
namespace {

using sys::trimmed;

using Json = nlohmann::json;
using Pairs = std::vector<std::pair<std::string, std::string>>;

constexpr int kNotFound = 127;
constexpr const char* kNsightOutput = "'worker_process_%p'";  // shell text, as Ray has it

// What follows gets its argv[0] from PATH.
const std::vector<std::string> kByPath = {"/bin/sh", "-c", "exec \"$@\"", "sh"};
// rocprof-sys-python wants a file to run: DIR, then the command.
const std::vector<std::string> kOnAFile = {
    "/bin/sh", "-c",
    "d=$1; shift; mkdir -p \"$d\" && echo 'import time' > \"$d/test.py\" || exit 1; "
    "\"$@\" \"$d/test.py\"; s=$?; rm -rf \"$d\"; exit $s",
    "sh"};

Error bad(const std::string& reason) { return make_error("", "", reason, ""); }

std::string* find(Pairs& pairs, const std::string& name) {
  for (auto& [key, value] : pairs)
    if (key == name) return &value;
  return nullptr;
}

void set(Pairs& pairs, const std::string& name, const std::string& value) {
  std::string* found = find(pairs, name);
  found != nullptr ? void(*found = value) : void(pairs.emplace_back(name, value));
}

void add_options(const Pairs& options, std::vector<std::string>& words) {
  for (const auto& [name, value] : options) {
    if (name.size() > 1) {
      words.push_back("--" + name + "=" + value);
    } else {
      words.insert(words.end(), {"-" + name, value});
    }
  }
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

bool exited_with(const ChildEnded& ended, int status) {
  return WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == status;
}

Error no_such_conda(const std::string& name) {
  return bad("The given conda environment '" + name +
             "' doesn't exist from the output of `conda info --json`. You can only specify an env "
             "that already exists. Please make sure to create an env " +
             name);
}

bool is_named(const Json& info, const std::string& name) {
  if (!info.is_object() || !info.contains("envs") || !info["envs"].is_array()) return false;
  std::string base;
  if (info.contains("conda_prefix") && info["conda_prefix"].is_string())
    base = info["conda_prefix"].get<std::string>();
  for (const Json& env : info["envs"]) {
    if (!env.is_string()) continue;
    std::string path = env;
    std::string last = path == base ? "base" : sys::leaf_of(path);
    if (name == path || name == last) return true;
  }
  return false;
}

}  // namespace

bool becomes_python(const std::string& py_executable) {
  for (char c : py_executable) {
    bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                 std::string_view("_./+=:,@%- ").find(c) != std::string_view::npos;
    if (!plain) return false;
  }
  std::istringstream words(py_executable);
  std::string first;
  words >> first;
  return installers::names_python(first);
}

std::vector<std::string> profiler_words(Profiler profiler, const std::string& folder) {
  std::vector<std::string> words;
  if (profiler.field == "_nsight") {
    const std::string* named = find(profiler.args, "o");
    std::string output = named == nullptr ? kNsightOutput : *named;
    set(profiler.args, "o", output.starts_with("/") ? output : folder + "/nsight/" + output);
    words = {"nsys", "profile"};
    add_options(profiler.args, words);
  } else {
    words = {"rocprof-sys-python"};
    add_options(profiler.args, words);
    words.emplace_back("--");
  }
  return words;
}

Executables::Executables(asio::io_context& io, Knobs::Variables variables, std::string python,
                         const AgentOptions& options)
    : io_(io),
      variables_(std::move(variables)),
      python_(python.empty() ? "python3" : std::move(python)) {
  const std::string& resources = options.runtime_env_dir;
  folder_ = resources.substr(0, resources.rfind('/')) + "/logs";
  // As Ray's agent does, whether they are needed or not.
  for (const char* name : {"/nsight", "/rocprof_sys"}) (void)sys::make_dirs(folder_ + name).ok();
}

awaitable<Result<ChildEnded>> Executables::run(std::vector<std::string> argv, Knobs::Variables more,
                                               Clock::time_point deadline, std::string* said) {
  more.insert(variables_.begin(), variables_.end());
  ChildStart child;
  child.argv = std::move(argv);
  child.variables = std::move(more);
  return run_child(io_, std::move(child), deadline, [said](const std::string& line) {
    if (said->size() < 4096) *said += line + "\n";
  });
}

// As ray/_private/runtime_env/conda_utils.py finds it.
std::string Executables::conda_program(const std::string& name) const {
  auto home = variables_.find("RAY_CONDA_HOME"), self = variables_.find("CONDA_EXE");
  if (home != variables_.end() && !home->second.empty()) return home->second + "/bin/" + name;
  if (self == variables_.end()) return name;
  size_t slash = self->second.rfind('/');
  return slash == std::string::npos ? name : self->second.substr(0, slash + 1) + name;
}

awaitable<Result<std::vector<std::string>>> Executables::activate(std::string conda,
                                                                  Clock::time_point deadline) {
  std::string program = conda_program("conda"), said;
  std::vector<std::string> argv = kByPath;
  argv.insert(argv.end(), {program, "info", "--json"});
  auto ended = co_await run(std::move(argv), {}, deadline, &said);
  if (!ended) co_return ended.error();
  if (exited_with(*ended, kNotFound))
    co_return bad("Could not find Conda executable at " + program + ".");
  if (!is_named(Json::parse(ended->out, nullptr, false), conda)) co_return no_such_conda(conda);
  std::vector<std::string> words = {"source", "activate"};
  if (program.find('/') != std::string::npos) {
    std::string bin = program.substr(0, program.rfind('/'));
    words = {".", shell_quoted(bin + "/../etc/profile.d/conda.sh"), "&&", "conda", "activate"};
  }
  words.insert(words.end(), {shell_quoted(conda), "1>&2", "&&"});
  co_return words;
}

// On nothing, so that a wrong option or a missing program is known now.
awaitable<Status> Executables::try_profiler(Profiler profiler, Clock::time_point deadline) {
  bool nsight = profiler.field == "_nsight";
  std::string said, scratch = folder_ + (nsight ? "/nsight/empty" : "/rocprof_sys/test");
  Knobs::Variables more;
  if (nsight) {
    set(profiler.args, "o", scratch);
  } else {
    more.insert(profiler.env.begin(), profiler.env.end());
    more["ROCPROFSYS_OUTPUT_PATH"] = scratch;
  }
  std::vector<std::string> argv = nsight ? kByPath : kOnAFile;
  if (!nsight) argv.push_back(scratch);
  std::vector<std::string> words = profiler_words(profiler, folder_);
  argv.insert(argv.end(), words.begin(), words.end());
  if (nsight) argv.insert(argv.end(), {python_, "-c", "\"\""});
  auto ended = co_await run(std::move(argv), std::move(more), deadline, &said);
  if (!ended) co_return ended.error();
  if (nsight) ::unlink((scratch + ".nsys-rep").c_str());
  if (exited_with(*ended, 0)) co_return Status();
  if (trimmed(said).empty()) said = ended->out.substr(0, 4096);
  if (exited_with(*ended, kNotFound))
    said = std::string(nsight ? "nsight" : "rocprof_sys") + " is not installed";
  co_return bad(std::string(nsight ? "nsight" : "rocprof-sys") +
                " profile failed to run with the following error message:\n " + trimmed(said));
}

awaitable<Result<std::string>> Executables::with_ray(std::string runtime_env,
                                                     Clock::time_point deadline) {
  if (ray_version_.empty()) {
    std::string said;
    std::string ask =
        "import platform; from importlib.metadata import version; "
        "print(platform.python_version(), version('ray'))";
    std::vector<std::string> argv = {python_, "-c", ask};
    auto ended = co_await run(std::move(argv), {}, deadline, &said);
    if (!ended) co_return ended.error();
    std::istringstream words(ended->out);
    words >> python_version_ >> ray_version_;
    if (!exited_with(*ended, 0) || ray_version_.empty()) {
      ray_version_.clear();
      co_return bad("conda: this node's Ray has no version: " + trimmed(said));
    }
  }
  co_return with_ray_in_conda(runtime_env, python_version_, ray_version_);
}

awaitable<Result<RunBy>> Executables::prepare(RayEnv env, Clock::time_point deadline) {
  RunBy run_by;
  if (env.conda) {
    auto activation = co_await activate(*env.conda, deadline);
    if (!activation) co_return activation.error();
    run_by.activation = *activation;
    run_by.py_executable = "python";
  }
  if (env.makes_conda) run_by.py_executable = "python";
  if (env.py_executable) run_by.py_executable = env.py_executable;
  for (const Profiler& profiler : env.profilers) {
    auto tried = co_await try_profiler(profiler, deadline);
    if (!tried) co_return tried.error();
    bool nsight = profiler.field == "_nsight";
    run_by.py_executable = joined(profiler_words(profiler, folder_)) + (nsight ? " python" : "");
    if (nsight) continue;
    run_by.env_vars = profiler.env;
    set(run_by.env_vars, "ROCPROFSYS_OUTPUT_PATH", folder_ + "/rocprof_sys");
  }
  run_by.forks = run_by.py_executable && !becomes_python(*run_by.py_executable);
  co_return run_by;
}

}  // namespace rtlaunch::ray
