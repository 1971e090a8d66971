// What the parser in settings.cc takes, said in JSON Schema; policy_schema.cc has the rest.
#include <nlohmann/json.hpp>

#include "config/settings.h"
#include "config/settings_words.h"

namespace rtlaunch::config {
namespace {

// --- the schema
// -----------------------------------------------------------------------------------

Json object_schema(Json properties, std::vector<std::string> required) {
  properties["want"] = {{"enum", want_words()}};
  Json json = {{"type", "object"}, {"properties", properties}, {"additionalProperties", false}};
  if (!required.empty()) json["required"] = required;
  return json;
}

Json off_or(Json first, Json second) {
  return {{"oneOf", {{{"const", "off"}}, std::move(first), std::move(second)}}};
}

Json off_or(Json other) { return {{"oneOf", {{{"const", "off"}}, std::move(other)}}}; }

Json list_of(Json items) { return {{"type", "array"}, {"items", std::move(items)}}; }

Json amount_schema(Unit unit) {
  if (unit == Unit::kCpus) return {{"type", "number"}, {"minimum", 0.01}};
  if (unit == Unit::kWeight) return {{"type", "integer"}, {"minimum", 1}, {"maximum", 10000}};
  if (unit == Unit::kCount) return {{"type", "integer"}, {"minimum", 1}};
  return {{"type", {"integer", "string"}},
          {"minimum", 0},
          {"pattern", "^[0-9]+([KMGTkmgt][Bb]?|[Bb])?$"}};
}

Json text() { return {{"type", "string"}, {"minLength", 1}}; }
Json pattern() { return {{"type", "string"}, {"pattern", "^[^*]*\\*?$"}, {"minLength", 1}}; }
Json path() { return {{"type", "string"}, {"pattern", "^/"}}; }
Json device() { return {{"type", "string"}, {"pattern", "^/dev/[^*]*\\*?$"}}; }
Json call() { return {{"type", "string"}, {"pattern", "^[a-z0-9_]+$"}}; }
Json port() {
  return {{"type", {"integer", "string"}},
          {"minimum", 1},
          {"maximum", 65535},
          {"pattern", "^[0-9]+(-[0-9]+)?$"}};
}

Json schema_of(const Control& control, Want Profile::*) {
  return control.always ? Json{{"const", "require"}} : Json{{"enum", want_words()}};
}
Json schema_of(const Control& control, Amount Profile::*) {
  Json amount = amount_schema(control.unit);
  if (control.unit == Unit::kBytes) amount = {{"allOf", {amount, {{"not", {{"const", "off"}}}}}}};
  return off_or(amount, object_schema({{"at_most", amount}}, {}));
}
Json schema_of(const Control&, Names Profile::*) {
  return off_or(list_of(pattern()), object_schema({{"names", list_of(pattern())}}, {"names"}));
}
Json schema_of(const Control&, Grants Profile::*) { return off_or(list_of(device())); }
Json schema_of(const Control&, Syscalls Profile::*) {
  Json base = {{"enum", base_words()}};
  return off_or(
      base, object_schema({{"base", base}, {"allow", list_of(call())}, {"deny", list_of(call())}},
                          {"base"}));
}
Json schema_of(const Control&, Files Profile::*) {
  return off_or(object_schema({{"read", list_of(path())}, {"write", list_of(path())}}, {}));
}
Json schema_of(const Control&, Ports Profile::*) {
  return off_or(object_schema({{"connect", list_of(port())}, {"bind", list_of(port())}}, {}));
}
Json schema_of(const Control&, Network Profile::*) {
  Json object =
      object_schema({{"mode", {{"enum", mode_words()}}}, {"to", list_of(text())}}, {"mode"});
  return off_or(Json{{"enum", {"none", "job", "host"}}}, object);
}
Json schema_of(const Control&, ResourceLimits Profile::*) {
  Json properties = Json::object();
  for (const std::string& name : limit_words()) properties[name] = amount_schema(Unit::kBytes);
  return off_or(object_schema(properties, {}));
}
Json schema_of(const Control&, UidRange Profile::*) {
  Json number = {{"type", "integer"}, {"minimum", 1}};
  return off_or(object_schema({{"first", number}, {"count", number}}, {"first", "count"}));
}

}  // namespace

Json value_schema(const Control& control) {
  Json json = std::visit([&](auto member) { return schema_of(control, member); }, control.member);
  json["description"] = control.about;
  return json;
}

}  // namespace rtlaunch::config
