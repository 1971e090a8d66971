// YAML as conda's environment files have it, as the JSON that the rest of us reads. Every scalar
// but null is text, as written: 3.10 is no number. One key twice, more than 64 levels, 16 MiB or a
// million nodes (aliases make many of few) are refused.
#pragma once

#include <string>

#include "config/json.h"
#include "isolation/sys/result.h"

namespace rtlaunch::config {

// `name` is what the text is called in errors.
Result<Json> parse_yaml(const std::string& text, const std::string& name);

}  // namespace rtlaunch::config
