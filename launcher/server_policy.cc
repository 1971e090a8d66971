#include "launcher/server_policy.h"

#include <cerrno>
#include <nlohmann/json.hpp>

#include "config/policy_file.h"
#include "isolation/spec_wire.h"
#include "isolation/wire.h"

namespace rtlaunch {
namespace {

constexpr size_t kMostFilters = 256, kMostDecisions = 64, kMostAsked = 4096;

std::string name_of(const config::Policy& policy) {
  return policy.file.empty() ? "built-in" : policy.file;
}

// All that decide() looks at.
std::string asked_by(const isolation::User& user, const protocol::Request& request) {
  isolation::Writer out;
  out.number(user.uid).number(user.gid).number(static_cast<uint32_t>(user.groups.size()));
  for (gid_t group : user.groups) out.number(group);
  out.text(request.profile).text(request.job);
  for (const auto* named : {&request.controls, &request.labels}) {
    out.number(static_cast<uint32_t>(named->size()));
    for (const auto& [name, value] : *named) out.text(name).text(value);
  }
  return out.take();
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
  decisions_.clear();
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
  Shield shield = TRY(shield_of(verdict, job, &folders_));
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

Result<Decision> PolicyInForce::decide_anew(const isolation::User& user,
                                            const protocol::Request& request) {
  Decision decision;
  decision.verdict = TRY(decide(user, request));
  config::Profile& profile = decision.verdict.profile;
  decision.shape = shape_of(profile).key();
  if (user.uid == 0) std::swap(decision.uids, profile.uids);
  decision.shield = TRY(shield(decision.verdict, request.job));
  decision.encoded = encode(decision.shield);
  Shield plain = decision.shield;
  plain.filter.clear();
  decision.recorded = encode(plain);
  return decision;
}

Result<std::shared_ptr<const Decision>> PolicyInForce::decision(const isolation::User& user,
                                                                const protocol::Request& request) {
  std::string asked = asked_by(user, request);
  auto found = decisions_.find(asked);
  if (found != decisions_.end()) {
    const Decision& known = *found->second;
    bool same = granted_devices(known.verdict.profile, &folders_) ==
                known.shield.bound.controls.devices.paths;
    if (same) return found->second;
  }
  auto made = std::make_shared<const Decision>(TRY(decide_anew(user, request)));
  if (asked.size() > kMostAsked) return made;
  if (decisions_.size() >= kMostDecisions) decisions_.clear();
  decisions_[std::move(asked)] = made;
  return made;
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
