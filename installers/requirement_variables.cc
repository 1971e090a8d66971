#include <cctype>

#include "config/variable.h"
#include "installers/requirement.h"

namespace rtlaunch::installers {
namespace {

bool is_in_capitals(const std::string& name) {
  for (unsigned char c : name) {
    if ((!::isalnum(c) && c != '_') || ::islower(c)) return false;
  }
  return !name.empty();
}

class Expansion {
 public:
  Expansion(bool as_pip, const PackagesContext& context) : as_pip_(as_pip), context_(context) {}

  // Values are not looked through again.
  std::string of(const std::string& line) const {
    std::string result;
    for (size_t at = 0; at < line.size();) {
      auto variable = config::variable_at(line, at);
      if (variable && as_pip_ && !variable->braces) variable.reset();
      auto value = variable ? value_of(std::string(variable->name)) : std::nullopt;
      size_t end = variable ? variable->end : at + 1;
      result += value ? *value : line.substr(at, end - at);
      at = end;
    }
    return result;
  }

 private:
  std::optional<std::string> value_of(const std::string& name) const {
    if (name == kWorkingDirName) return kWorkingDirVariable;  // it has a place for each use
    if (as_pip_ && !is_in_capitals(name)) return std::nullopt;
    std::optional<std::string> value;
    auto found = context_.environment.find(name);
    bool ours = name.starts_with("RTLAUNCH_");  // one has the cluster's token
    if (found != context_.environment.end() && !ours) value = found->second;
    for (const auto& [own, text] : context_.env_vars) {
      if (own == name) value = text;
    }
    return as_pip_ && value == "" ? std::nullopt : value;
  }

  static constexpr const char* kWorkingDirName = "RAY_RUNTIME_ENV_CREATE_WORKING_DIR";
  const bool as_pip_;
  const PackagesContext& context_;
};

}  // namespace

config::Packages with_variables(config::Packages packages, const PackagesContext& context) {
  bool as_pip = packages.tool == config::Packages::Tool::kPip;
  Expansion expansion(as_pip, context);
  for (std::string& line : packages.lines) line = expansion.of(line);
  if (as_pip) return packages;
  for (std::string& option : packages.options) option = expansion.of(option);
  return packages;
}

std::string with_variables(const std::string& line, const PackagesContext& context) {
  return Expansion(true, context).of(line);
}

}  // namespace rtlaunch::installers
