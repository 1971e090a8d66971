#include "launcher/options.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "config/json.h"
#include "isolation/sys/files.h"

namespace rtlaunch {

namespace {

Error usage_error(const std::string& object, const std::string& reason, const std::string& cure) {
  return make_error("command line", object, reason, cure);
}

Result<std::pair<std::string, std::string>> parse_env(const std::string& text) {
  size_t equals = text.find('=');
  std::string key = text.substr(0, equals);
  if (key.empty()) return usage_error("--env", "no name before '='", "write --env KEY=VALUE");
  if (equals != std::string::npos) return std::pair(key, text.substr(equals + 1));
  const char* value = ::getenv(key.c_str());
  if (value == nullptr) {
    return usage_error("--env " + key, "not set in this environment",
                       "write --env " + key + "=VALUE");
  }
  return std::pair(key, std::string(value));
}

using Setter = Status (*)(RunOptions&, const std::string&);

enum Verb : unsigned { kRun = 1, kExec = 2, kCreate = 4, kAll = 7 };

struct Option {
  const char* name;
  unsigned verbs;
  bool RunOptions::*flag;
  Setter set;  // with a value, when there is no flag
};

template <auto member>
Status into(RunOptions& options, const std::string& value) {
  options.*member = value;
  return {};
}

Status add_package(RunOptions& options, const std::string& value) {
  return options.pip.push_back(value), Status();
}

Status add_variable(RunOptions& options, const std::string& value) {
  options.env.push_back(TRY(parse_env(value)));
  return {};
}

Status set_upper_size(RunOptions& options, const std::string& value) {
  options.upper_bytes = TRY(parse_size(value));
  return {};
}

Status set_ttl(RunOptions& options, const std::string& value) {
  options.ttl = TRY(parse_duration(value));
  return {};
}

Status set_profile(RunOptions& options, const std::string& value) {
  TRY(config::check_name({"--profile", "", "command line"}, value));
  options.asked.ask.profile = value;
  return {};
}

Result<std::pair<std::string, std::string>> name_and_value(const std::string& option,
                                                           const std::string& text) {
  size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0) {
    return std::pair(text.substr(0, equals), text.substr(equals + 1));
  }
  return usage_error(option + " " + text, "no name before '='", "write " + option + " NAME=VALUE");
}

Status add_control(RunOptions& options, const std::string& value) {
  options.asked.ask.controls.push_back(TRY(name_and_value("--control", value)));
  TRY(config::read_asked(options.asked.ask.controls));
  return {};
}

Status set_job(RunOptions& options, const std::string& value) {
  options.asked.job = value;
  return config::check_who({0, 0, {}, value, {}});
}

Status add_label(RunOptions& options, const std::string& value) {
  auto [name, text] = TRY(name_and_value("--label", value));
  options.asked.labels[name] = text;
  return config::check_who({0, 0, {}, "", options.asked.labels});
}

Result<std::string> absolute(const std::string& option, const std::string& path) {
  if (!path.empty() && path[0] == '/') return sys::absolute_path(path, "/");
  return usage_error(option + " " + path, "not an absolute path", "begin it with /");
}

Status set_working_dir_at(RunOptions& options, const std::string& value) {
  options.working_dir_at = TRY(absolute("--working-dir-at", value));
  return {};
}

Status add_py_module_at(RunOptions& options, const std::string& value) {
  options.py_modules_at.push_back(TRY(absolute("--py-module-at", value)));
  return {};
}

Status add_hidden(RunOptions& options, const std::string& value) {
  options.hidden.push_back(TRY(absolute("--hide", value)));
  return {};
}

Status set_session(RunOptions& options, const std::string& value) {
  options.session = TRY(absolute("--session", value));
  return {};
}

Status add_bind(RunOptions& options, const std::string& value) {
  auto [source, target] = TRY(name_and_value("--bind", value));
  options.binds.emplace_back(TRY(absolute("--bind", source)), TRY(absolute("--bind", target)));
  return {};
}

Status set_library_path(RunOptions& options, const std::string& value) {
  auto [programs, path] = TRY(name_and_value("--library-path", value));
  options.library_path = {TRY(absolute("--library-path", programs)), path};
  return {};
}

constexpr Option kOptions[] = {
    {"--runtime-env", kRun | kCreate, nullptr, into<&RunOptions::runtime_env>},
    {"--working-dir", kRun | kCreate, nullptr, into<&RunOptions::working_dir>},
    {"--image", kRun | kCreate, nullptr, into<&RunOptions::image>},
    {"--pip", kRun | kCreate, nullptr, add_package},
    {"--python", kRun | kCreate, nullptr, into<&RunOptions::python>},
    {"--allow-conflicts", kRun | kCreate, &RunOptions::allow_conflicts, nullptr},
    {"--env", kAll, nullptr, add_variable},
    {"--keep", kRun | kExec, nullptr, into<&RunOptions::keep>},
    {"--upper-size", kRun | kExec, nullptr, set_upper_size},
    {"--profile", kRun | kExec, nullptr, set_profile},
    {"--control", kRun | kExec, nullptr, add_control},
    {"--job", kRun | kExec, nullptr, set_job},
    {"--label", kRun | kExec, nullptr, add_label},
    {"--working-dir-at", kRun | kExec, nullptr, set_working_dir_at},
    {"--py-module-at", kRun | kExec, nullptr, add_py_module_at},
    {"--hide", kRun | kExec, nullptr, add_hidden},
    {"--session", kRun | kExec, nullptr, set_session},
    {"--bind", kRun | kExec, nullptr, add_bind},
    {"--library-path", kExec, nullptr, set_library_path},
    {"--die-with-parent", kRun | kExec, &RunOptions::die_with_parent, nullptr},
    {"--zygote", kExec, &RunOptions::zygote, nullptr},
    {"--timings", kRun | kExec, &RunOptions::timings, nullptr},
    {"--name", kCreate, nullptr, into<&RunOptions::name>},
    {"--ttl", kCreate, nullptr, set_ttl},
    {"--store", kAll, nullptr, into<&RunOptions::store>},
    {"--socket", kAll, nullptr, into<&RunOptions::socket>},
    {"--embedded", kAll, &RunOptions::embedded, nullptr},
    {"--json", kAll, &RunOptions::json, nullptr},
};

const Option* find_option(const std::string& name, Verb verb) {
  for (const Option& option : kOptions) {
    if ((option.verbs & verb) != 0 && name == option.name) return &option;
  }
  return nullptr;
}

Error unknown_option(const std::string& name, Verb verb) {
  std::vector<std::string> known;
  for (const Option& option : kOptions) {
    if ((option.verbs & verb) != 0) known.emplace_back(option.name);
  }
  std::string near = config::nearest(name, known);
  return usage_error(name, "unknown option",
                     near.empty() ? "see rtlaunch --help" : "did you mean " + near + "?");
}

// Options up to `--` or the first word that is none; where that is.
Result<size_t> take_options(const std::vector<std::string>& args, Verb verb, RunOptions& options,
                            size_t at = 0) {
  for (; at < args.size(); ++at) {
    const std::string& word = args[at];
    if (word == "--") return at + 1;
    if (word.empty() || word[0] != '-') return at;
    size_t equals = word.find('=');
    std::string name = word.substr(0, equals);
    const Option* option = find_option(name, verb);
    if (option == nullptr) return unknown_option(name, verb);
    if (option->flag != nullptr) {
      if (equals != std::string::npos) return usage_error(name, "takes no value", "leave it out");
      options.*option->flag = true;
      continue;
    }
    if (equals == std::string::npos && at + 1 == args.size()) {
      return usage_error(name, "needs a value", "see rtlaunch --help");
    }
    TRY(option->set(options, equals == std::string::npos ? args[++at] : word.substr(equals + 1)));
  }
  return at;
}

Status check_host(const RunOptions& options) {
  if (!options.embedded || options.socket.empty()) return {};
  return usage_error("--embedded", "and --socket exclude each other", "leave one of them out");
}

// The command. A shell's `exec` in front of it says what is done anyhow: Ray's setup_worker.py puts
// one there.
std::vector<std::string> rest(const std::vector<std::string>& args, size_t at) {
  if (at + 1 < args.size() && args[at] == "exec") ++at;
  return {args.begin() + static_cast<long>(at), args.end()};
}

// A number with one of these behind it.
struct Scale {
  const char* name;
  uint64_t factor;
};

template <size_t count>
std::optional<uint64_t> number_with_unit(const std::string& text, const Scale (&units)[count]) {
  char* end = nullptr;
  errno = 0;
  unsigned long long number = ::strtoull(text.c_str(), &end, 10);
  if (text.empty() || text[0] == '-' || errno != 0 || end == text.c_str()) return std::nullopt;
  for (const Scale& unit : units) {
    if (::strcasecmp(end, unit.name) != 0) continue;
    if (number > UINT64_MAX / unit.factor) return std::nullopt;
    return number * unit.factor;
  }
  return std::nullopt;
}

}  // namespace

Result<uint64_t> parse_size(const std::string& text) {
  static constexpr Scale kUnits[] = {
      {"", 1},           {"B", 1},           {"K", 1ull << 10}, {"KB", 1ull << 10},
      {"M", 1ull << 20}, {"MB", 1ull << 20}, {"G", 1ull << 30}, {"GB", 1ull << 30},
      {"T", 1ull << 40}, {"TB", 1ull << 40}};
  if (auto size = number_with_unit(text, kUnits)) return *size;
  return usage_error("'" + text + "'", "not a size", "write bytes, or a number with K, M, G or T");
}

Result<int64_t> parse_duration(const std::string& text) {
  static constexpr Scale kUnits[] = {{"", 1},     {"s", 1},    {"m", 60},
                                     {"min", 60}, {"h", 3600}, {"d", 86400}};
  auto seconds = number_with_unit(text, kUnits);
  if (seconds && *seconds <= INT32_MAX) return static_cast<int64_t>(*seconds);
  return usage_error("'" + text + "'", "not a duration",
                     "write seconds, or a number with m, h or d");
}

Result<RunOptions> parse_run_options(const std::vector<std::string>& args) {
  RunOptions options;
  options.command = rest(args, TRY(take_options(args, kRun, options)));
  TRY(check_host(options));
  if (options.command.empty() && options.image.empty()) {
    return usage_error("run", "no command",
                       "write what to run at the end: rtlaunch run -- COMMAND");
  }
  if (!options.keep.empty() && !options.working_dir && options.runtime_env.empty()) {
    return usage_error("--keep", "there is no working directory to keep files of",
                       "add --working-dir");
  }
  return options;
}

Result<RunOptions> parse_exec_options(const std::vector<std::string>& args) {
  RunOptions options;
  size_t at = TRY(take_options(args, kExec, options));
  if (at == args.size() || args[at].empty()) {
    return usage_error("exec", "no environment",
                       "name one: rtlaunch exec ENV -- COMMAND; rtlaunch env ls shows them");
  }
  options.environment = args[at];
  at = TRY(take_options(args, kExec, options, at + 1));
  options.command = rest(args, at);
  TRY(check_host(options));
  if (options.command.empty()) {
    return usage_error("exec", "no command",
                       "write what to run at the end: rtlaunch exec ENV -- COMMAND");
  }
  return options;
}

Result<RunOptions> parse_create_options(const std::vector<std::string>& args) {
  RunOptions options;
  size_t at = TRY(take_options(args, kCreate, options));
  TRY(check_host(options));
  if (at < args.size()) {
    return usage_error("env create", "takes no command: '" + args[at] + "'",
                       "run it with rtlaunch exec ENV -- COMMAND");
  }
  if (options.ttl > 0 && options.name.empty()) {
    return usage_error("--ttl", "is of a name that holds the environment", "add --name NAME");
  }
  return options;
}

Result<std::string> store_path(const std::string& option) {
  if (!option.empty()) return option;
  if (const char* path = ::getenv("RTLAUNCH_STORE"); path != nullptr && *path != '\0')
    return std::string(path);
  if (::geteuid() == 0) return std::string("/var/lib/rtlaunch");
  if (const char* data = ::getenv("XDG_DATA_HOME"); data != nullptr && data[0] == '/') {
    return std::string(data) + "/rtlaunch";
  }
  const char* home = ::getenv("HOME");
  if (home == nullptr || home[0] != '/') {
    return make_error("store", "", "HOME is not set, so there is no default place for the store",
                      "say --store DIR");
  }
  return std::string(home) + "/.local/share/rtlaunch";
}

}  // namespace rtlaunch
