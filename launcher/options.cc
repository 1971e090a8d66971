#include "launcher/options.h"

#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <map>

#include "config/json.h"
#include "isolation/sys/files.h"

namespace rtlaunch {

const char kUsage[] = R"(Usage: rtlaunch run [OPTION]... [--] COMMAND [ARG]...
       rtlaunch store ls|stats|gc|verify|rebuild|why DIGEST [--json] [--store DIR]
       rtlaunch env ls|rm ID... [--json] [--store DIR]

Runs COMMAND in a runtime environment: packages and files as read-only layers, in namespaces.

  --runtime-env FILE|JSON   fields as Ray has them: working_dir, py_modules, pip, uv, env_vars, config
  --working-dir DIR|ARCHIVE|URL   where COMMAND starts; what it writes there is dropped at the end
  --keep DIR                save what COMMAND wrote in its working directory
  --pip REQUIREMENT         a package, as in requirements.txt (repeat for more)
  --env KEY=VALUE           a variable; `--env KEY` passes yours on (repeat for more)
  --python PATH             the interpreter that packages are added to
  --store DIR               where layers are kept
  --upper-size SIZE         most that COMMAND may write, e.g. 2G
  --allow-conflicts         install even if a package of the base is broken by it
  --json                    progress and errors as JSON lines on stderr
  --timings                 what each step of the start took

Exit status: COMMAND's; 128+n if signal n ended it; 125 if rtlaunch failed, 126 if COMMAND can't
be executed, 127 if it wasn't found.
)";

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

using Setter = std::function<Status(RunOptions&, const std::string&)>;

template <typename T>
Setter into(T RunOptions::*member) {
  return [member](RunOptions& options, const std::string& value) -> Status {
    options.*member = value;
    return {};
  };
}

const std::map<std::string, Setter>& value_options() {
  static const std::map<std::string, Setter> options = {
      {"--runtime-env", into(&RunOptions::runtime_env)},
      {"--working-dir", into(&RunOptions::working_dir)},
      {"--store", into(&RunOptions::store)},
      {"--python", into(&RunOptions::python)},
      {"--keep", into(&RunOptions::keep)},
      {"--pip",
       [](RunOptions& o, const std::string& v) -> Status { return o.pip.push_back(v), Status(); }},
      {"--env",
       [](RunOptions& o, const std::string& v) -> Status {
         o.env.push_back(TRY(parse_env(v)));
         return {};
       }},
      {"--upper-size",
       [](RunOptions& o, const std::string& v) -> Status {
         o.upper_bytes = TRY(parse_size(v));
         return {};
       }},
  };
  return options;
}

const std::map<std::string, bool RunOptions::*>& flags() {
  static const std::map<std::string, bool RunOptions::*> options = {
      {"--json", &RunOptions::json},
      {"--timings", &RunOptions::timings},
      {"--allow-conflicts", &RunOptions::allow_conflicts},
  };
  return options;
}

Error unknown_option(const std::string& name) {
  std::vector<std::string> known;
  for (const auto& [option, setter] : value_options()) known.push_back(option);
  for (const auto& [option, member] : flags()) known.push_back(option);
  std::string near = config::nearest(name, known);
  return usage_error(name, "unknown option",
                     near.empty() ? "see rtlaunch --help" : "did you mean " + near + "?");
}

}  // namespace

Result<uint64_t> parse_size(const std::string& text) {
  char* end = nullptr;
  errno = 0;
  unsigned long long number = ::strtoull(text.c_str(), &end, 10);
  std::string unit = end;
  static const std::map<std::string, int> shifts = {
      {"", 0}, {"K", 10}, {"M", 20}, {"G", 30}, {"T", 40}};
  if (!unit.empty() && (unit.back() == 'b' || unit.back() == 'B')) unit.pop_back();
  for (char& letter : unit) letter = static_cast<char>(::toupper(letter));
  auto shift = shifts.find(unit);
  if (text.empty() || text[0] == '-' || errno != 0 || end == text.c_str() ||
      shift == shifts.end() || number > (UINT64_MAX >> shift->second)) {
    return usage_error("'" + text + "'", "not a size",
                       "write bytes, or a number with K, M, G or T");
  }
  return static_cast<uint64_t>(number) << shift->second;
}

Result<RunOptions> parse_run_options(const std::vector<std::string>& args) {
  RunOptions options;
  size_t at = 0;
  for (; at < args.size(); ++at) {
    const std::string& word = args[at];
    if (word == "--") {
      ++at;
      break;
    }
    if (word.empty() || word[0] != '-') break;
    size_t equals = word.find('=');
    std::string name = word.substr(0, equals);
    if (auto flag = flags().find(word); flag != flags().end()) {
      options.*flag->second = true;
      continue;
    }
    auto setter = value_options().find(name);
    if (setter == value_options().end()) return unknown_option(name);
    if (equals == std::string::npos && at + 1 == args.size()) {
      return usage_error(name, "needs a value", "see rtlaunch --help");
    }
    TRY(setter->second(options,
                       equals == std::string::npos ? args[++at] : word.substr(equals + 1)));
  }
  options.command.assign(args.begin() + static_cast<long>(at), args.end());
  if (options.command.empty()) {
    return usage_error("run", "no command",
                       "write what to run at the end: rtlaunch run -- COMMAND");
  }
  if (!options.keep.empty() && !options.working_dir && options.runtime_env.empty()) {
    return usage_error("--keep", "there is no working directory to keep files of",
                       "add --working-dir");
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
