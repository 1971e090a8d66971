#include "launcher/oci_filter.h"

#include <cerrno>
#include <nlohmann/json.hpp>

#include "isolation/seccomp_rules.h"

namespace rtlaunch {
namespace {

using config::Json;

constexpr uint64_t kLow = 0xffffffff;  // an int in a register

Json masked(int index, uint64_t mask, uint64_t value) {
  return {{"index", index}, {"value", mask}, {"valueTwo", value}, {"op", "SCMP_CMP_MASKED_EQ"}};
}

Json allowed(const std::vector<std::string>& names, Json arguments = {}) {
  Json json = {{"names", names}, {"action", "SCMP_ACT_ALLOW"}};
  if (!arguments.empty()) json["args"] = std::move(arguments);
  return json;
}

void add_families(Json* list) {
  const std::vector<std::string> names = {"socket", "socketpair"};
  for (uint32_t family : isolation::kFamilies)
    list->push_back(allowed(names, Json::array({masked(0, kLow, family)})));
  list->push_back(
      allowed(names, Json::array({masked(0, kLow, isolation::kNetlink), masked(2, kLow, 0)})));
}

// Of a call that is allowed in part; false: it is allowed as it is.
bool add_guarded(const std::string& name, const isolation::FilterRules& rules, Json* list) {
  auto has = [&](isolation::Guards guard) { return (rules.guards & guard) != 0; };
  if ((name == "socket" || name == "socketpair") && has(isolation::kGuardFamilies)) return true;
  if ((name == "clone" || name == "unshare") && has(isolation::kGuardNamespaces)) {
    uint64_t flags = isolation::kNewNamespaces | (name == "unshare" ? isolation::kNewTime : 0);
    list->push_back(allowed({name}, Json::array({masked(0, flags, 0)})));
    return true;
  }
  bool some = has(isolation::kGuardPersonality) && rules.base != isolation::FilterBase::kDebug;
  if (name != "personality" || !some) return false;
  for (uint32_t value : isolation::kPersonalities)
    list->push_back(allowed({name}, Json::array({masked(0, kLow, value)})));
  return true;
}

}  // namespace

Json oci_filter(const isolation::FilterRules& rules) {
  bool open = rules.base == isolation::FilterBase::kOpen;
  Json list = Json::array();
  std::vector<std::string> plain, denied;
  for (std::string_view known : isolation::known_calls(rules)) {
    std::string name(known);
    isolation::Verdict verdict = isolation::verdict(rules, known);
    if (verdict == isolation::Verdict::kDenied) denied.push_back(name);
    bool listed = verdict == isolation::Verdict::kAllowed && !open;
    if (listed && !add_guarded(name, rules, &list)) plain.push_back(std::move(name));
  }
  if (!open) list.push_back(allowed(plain));
  if ((rules.guards & isolation::kGuardFamilies) != 0 && !open) add_families(&list);
  if (!denied.empty()) {
    list.push_back({{"names", denied}, {"action", "SCMP_ACT_ERRNO"}, {"errnoRet", EPERM}});
  }
  Json json = {{"defaultAction", open ? "SCMP_ACT_ALLOW" : "SCMP_ACT_ERRNO"}};
  if (!open) json["defaultErrnoRet"] = ENOSYS;
  json["architectures"] = {"SCMP_ARCH_X86_64"};
  json["syscalls"] = std::move(list);
  return json;
}

}  // namespace rtlaunch
