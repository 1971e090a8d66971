// Columns for people, JSON for programs, both on stdout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/json.h"

namespace rtlaunch {

using Row = std::vector<std::string>;

// Each line once, columns two spaces apart, without an end of line at its end.
std::vector<std::string> table_lines(const std::vector<Row>& rows);
void print_table(const std::vector<Row>& rows);
void print_json(const config::Json& json);

std::string short_name(const std::string& hex);        // twelve digits of it
std::string human_duration(int64_t seconds);           // "90 s", "15 min", "3 h", "7 d"
std::string human_expiry(int64_t seconds_since_1970);  // "in 15 min"; 0: "never"
// What comes from outside must be text and nothing else on a terminal: control characters become
// spaces.
std::string printable(std::string text);

}  // namespace rtlaunch
