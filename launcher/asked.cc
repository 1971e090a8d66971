#include "launcher/asked.h"

#include <unistd.h>

#include <algorithm>
#include <climits>

#include "installers/python.h"
#include "installers/uv_run.h"
#include "isolation/sys/files.h"
#include "launcher/builder.h"

namespace rtlaunch {
namespace {

// --runtime-env is JSON if it begins like an object, else a file's name.
// Plugins are looked for when there are fields that may be theirs.
Result<config::RuntimeEnv> parse(const std::string& text, const std::string& name,
                                 installers::PlanRequest& request, Host& host) {
  auto env = config::parse_runtime_env(text, name, request.cwd);
  if (env) return env;
  std::string of_daemon = TRY(host.plugins());
  std::vector<std::string> folders = {of_daemon};
  if (of_daemon.empty()) folders = installers::plugin_folders(request.variables);
  std::vector<std::string> names = installers::plugin_names(folders);
  if (text.find('"' + std::string(installers::kUvRun) + '"') != text.npos)
    names.emplace_back(installers::kUvRun);
  if (names.empty()) return env;
  request.plugin_folders = std::move(folders);
  return config::parse_runtime_env(text, name, request.cwd, names);
}

Result<config::RuntimeEnv> read_runtime_env(const std::string& option,
                                            installers::PlanRequest& request, Host& host) {
  if (option.empty()) return config::RuntimeEnv();
  size_t first = option.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && (option[first] == '{' || option[first] == '[')) {
    return parse(option, "--runtime-env", request, host);
  }
  auto text = sys::read_file(option, 16 << 20);
  if (!text) {
    text.error().step = "--runtime-env";
    text.error().cure = "give the name of a JSON file, or the JSON itself";
    return text.error();
  }
  return parse(*text, option, request, host);
}

Status add_requirements(const std::vector<std::string>& lines, const std::string& cwd,
                        config::RuntimeEnv& env) {
  if (lines.empty()) return {};
  if (!env.conda && !env.packages) env.packages.emplace();
  std::vector<std::string>& into = env.conda ? env.conda->pip : env.packages->lines;
  for (const std::string& line : lines) {
    size_t file = line.rfind("-r", 0) == 0 ? line.find_first_not_of(" =", 2) : std::string::npos;
    if (file == std::string::npos) {
      into.push_back(line);
      continue;
    }
    for (std::string& read :
         TRY(config::read_requirements(sys::absolute_path(line.substr(file), cwd)))) {
      into.push_back(std::move(read));
    }
  }
  return {};
}

void add_variables(const std::vector<std::pair<std::string, std::string>>& added,
                   config::RuntimeEnv& env) {
  for (const auto& [name, value] : added) {
    auto same = [&, &key = name](const auto& entry) { return entry.first == key; };
    auto& variables = env.env_vars;
    variables.erase(std::remove_if(variables.begin(), variables.end(), same), variables.end());
    variables.emplace_back(name, value);
  }
}

Status take_given_variables(installers::PlanRequest& request) {
  auto found = request.variables.find(kGivenVariables);
  if (found == request.variables.end()) return {};
  std::string text = "{\"env_vars\": " + found->second + "}";
  auto given = TRY(config::parse_runtime_env(text, kGivenVariables, request.cwd)).env_vars;
  add_variables(given, request.env);
  request.variables.erase(found);
  return {};
}

// `--python /venv/bin/python -- pip list` means that one's: as in an activated environment.
void find_first(const std::string& python, const std::string& cwd,
                installers::Environment& variables) {
  size_t slash = python.rfind('/');
  if (slash == std::string::npos) return;
  std::string& path = variables["PATH"];
  path = sys::absolute_path(python.substr(0, slash + 1), cwd) + (path.empty() ? "" : ":" + path);
}

// A shell may start the program.
void find_libraries(const RunOptions& options, config::RuntimeEnv& env) {
  const auto& [programs, path] = options.library_path;
  auto is_there = [&, &folder = programs](const std::string& word) {
    return sys::is_beneath(word, folder);
  };
  if (programs.empty()) return;
  if (std::any_of(options.command.begin(), options.command.end(), is_there))
    env.env_vars.emplace_back("LD_LIBRARY_PATH", path);
}

}  // namespace

Result<std::string> caller_cwd() {
  char buffer[PATH_MAX];
  if (::getcwd(buffer, sizeof buffer) == nullptr) return sys_error("getcwd", "current directory");
  return std::string(buffer);
}

Result<installers::PlanRequest> read_request(const RunOptions& options, Host& host) {
  installers::PlanRequest request;
  request.cwd = TRY(caller_cwd());
  request.variables = installers::own_environment();
  request.env = TRY(read_runtime_env(options.runtime_env, request, host));
  if (options.working_dir) request.env.working_dir = options.working_dir;
  if (!options.image.empty()) request.env.image = config::Image{"image_uri", options.image};
  TRY(add_requirements(options.pip, request.cwd, request.env));
  TRY(take_given_variables(request));
  add_variables(options.env, request.env);
  // `run -- python3.9 main.py` means packages for that Python.
  request.python = options.python;
  find_first(options.python, request.cwd, request.variables);
  bool named = !options.command.empty() && installers::names_python(options.command[0]);
  if (request.python.empty() && named) request.python = options.command[0];
  if (!request.env.plugins.empty()) request.tools = TRY(tools_folder());
  request.command = options.command;
  request.allow_conflicts = options.allow_conflicts;
  return request;
}

Result<installers::PlanRequest> exec_request(const RunOptions& options) {
  installers::PlanRequest request;
  request.cwd = TRY(caller_cwd());
  request.variables = installers::own_environment();
  find_libraries(options, request.env);
  TRY(take_given_variables(request));
  add_variables(options.env, request.env);
  return request;
}

}  // namespace rtlaunch
