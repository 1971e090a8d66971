// The one way in for JSON: strict. Refuses duplicate keys, trailing text, comments, NaN, invalid
// UTF-8, nesting over 64 levels, input over 16 MiB. Errors give line and column.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::config {

// Objects keep the order they were written in.
using Json = nlohmann::ordered_json;

// `name` is what the text is called in an error: a file's name, or "--runtime-env".
Result<Json> parse_json(std::string_view text, const std::string& name);

// The candidate nearest to `word` by edit distance, or "" when none is near.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace rtlaunch::config
