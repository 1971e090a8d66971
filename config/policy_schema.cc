#include <nlohmann/json.hpp>

#include "config/policy.h"
#include "config/runtime_env.h"

namespace rtlaunch::config {
namespace {

Json list_schema(Json items) { return {{"type", "array"}, {"items", std::move(items)}}; }

Json name_schema() {
  return {{"type", "string"}, {"pattern", "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}};
}

Json pattern_schema() { return {{"type", "string"}, {"pattern", "^[^*]*\\*?$"}, {"minLength", 1}}; }

Json object_schema(Json properties) {
  return {
      {"type", "object"}, {"properties", std::move(properties)}, {"additionalProperties", false}};
}

Json with_controls(Json properties) {
  for (const Control& control : controls()) properties[control.name] = value_schema(control);
  return object_schema(std::move(properties));
}

Json ids_schema() {
  Json number = {{"type", "integer"}, {"minimum", 0}, {"maximum", 4294967294}};
  Json word = {{"type", "string"}, {"minLength", 1}};
  return list_schema({{"oneOf", Json::array({number, word})}});
}

Json match_schema(bool own_word) {
  Json properties = {{"user", ids_schema()}, {"group", ids_schema()}};
  if (own_word) {
    properties["job"] = list_schema(pattern_schema());
    properties["label"] = {{"type", "object"},
                           {"additionalProperties", list_schema(pattern_schema())}};
  }
  return object_schema(std::move(properties));
}

Json allowed_schema() {
  Json properties = Json::object();
  for (const char* key : kAllowedKeys) properties[key] = list_schema(pattern_schema());
  std::vector<std::string> fields = field_names();
  fields.emplace_back("*");
  properties["fields"] = list_schema({{"enum", fields}});
  properties["mounts"] = list_schema({{"type", "string"}, {"pattern", "^/[^*]*$"}});
  return object_schema(std::move(properties));
}

Json ceiling_schema() {
  return {{"oneOf", Json::array({name_schema(), with_controls({{"extends", name_schema()}})})}};
}

Json choose_schema() {
  Json list = list_schema(name_schema());
  list["minItems"] = 1;
  return list;
}

Json every_worker_schema() { return {{"enum", {"off", "require"}}}; }

Json rule_schema() {
  Json rule = object_schema({{"name", name_schema()},
                             {"if", match_schema(true)},
                             {"unless", match_schema(false)},
                             {"profile", name_schema()},
                             {"choose", choose_schema()},
                             {"ceiling", ceiling_schema()},
                             {"allow", allowed_schema()},
                             {"every_worker", every_worker_schema()}});
  rule["required"] = {"name"};
  return rule;
}

}  // namespace

Json policy_schema() {
  Json profile = with_controls(
      {{"extends", name_schema()}, {"about", {{"type", "string"}, {"minLength", 1}}}});
  Json profiles = {{"type", "object"},
                   {"propertyNames", name_schema()},
                   {"additionalProperties", std::move(profile)}};
  Json schema = object_schema({{"$schema", {{"type", "string"}}},
                               {"version", {{"const", 1}}},
                               {"default", name_schema()},
                               {"choose", choose_schema()},
                               {"profiles", std::move(profiles)},
                               {"ceiling", ceiling_schema()},
                               {"allow", allowed_schema()},
                               {"every_worker", every_worker_schema()},
                               {"rules", list_schema(rule_schema())}});
  schema["required"] = {"version"};
  Json whole = {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
                {"title", "rtlaunch's isolation policy"}};
  whole.update(schema);
  return whole;
}

}  // namespace rtlaunch::config
