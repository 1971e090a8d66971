// A variable in a text, `$NAME` or `${NAME}`: where it stands. What its value is, and whose word
// counts, is for who asks (expand_variables in runtime_env.h, the lines of pip and uv, Ray's keys).
#pragma once

#include <optional>
#include <string_view>

namespace rtlaunch::config {

struct Variable {
  std::string_view name;  // in braces whatever stands in them, else letters, digits and `_`
  size_t end = 0;         // behind it
  bool braces = false;
};

// The one that begins with the `$` at `at`.
std::optional<Variable> variable_at(std::string_view text, size_t at);

}  // namespace rtlaunch::config
