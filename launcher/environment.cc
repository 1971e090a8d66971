#include "launcher/environment.h"

#include <map>
#include <nlohmann/json.hpp>

#include "installers/conda.h"

namespace rtlaunch {
namespace {

using installers::Field;
using installers::Plan;
using installers::Source;
using Json = nlohmann::ordered_json;

constexpr const char* kKinds[] = {"in place", "directory", "file", "archive", "url"};

Json mounts_json(const store::Record& record) {
  Json mounts = Json::array();
  auto known = installers::packages_mounts(record);
  if (!known) return mounts;
  std::map<std::string, size_t> numbers;
  for (size_t i = 0; i < record.layers.size(); ++i) numbers.emplace(record.layers[i].hex, i);
  for (const installers::PackagesMount& mount : *known) {
    Json layers = Json::array();
    for (const store::Digest& layer : mount.layers) layers.push_back(numbers.at(layer.hex));
    mounts.push_back({mount.target, std::move(layers)});
  }
  return mounts;
}

Json field_json(const Field& field) {
  Json json = {{"key", field.key ? field.key->hex : ""}};
  if (field.record) {
    json["name"] = field.record->name;
    json["layers"] = field.record->layers.size();
  }
  if (field.source) {
    json["source"] = field.source->shown;
    json["kind"] = kKinds[static_cast<int>(field.source->kind)];
    if (field.source->kind != Source::Kind::kUrl) json["path"] = field.source->path;
  } else if (field.image) {
    json["image"] = field.image->shown;
    if (field.record) json["facts"] = Json::parse(field.record->data, nullptr, false);
  } else if (field.plugin) {
    json["plugin"] = Json::parse(field.record->data);
  } else if (field.record) {
    json["mounts"] = mounts_json(*field.record);
    json["bytecode"] = !installers::lacks_bytecode(*field.record);
    if (field.name == "conda") json["variables"] = installers::conda_variables(*field.record);
  }
  return json;
}

std::string describe(const Plan& plan, Json variables) {
  Json fields = Json::object();
  for (const Field& field : plan.fields) fields[field.name] = field_json(field);
  Json json = {{"fields", fields}, {"env_vars", std::move(variables)}};
  if (plan.python) {
    json["python"] = plan.python->executable;
    json["python_mounts"] = plan.python->mounts;
    json["scripts"] = plan.python->scheme.scripts;
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string name_of(const Plan& plan) {
  std::string name;
  for (const Field& field : plan.fields) {
    std::string shown = field.record  ? field.record->name
                        : field.image ? field.image->shown
                                      : field.source->shown;
    if (shown.empty()) shown = field.name + ": nothing to add";
    name += (name.empty() ? "" : " + ") + shown;
  }
  return name;
}

Source source_from(const Json& json) {
  Source source;
  source.shown = json.at("source");
  source.path = json.value("path", "");
  std::string kind = json.at("kind");
  int number = 0;
  while (number < 4 && kind != kKinds[number]) ++number;
  source.kind = static_cast<Source::Kind>(number);
  return source;
}

// `layers` are the environment's, from `at` on this field's.
store::Record record_from(const Json& json, const std::vector<store::Digest>& layers, size_t& at) {
  store::Record record;
  record.name = json.at("name");
  for (size_t left = json.at("layers"); left > 0; --left) record.layers.push_back(layers.at(at++));
  if (json.contains("facts")) record.data = json.at("facts").dump();
  if (json.contains("plugin")) record.data = json["plugin"].dump();
  if (!json.contains("mounts")) return record;
  Json mounts = Json::array();
  for (const Json& mount : json.at("mounts")) {
    mounts.push_back({{"target", mount.at(0)}, {"layers", mount.at(1)}});
  }
  Json data = {{"mounts", std::move(mounts)}, {"bytecode", json.at("bytecode")}};
  if (json.contains("variables")) data["variables"] = json.at("variables");
  record.data = data.dump();
  return record;
}

Plan plan_from(const store::Record& record) {
  Json json = Json::parse(record.data);
  Plan plan;
  size_t at = 0;
  for (const auto& [name, described] : json.at("fields").items()) {
    Field& field = plan.fields.emplace_back();
    field.name = name;
    if (std::string key = described.at("key"); !key.empty()) field.key = store::Key{key};
    if (described.contains("plugin")) field.plugin = installers::Plugin{name, "", "", ""};
    if (described.contains("source")) field.source = source_from(described);
    if (described.contains("image")) {
      field.image.emplace();
      field.image->shown = described.at("image");
    }
    if (!field.in_place()) field.record = record_from(described, record.layers, at);
  }
  if (json.contains("python")) {
    plan.python.emplace();
    plan.python->executable = json.at("python");
    plan.python->mounts = json.at("python_mounts").get<std::vector<std::string>>();
    (void)plan.python->mounts.at(0);  // throws when there is none
    plan.python->scheme.scripts = json.at("scripts");
  }
  return plan;
}

}  // namespace

store::Record environment_record(const installers::PlanRequest& request, const Plan& plan) {
  Json names = Json::array();
  for (const auto& [name, value] : request.env.env_vars) names.push_back(name);
  return {"env", name_of(plan), plan.layers(), describe(plan, std::move(names))};
}

store::Record environment_record(const store::Record& known, const Plan& plan) {
  Json data = Json::parse(known.data, nullptr, false);
  Json names = data.is_object() ? data.value("env_vars", Json::array()) : Json::array();
  return {"env", known.name, plan.layers(), describe(plan, std::move(names))};
}

Result<Plan> plan_of(const store::Record& record) {
  try {
    return plan_from(record);
  } catch (const std::exception&) {  // of nlohmann's, and out_of_range
    return make_error("environment", record.name, "its record is of another version",
                      "make it again: rtlaunch env create");
  }
}

std::vector<store::Key> keys_of(const Plan& plan) {
  std::vector<store::Key> keys;
  for (const Field& field : plan.fields) {
    if (field.key && !field.in_place()) keys.push_back(*field.key);
  }
  return keys;
}

}  // namespace rtlaunch
