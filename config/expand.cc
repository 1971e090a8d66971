#include "config/runtime_env.h"

namespace rtlaunch::config {
namespace {

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// The end of the variable that begins at `at` (a '$'), or `at` when none does.
size_t variable_end(const std::string& text, size_t at) {
  size_t end = at + 1;
  if (end < text.size() && text[end] == '{') {
    size_t brace = text.find('}', end);
    return brace == std::string::npos ? at : brace + 1;
  }
  while (end < text.size() && is_word(text[end])) ++end;
  return end == at + 1 ? at : end;
}

// What is set. Values are not looked through again.
std::string substitute(const std::string& text,
                       const std::map<std::string, std::string>& environment) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    size_t end = text[at] == '$' ? variable_end(text, at) : at;
    if (end == at) {
      result += text[at++];
      continue;
    }
    bool braces = text[at + 1] == '{';
    std::string name = text.substr(at + 1 + braces, end - at - 1 - 2 * braces);
    auto found = environment.find(name);
    result += found != environment.end() ? found->second : text.substr(at, end - at);
    at = end;
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

std::string expand_variables(const std::string& value,
                             const std::map<std::string, std::string>& environment) {
  if (value.find('$') == std::string::npos) return value;
  return drop_unset(substitute(value, environment));
}

}  // namespace rtlaunch::config
