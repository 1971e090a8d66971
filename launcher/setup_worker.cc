#include "launcher/setup_worker.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "config/runtime_env.h"
#include "installers/python.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"
#include "launcher/attend.h"
#include "launcher/ray_node.h"
#include "launcher/words.h"
#include "launcher/zygote.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kContext = "--serialized-runtime-env-context";
constexpr const char* kLanguage = "--language";
constexpr std::string_view kBelowRay = "/_private/workers/setup_worker.py";

Error unusable(const std::string& what, const std::string& reason) {
  return make_error("setup worker", what, reason, "is this rtlaunch as new as Ray?");
}

std::string text_of(const Json& context, const char* key) {
  auto found = context.find(key);
  return found == context.end() || found->is_null() ? "" : found->get<std::string>();
}

std::vector<std::string> list_of(const Json& context, const char* key) {
  auto found = context.find(key);
  if (found == context.end() || found->is_null()) return {};
  return found->get<std::vector<std::string>>();
}

// One after the other: a later one sees those before it.
Variables expanded(const Json& context, Variables environment) {
  Variables added;
  auto found = context.find("env_vars");
  if (found == context.end() || found->is_null()) return added;
  for (const auto& [name, value] : found->items()) {
    std::string result = config::expand_variables(value.get<std::string>(), environment);
    environment[name] = added[name] = result;
  }
  return added;
}

std::string class_path(const Json& context, const std::string& ray) {
  std::string path = ray + "/jars/*:", jars;
  for (const std::string& jar : list_of(context, "java_jars")) jars += ":" + jar + "/*:" + jar;
  return jars.empty() ? path : path + jars.substr(1);
}

// As the agent's for environments without layers (ray/context.cc).
Result<std::vector<std::string>> shut_in(const SetupWorker& setup, const Variables& variables) {
  std::string session = session_of(setup.arguments);
  if (session.empty())
    return unusable("session", "no argument of the worker's names its raylet's socket");
  std::string job = value_of(variables, "RAY_JOB_ID");
  return sandbox_words({TRY(sys::real_path("/proc/self/exe")),
                        "",
                        false,
                        RayNode::from(variables).where(),
                        {"--session", session},
                        shell_quoted(job.empty() ? "none" : job),
                        session});
}

// A worker that nobody asked an agent for: whoever has a runtime env has its words from there. A
// module (-m) is Ray Client's server, which is a driver's own.
bool is_without_runtime_env(const Json& context, const SetupWorker& setup) {
  bool module = !setup.arguments.empty() && setup.arguments[0] == "-m";
  return !module && list_of(context, "command_prefix").empty() &&
         text_of(context, "py_executable").empty() &&
         context.value("env_vars", Json::object()).empty();
}

Result<std::vector<std::string>> prefix_of(const Json& context, const SetupWorker& setup,
                                           const Variables& environment) {
  if (!is_without_runtime_env(context, setup)) return list_of(context, "command_prefix");
  std::string by = TRY(EveryWorker(RayNode::from(environment)).by());
  return by.empty() ? std::vector<std::string>() : TRY(shut_in(setup, environment));
}

Result<WorkerCommand> command_of(const Json& context, const SetupWorker& setup,
                                 const std::string& python, const std::string& ray,
                                 const Variables& environment) {
  std::vector<std::string> words = TRY(prefix_of(context, setup, environment));
  std::vector<std::string> arguments = setup.arguments;
  if (setup.language == "JAVA") {
    words.emplace_back("java");
    arguments.insert(arguments.begin(), {"-cp", class_path(context, ray)});
  } else {
    words.emplace_back("exec");
  }
  if (setup.language == "PYTHON") {
    std::string executable = text_of(context, "py_executable");
    words.push_back(executable.empty() ? python : executable);
  }
  std::string entrypoint = text_of(context, "override_worker_entrypoint");
  bool another = setup.language == "PYTHON" && !entrypoint.empty();
  if (another && !arguments.empty()) arguments[0] = entrypoint;
  bool plain = words == std::vector<std::string>{"exec", python};
  for (const std::string& argument : arguments) words.push_back(shell_quoted(argument));
  WorkerCommand command{"", expanded(context, environment), {}};
  if (plain && !command.added.empty()) {
    command.plain = arguments;
    command.plain.insert(command.plain.begin(), python);
  }
  for (const std::string& word : words) {
    if (!command.text.empty()) command.text += ' ';
    command.text += word;
  }
  return command;
}

// The value of the option `name` when args[at] is it; `at` moves to its last word.
bool takes(const std::vector<std::string>& args, size_t& at, const std::string& name,
           std::string& value) {
  const std::string& word = args[at];
  if (word.rfind(name + "=", 0) == 0) {
    value = word.substr(name.size() + 1);
    return true;
  }
  if (word != name || at + 1 >= args.size()) return false;
  value = args[++at];
  return true;
}

}  // namespace

Result<SetupWorker> parse_setup_worker(const std::vector<std::string>& args) {
  SetupWorker setup;
  for (size_t at = 0; at < args.size(); ++at) {
    if (args[at] == "--") {
      setup.arguments.insert(setup.arguments.end(), args.begin() + static_cast<ptrdiff_t>(at),
                             args.end());
      break;
    }
    bool ours =
        takes(args, at, kContext, setup.context) || takes(args, at, kLanguage, setup.language);
    if (!ours) setup.arguments.push_back(args[at]);
  }
  if (setup.language == "PYTHON" || setup.language == "JAVA" || setup.language == "CPP")
    return setup;
  return unusable(kLanguage, "'" + setup.language + "' is no language of a worker");
}

Result<WorkerCommand> worker_command(const SetupWorker& setup, const std::string& python,
                                     const std::string& ray, const Variables& environment) {
  try {
    Json context = Json::parse(setup.context.empty() ? "{}" : setup.context);
    if (!context.is_object()) return unusable(kContext, "it is no JSON object");
    return command_of(context, setup, python, ray, environment);
  } catch (const Json::exception&) {  // its text would show values of variables
    return unusable(kContext, "it is no runtime env context of Ray's");
  }
}

namespace {

bool is_name(std::string_view name) {
  auto fits = [](char c) { return c == '_' || ((c | 32) >= 'a' && (c | 32) <= 'z'); };
  return !name.empty() && fits(name[0]) && std::all_of(name.begin(), name.end(), [&](char c) {
    return fits(c) || (c >= '0' && c <= '9');
  });
}

std::string current_folder() {
  char buffer[PATH_MAX];
  return ::getcwd(buffer, sizeof buffer) == nullptr ? "" : buffer;
}

// What bash would have made of them, had it become the worker; false where it does more than that.
bool pass_through_bash(Variables& variables) {
  for (const auto& [name, value] : variables) {
    if (!is_name(name) || name.starts_with("BASH") || name == "SHELLOPTS" || name == "ENV")
      return false;
  }
  std::string& level = variables["SHLVL"];
  if (level.empty() || level.find_first_not_of("0123456789") != level.npos) level = "0";
  std::string& folder = variables["PWD"];
  struct stat named, here;
  bool same = folder.starts_with("/") && ::stat(folder.c_str(), &named) == 0 &&
              ::stat(".", &here) == 0 && named.st_ino == here.st_ino && named.st_dev == here.st_dev;
  if (!same) folder = current_folder();
  variables.erase("_");
  return !folder.empty();
}

std::optional<isolation::Spec> plain_spec(const WorkerCommand& command) {
  Variables variables = installers::own_environment();
  if (value_of(variables, "RTLAUNCH_RAY_ZYGOTES") == "0") return std::nullopt;
  for (const auto& [name, value] : command.added) variables[name] = value;
  if (command.plain.empty() || !pass_through_bash(variables)) return std::nullopt;
  isolation::Spec spec;
  spec.argv = command.plain;
  for (const auto& [name, value] : variables) spec.env.push_back(name + "=" + value);
  spec.cwd = current_folder();
  spec.root = isolation::Root::kShared;
  return spec;
}

Result<int> attend_to(Running& running) {
  Signals signals = TRY(Signals::block());
  Attendant attendant = TRY(Attendant::prepare(/*shares_terminal=*/true, signals));
  TRY(attendant.let_go_of_stdio());
  int status = TRY(attendant.wait_for(running));
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Nothing: it is to be started as ever.
std::optional<Result<int>> from_zygote(const WorkerCommand& command) {
  std::optional<isolation::Spec> spec = plain_spec(command);
  std::optional<Zygote> zygote = spec ? Zygote::of(*spec, /*bare=*/true) : std::nullopt;
  if (!zygote) return std::nullopt;
  pid_t parent = 0;
  auto running = zygote->ask(*spec, {{}, -1, ""}, &parent);
  if (running) return attend_to(*running);
  zygote->start_soon(*spec);
  return std::nullopt;
}

}  // namespace

Result<int> setup_worker(const std::vector<std::string>& args) {
  if (args.size() < 2) return unusable("", "PYTHON and SETUP_WORKER_PY are missing");
  const std::string &python = args[0], &script = args[1];
  bool known = script.ends_with(kBelowRay);
  if (!known) return unusable(script, "it is not Ray's setup_worker.py");
  std::string ray = script.substr(0, script.size() - kBelowRay.size());
  SetupWorker setup = TRY(parse_setup_worker({args.begin() + 2, args.end()}));
  WorkerCommand command = TRY(worker_command(setup, python, ray, installers::own_environment()));
  if (auto status = from_zygote(command)) return std::move(*status);
  for (const auto& [name, value] : command.added) ::setenv(name.c_str(), value.c_str(), 1);
  ::execlp("bash", "bash", "-c", command.text.c_str(), nullptr);
  return sys_error("exec", "bash");
}

}  // namespace rtlaunch
