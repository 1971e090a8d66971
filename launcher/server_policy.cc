#include "launcher/server_policy.h"

#include <cerrno>
#include <nlohmann/json.hpp>

#include "config/policy_file.h"
#include "isolation/spec_wire.h"

namespace rtlaunch {
namespace {

constexpr size_t kMostFilters = 256;

std::string name_of(const config::Policy& policy) {
  return policy.file.empty() ? "built-in" : policy.file;
}

void tell(const config::Policy& policy, Journal& journal) {
  journal.say(Level::kInfo, "policy",
              {.more = {{"file", name_of(policy)},
                        {"profiles", int64_t(policy.profiles.size())},
                        {"rules", int64_t(policy.rules.size())}}});
  for (const std::string& warning : policy.warnings) {
    journal.say(Level::kWarning, "policy_warning", {.more = {{"reason", warning}}});
  }
}

}  // namespace

Result<PolicyInForce> PolicyInForce::load(const std::string& file, Journal& journal) {
  PolicyInForce force;
  force.file_ = file;
  force.policy_ = TRY(file.empty() ? config::load_default_policy() : config::load_policy(file));
  force.loaded_ = wall_microseconds() / 1'000'000;
  tell(force.policy_, journal);
  return force;
}

// A file that has gone is no reason to be laxer than it was.
void PolicyInForce::reload(Journal& journal) {
  std::string file = !file_.empty() ? file_ : policy_.file;
  auto fresh = file.empty() ? config::load_default_policy() : config::load_policy(file);
  if (!fresh) {
    error_ = fresh.error().message();
    journal.say(Level::kError, "policy_refused", facts_of(fresh.error()));
    return;
  }
  error_.clear();
  policy_ = std::move(*fresh);
  filters_.clear();
  loaded_ = wall_microseconds() / 1'000'000;
  tell(policy_, journal);
}

Result<config::Verdict> PolicyInForce::decide(const isolation::User& user,
                                              const protocol::Request& request) const {
  config::Who who{user.uid, user.gid, user.groups, request.job, request.labels};
  config::Ask ask{request.profile, {request.controls.begin(), request.controls.end()}};
  return config::resolve(policy_, who, ask);
}

Result<Shield> PolicyInForce::shield(const config::Verdict& verdict, const std::string& job) {
  Shield shield = TRY(shield_of(verdict, job));
  isolation::Spec only;
  only.controls.seccomp = shield.bound.controls.seccomp;
  std::string key = isolation::encode(only);
  auto found = filters_.find(key);
  if (found == filters_.end()) {
    if (filters_.size() >= kMostFilters) filters_.clear();
    found = filters_.emplace(key, TRY(compiled_filter(shield))).first;
  }
  shield.filter = found->second;
  return shield;
}

config::Allowed PolicyInForce::allowed(const isolation::User& user) const {
  auto verdict = config::resolve(policy_, {user.uid, user.gid, user.groups, "", {}}, {});
  if (verdict) return verdict->allow;
  config::Allowed nothing;
  for (size_t key = 0; key < std::size(config::kAllowedKeys); ++key) {
    list_of(nothing, key) = std::vector<std::string>();
  }
  return nothing;
}

config::Json PolicyInForce::status() const {
  config::Json json = {{"file", name_of(policy_)},
                       {"loaded", loaded_},
                       {"profiles", policy_.profiles.size()},
                       {"rules", policy_.rules.size()},
                       {"warnings", policy_.warnings}};
  if (!error_.empty()) json["error"] = error_;
  return json;
}

}  // namespace rtlaunch
