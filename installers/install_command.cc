// Which program installs, and its options. uv stands in for pip wherever it knows the option; pip
// itself only runs where the user names its version or an option that uv has no word for.
#include <algorithm>
#include <map>
#include <set>

#include "installers/capture.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

struct Option {
  std::string name, value;
  bool has_value = false;  // "--name=value"
};

Option split_option(const std::string& text) {
  size_t eq = text.find('=');
  if (!text.starts_with("--") || eq == std::string::npos) return {text, "", false};
  return {text.substr(0, eq), text.substr(eq + 1), true};
}

// They would put packages where the environment isn't, or another program in charge.
bool leads_elsewhere(const std::string& name) {
  static const std::set<std::string> kElsewhere = {
      "--target", "-t",          "--prefix",    "--root",       "--user", "--python",
      "-p",       "--system",    "--cache-dir", "--dry-run",    "--src",  "--report",
      "--log",    "--directory", "--project",   "--config-file"};
  return kElsewhere.count(name) != 0;
}

bool is_line_option(const std::string& name) {
  static const std::set<std::string> kLines = {"-i", "--index-url", "--extra-index-url", "-f",
                                               "--find-links"};
  return kLines.count(name) != 0;
}

// Change nothing of what is installed; Ray's own defaults are among them.
bool is_idle(const std::string& name) {
  static const std::set<std::string> kIdle = {"--disable-pip-version-check",
                                              "--no-cache-dir",
                                              "--no-cache",
                                              "-n",
                                              "--no-input",
                                              "-q",
                                              "--quiet",
                                              "-v",
                                              "--verbose",
                                              "--no-warn-script-location",
                                              "--prefer-binary",
                                              "--no-color",
                                              "--no-compile",
                                              "--root-user-action",
                                              "--no-warn-conflicts",
                                              "--no-python-version-warning",
                                              "--progress-bar",
                                              "--retries",
                                              "--timeout",
                                              "--default-timeout",
                                              "--break-system-packages"};
  return kIdle.count(name) != 0;
}

// pip's word → uv's; "" where uv's is the same. Second: takes a value.
const std::map<std::string, std::pair<std::string, bool>>& words() {
  static const std::map<std::string, std::pair<std::string, bool>> kWords = {
      {"--no-deps", {"", false}},
      {"-U", {"--upgrade", false}},
      {"--upgrade", {"", false}},
      {"--pre", {"--prerelease=allow", false}},
      {"--no-index", {"", false}},
      {"--require-hashes", {"", false}},
      {"--force-reinstall", {"--reinstall", false}},
      {"--no-build-isolation", {"", false}},
      {"--no-binary", {"", true}},
      {"--only-binary", {"", true}},
      {"--trusted-host", {"--allow-insecure-host", true}},
      {"-c", {"--constraints", true}},
      {"--constraint", {"--constraints", true}}};
  return kWords;
}

bool idle_takes_value(const std::string& name) {
  return name == "--progress-bar" || name == "--retries" || name == "--timeout" ||
         name == "--default-timeout" || name == "--root-user-action";
}

// pip's options in uv's words; false when one has none.
bool translate(const std::vector<std::string>& options, InstallCommand& command) {
  for (size_t i = 0; i < options.size(); ++i) {
    Option o = split_option(options[i]);
    auto value = [&] { return o.has_value ? o.value : i + 1 < options.size() ? options[++i] : ""; };
    auto word = words().find(o.name);
    if (is_line_option(o.name)) {
      command.lines += o.name + " " + value() + "\n";
    } else if (is_idle(o.name)) {
      if (idle_takes_value(o.name)) (void)value();
    } else if (word != words().end()) {
      command.args.push_back(word->second.first.empty() ? o.name : word->second.first);
      if (word->second.second) command.args.push_back(value());
    } else {
      return false;
    }
  }
  return true;
}

// As they are, but for what may hold credentials.
void pass_on(const std::vector<std::string>& options, InstallCommand& command) {
  for (size_t i = 0; i < options.size(); ++i) {
    Option o = split_option(options[i]);
    if (!is_line_option(o.name))
      command.args.push_back(options[i]);
    else
      command.lines += o.name + " " +
                       (o.has_value              ? o.value
                        : i + 1 < options.size() ? options[++i]
                                                 : "") +
                       "\n";
  }
}

bool names_file(const std::string& option) {
  static const std::set<std::string> kFiles = {
      "-c",           "--constraint",       "--constraints",
      "-b",           "--build-constraint", "--build-constraints",
      "--overrides",  "--override",         "-r",
      "--requirement"};
  return kFiles.count(option) != 0;
}

// Relative paths are the caller's: the build starts elsewhere.
void make_paths_absolute(const std::string& cwd, InstallCommand& command) {
  for (size_t i = 0; i < command.args.size(); ++i) {
    Option o = split_option(command.args[i]);
    if (!names_file(o.name)) continue;
    std::string* value = o.has_value                   ? &o.value
                         : i + 1 < command.args.size() ? &command.args[++i]
                                                       : nullptr;
    if (!value || value->find("://") != std::string::npos) continue;
    *value = sys::absolute_path(*value, cwd);
    command.files.push_back(*value);
    if (o.has_value) command.args[i] = o.name + "=" + o.value;
  }
}

// What may stand behind a requirement, and uv knows of only --hash.
bool has_option_of_pip(const std::string& line) {
  return line.find(" --config-setting") != std::string::npos ||
         line.find(" --global-option") != std::string::npos ||
         line.find(" -C") != std::string::npos;
}

// One hash asked for, and pip asks for all.
bool has_hash(const std::string& line) { return line.find(" --hash") != std::string::npos; }

std::string versioned(const std::string& tool, const std::string& version) {
  bool specifier = version.find_first_of("=<>~!") == 0;
  return tool + (specifier ? version : "==" + version);
}

}  // namespace

std::string option_that_matters(const std::vector<std::string>& options) {
  for (size_t i = 0; i < options.size(); ++i) {
    Option o = split_option(options[i]);
    if (!is_idle(o.name)) return options[i];
    if (idle_takes_value(o.name) && !o.has_value) ++i;
  }
  return "";
}

Result<InstallCommand> install_command(const config::Packages& packages, const std::string& cwd) {
  bool is_pip = packages.tool == config::Packages::Tool::kPip;
  for (const std::string& option : packages.options)
    if (leads_elsewhere(split_option(option).name))
      return make_error(is_pip ? "pip" : "uv", option,
                        "this option would not install into the environment", "leave it out");
  InstallCommand command;
  if (is_pip) {
    command.pip = packages.version.has_value() || !translate(packages.options, command) ||
                  std::any_of(packages.lines.begin(), packages.lines.end(), has_option_of_pip);
    if (command.pip) {
      command.args.clear(), command.lines.clear();
      pass_on(packages.options, command);
      command.get = packages.version ? versioned("pip", *packages.version) : "";
    } else if (std::any_of(packages.lines.begin(), packages.lines.end(), has_hash)) {
      command.args.push_back("--require-hashes");
    }
  } else {
    std::vector<std::string> options;
    for (const std::string& option : packages.options)
      if (!is_idle(split_option(option).name)) options.push_back(option);
    pass_on(options, command);
    command.get = packages.version ? versioned("uv", *packages.version) : "";
  }
  make_paths_absolute(cwd, command);
  return command;
}

}  // namespace rtlaunch::installers
