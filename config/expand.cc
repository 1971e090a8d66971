#include "config/runtime_env.h"
#include "config/variable.h"

namespace rtlaunch::config {
namespace {

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// What is set. Values are not looked through again.
std::string substitute(const std::string& text,
                       const std::map<std::string, std::string>& environment) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    auto variable = variable_at(text, at);
    if (!variable) {
      result += text[at++];
      continue;
    }
    auto found = environment.find(std::string(variable->name));
    result += found != environment.end() ? found->second : text.substr(at, variable->end - at);
    at = variable->end;
  }
  return result;
}

bool is_upper_name(std::string_view name) {
  for (char c : name) {
    if (!is_word(c) || (c >= 'a' && c <= 'z')) return false;
  }
  return !name.empty();
}

// `${UPPER}` goes, wherever it came from: also from a value that was put in.
std::string drop_unset(const std::string& text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    bool opens = text.compare(at, 2, "${") == 0;
    size_t brace = opens ? text.find('}', at) : std::string::npos;
    if (brace != std::string::npos &&
        is_upper_name(std::string_view(text).substr(at + 2, brace - at - 2))) {
      at = brace + 1;
    } else {
      result += text[at++];
    }
  }
  return result;
}

}  // namespace

std::optional<Variable> variable_at(std::string_view text, size_t at) {
  size_t from = at + 1, to = from;
  if (at >= text.size() || text[at] != '$') return std::nullopt;
  if (from < text.size() && text[from] == '{') {
    to = text.find('}', from);
    if (to == std::string_view::npos) return std::nullopt;
    return Variable{text.substr(from + 1, to - from - 1), to + 1, true};
  }
  while (to < text.size() && is_word(text[to])) ++to;
  if (to == from) return std::nullopt;
  return Variable{text.substr(from, to - from), to, false};
}

std::string expand_variables(const std::string& value,
                             const std::map<std::string, std::string>& environment) {
  if (value.find('$') == std::string::npos) return value;
  return drop_unset(substitute(value, environment));
}

}  // namespace rtlaunch::config
