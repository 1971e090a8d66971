// A reader of TOML 1.0 as far as a pylock.toml goes: tables, arrays of tables, inline tables,
// strings of both kinds (also multi-line), numbers, booleans; a date is kept as a string.
// Anything else is an error: a lock that isn't understood is not guessed at.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "isolation/sys/result.h"

namespace rtlaunch::installers {

Result<nlohmann::json> parse_toml(std::string_view text);

}  // namespace rtlaunch::installers
