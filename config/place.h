// Where in a JSON text a value stands, for errors that name the path of the key:
//
//   Place place{"policy.json", ""};
//   for (const auto& [key, value] : root.items()) TRY(read(place.at(key), value));
//   return place.wrong_type("a string", value);
#pragma once

#include <string>
#include <vector>

#include "config/json.h"
#include "isolation/sys/result.h"

namespace rtlaunch::config {

// "an object", "a number".
const char* type_name(const Json& value);
// Keys come from outside: short, and without control characters.
std::string shown(const std::string& text);

struct Place {
  std::string text;  // the file's name, or an option's
  std::string path;  // "rules[2].ceiling.memory"; "" for the whole
  const char* step = "policy";

  Place at(const std::string& key) const;
  Place at(size_t index) const;

  Error bad(const std::string& reason, const std::string& cure = "") const;
  Error wrong_type(const char* expected, const Json& got) const;
  Error unknown(const char* what, const std::string& word,
                const std::vector<std::string>& known) const;

  Status object_of(const Json& value, const std::vector<std::string>& keys) const;
  // Without NUL and control characters, not empty.
  Result<std::string> string(const Json& value) const;
  Result<std::vector<std::string>> strings(const Json& value) const;  // at most 10,000
  Result<uint64_t> number(const Json& value) const;                   // whole, not negative
};

}  // namespace rtlaunch::config
