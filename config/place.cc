#include "config/place.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace rtlaunch::config {
namespace {

constexpr size_t kMostItems = 10'000, kLongest = 4096;

bool has_control_character(const std::string& text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

}  // namespace

const char* type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "a list";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "true or false";
    default:
      return "a number";
  }
}

std::string shown(const std::string& text) {
  std::string plain;
  for (char c : text.substr(0, 80)) plain += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return text.size() > 80 ? plain + "..." : plain;
}

Place Place::at(const std::string& key) const {
  return {text, path.empty() ? shown(key) : path + "." + shown(key), step};
}

Place Place::at(size_t index) const {
  return {text, path + "[" + std::to_string(index) + "]", step};
}

Error Place::bad(const std::string& reason, const std::string& cure) const {
  return make_error(step, path.empty() ? text : text + ": " + path, reason, cure);
}

Error Place::wrong_type(const char* expected, const Json& got) const {
  return bad(std::string("expected ") + expected + ", got " + type_name(got),
             "see the table in config/README.md");
}

Error Place::unknown(const char* what, const std::string& word,
                     const std::vector<std::string>& known) const {
  std::string near = nearest(word, known), all;
  for (const std::string& one : known) all += (all.empty() ? "" : ", ") + one;
  return bad(std::string("unknown ") + what + " `" + shown(word) + "`",
             near.empty() ? "there are " + all : "did you mean `" + near + "`?");
}

Status Place::object_of(const Json& value, const std::vector<std::string>& keys) const {
  if (!value.is_object()) return wrong_type("an object", value);
  for (const auto& [key, ignored] : value.items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) return unknown("key", key, keys);
  }
  return {};
}

Result<std::string> Place::string(const Json& value) const {
  if (!value.is_string()) return wrong_type("a string", value);
  const std::string& got = value.get_ref<const std::string&>();
  if (got.empty()) return bad("is empty", "give it a value or leave it out");
  if (got.size() > kLongest) return bad("is longer than 4096 characters", "make it shorter");
  if (has_control_character(got)) {
    return bad("holds a NUL, a line break or another control character", "take it out");
  }
  return got;
}

Result<std::vector<std::string>> Place::strings(const Json& value) const {
  if (!value.is_array()) return wrong_type("a list of strings", value);
  if (value.size() > kMostItems) {
    return bad("has more than " + std::to_string(kMostItems) + " items", "make the list shorter");
  }
  std::vector<std::string> all;
  for (size_t i = 0; i < value.size(); ++i) all.push_back(TRY(at(i).string(value[i])));
  return all;
}

Result<uint64_t> Place::number(const Json& value) const {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (!value.is_number()) return wrong_type("a whole number", value);
  return bad("is not a whole number from 0", "write it without sign, point and exponent");
}

}  // namespace rtlaunch::config
