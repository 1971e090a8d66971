#include <nlohmann/json.hpp>

#include "config/policy.h"

namespace rtlaunch::config {
namespace {

Json ids_json(const std::vector<IdRange>& ids) {
  Json list = Json::array();
  for (const IdRange& range : ids) {
    if (range.last == UINT32_MAX) {
      list.push_back("*");
    } else {
      list.push_back(std::to_string(range.first) + "-" + std::to_string(range.last));
    }
  }
  return list;
}

Json match_json(const Match& match) {
  Json json = Json::object();
  if (match.users) json["user"] = ids_json(*match.users);
  if (match.groups) json["group"] = ids_json(*match.groups);
  return json;
}

}  // namespace

std::string every_worker_text(const Policy& policy) {
  Json json = {{"version", 1}};
  if (policy.every_worker) json["every_worker"] = "require";
  for (const Rule& rule : policy.rules) {
    if (!rule.every_worker) continue;
    Json one = {{"name", rule.name}, {"if", match_json(rule.when)}, {"every_worker", "require"}};
    if (rule.has_unless) one["unless"] = match_json(rule.unless);
    json["rules"].push_back(std::move(one));
  }
  return json.dump() + "\n";
}

}  // namespace rtlaunch::config
