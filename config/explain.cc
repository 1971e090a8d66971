#include "config/explain.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace rtlaunch::config {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return words.empty() ? "none" : text;
}

std::string padded(std::string text, size_t width) {
  text.resize(std::max(text.size() + 2, width), ' ');
  return text;
}

}  // namespace

Json verdict_json(const Verdict& verdict) {
  Json json = {{"profile", verdict.profile.name}, {"chosen_by", verdict.chosen_by},
               {"rules", verdict.rules},          {"choose", verdict.choose},
               {"controls", Json::object()},      {"allow", Json::object()}};
  for (const Control& control : controls()) {
    json["controls"][control.name] = {{"value", value_json(control, verdict.profile)},
                                      {"text", value_text(control, verdict.profile)},
                                      {"from", verdict.from[index_of(control)]}};
  }
  for (size_t key = 0; key < std::size(kAllowedKeys); ++key) {
    const auto& list = list_of(verdict.allow, key);
    if (list)
      json["allow"][kAllowedKeys[key]] = {{"list", *list}, {"from", verdict.allow_from[key]}};
  }
  json["every_worker"] = {
      {"value", verdict.every_worker.empty() ? "off" : "require"},
      {"from", verdict.every_worker.empty() ? "default" : verdict.every_worker}};
  return json;
}

std::string verdict_text(const Verdict& verdict, bool all) {
  std::string text = "profile " + verdict.profile.name + ", by " + verdict.chosen_by +
                     "; may choose " + joined(verdict.choose) + "\n";
  text += "rules: " + joined(verdict.rules) + "\n\n";
  for (const Control& control : controls()) {
    const std::string& from = verdict.from[index_of(control)];
    if (from == "default" && !all) continue;
    text +=
        padded(control.name, 20) + padded(value_text(control, verdict.profile), 36) + from + "\n";
  }
  for (size_t key = 0; key < std::size(kAllowedKeys); ++key) {
    const auto& list = list_of(verdict.allow, key);
    if (list) {
      text += padded(kAllowedKeys[key], 20) + padded(joined(*list), 36) + verdict.allow_from[key] +
              "\n";
    }
  }
  if (!verdict.every_worker.empty())
    text += padded("every_worker", 20) + padded("require", 36) + verdict.every_worker + "\n";
  return text;
}

std::vector<Difference> differences(const Profile& a, const Profile& b) {
  std::vector<Difference> all;
  for (const Control& control : controls()) {
    if (!same(control, a, b)) {
      all.push_back({control.name, value_text(control, a), value_text(control, b)});
    }
  }
  return all;
}

}  // namespace rtlaunch::config
