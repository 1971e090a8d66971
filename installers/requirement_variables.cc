#include <cctype>

#include "installers/requirement.h"

namespace rtlaunch::installers {
namespace {

bool is_word(char c) { return ::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

bool is_in_capitals(const std::string& name) {
  for (char c : name) {
    if (!is_word(c) || ::islower(static_cast<unsigned char>(c))) return false;
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
      size_t end = at + 1;
      std::string name = line[at] == '$' ? name_at(line, &end) : "";
      auto value = name.empty() ? std::nullopt : value_of(name);
      result += value ? *value : line.substr(at, end - at);
      at = end;
    }
    return result;
  }

 private:
  // The name behind the `$` that is before `end`, which comes to lie behind it. "": there is none.
  std::string name_at(const std::string& line, size_t* end) const {
    size_t from = *end, to = from;
    if (from < line.size() && line[from] == '{') {
      to = line.find('}', from);
      if (to == std::string::npos) return "";
      *end = to + 1;
      return line.substr(from + 1, to - from - 1);
    }
    if (as_pip_) return "";
    while (to < line.size() && is_word(line[to])) ++to;
    *end = to;
    return line.substr(from, to - from);
  }

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
