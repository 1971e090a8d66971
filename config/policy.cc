#include "config/policy.h"

#include <algorithm>
#include <cerrno>

namespace rtlaunch::config {
namespace {

constexpr size_t kMostLabels = 64, kLongestWord = 256;

bool matches_id(const std::optional<std::vector<IdRange>>& ranges,
                const std::vector<uint32_t>& ids) {
  if (!ranges) return true;
  return std::any_of(ranges->begin(), ranges->end(), [&](const IdRange& range) {
    return std::any_of(ids.begin(), ids.end(),
                       [&](uint32_t id) { return range.first <= id && id <= range.last; });
  });
}

bool matches_any(const std::vector<std::string>& patterns, std::string_view word) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return matches(pattern, word); });
}

bool binds(const Match& match, const Who& who) {
  std::vector<uint32_t> groups(who.groups.begin(), who.groups.end());
  groups.push_back(who.gid);
  if (!matches_id(match.users, {who.uid}) || !matches_id(match.groups, groups)) return false;
  if (match.jobs && (who.job.empty() || !matches_any(*match.jobs, who.job))) return false;
  return std::all_of(match.labels.begin(), match.labels.end(), [&](const auto& label) {
    auto found = who.labels.find(label.first);
    return found != who.labels.end() && matches_any(label.second, found->second);
  });
}

bool binds(const Rule& rule, const Who& who) {
  return binds(rule.when, who) && !(rule.has_unless && binds(rule.unless, who));
}

bool has(const std::vector<std::string>& list, const std::string& word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

Error not_given(const std::string& object, const std::string& reason, const std::string& cure) {
  return Error{"policy", EPERM, object, reason, cure, 125};
}

// One request on its way through the policy.
class Resolver {
 public:
  Resolver(const Policy& policy, const Who& who, const Ask& ask)
      : policy_(policy), who_(who), ask_(ask) {}
  Result<Verdict> resolve();

 private:
  void find_rules();
  Status find_choice();
  Status find_profile();
  Status apply_ceilings();
  Status apply_ceiling(const Settings& ceiling);
  Status apply_request();
  Status check_result() const;
  void find_allowed();
  void allow(const Allowed& allowed, const std::string& from);

  const Policy& policy_;
  const Who& who_;
  const Ask& ask_;
  std::vector<const Rule*> rules_;
  std::string choice_by_;
  const Settings* chosen_ = nullptr;
  Verdict verdict_;
};

void Resolver::find_rules() {
  for (const Rule& rule : policy_.rules) {
    if (!binds(rule, who_)) continue;
    rules_.push_back(&rule);
    verdict_.rules.push_back(rule.name);
  }
}

// What all lists have. Where none is written, what is shipped, and what rules give anyhow.
Status Resolver::find_choice() {
  std::vector<std::string> choice = policy_.choose;
  bool written = policy_.chooses;
  choice_by_ = "the policy";
  for (const Rule* rule : rules_) {
    if (!rule->choose) continue;
    std::vector<std::string> both;
    for (const std::string& name : written ? choice : *rule->choose) {
      if (has(*rule->choose, name)) both.push_back(name);
    }
    choice = std::move(both);
    written = true;
    choice_by_ = "rule " + rule->name;
  }
  if (!written && !has(choice, policy_.otherwise)) choice.push_back(policy_.otherwise);
  for (const Rule* rule : rules_) {
    if (!written && !rule->profile.empty() && !has(choice, rule->profile))
      choice.push_back(rule->profile);
  }
  verdict_.choose = std::move(choice);
  if (!verdict_.choose.empty()) return {};
  return not_given("profile", "the rules " + joined(verdict_.rules) + " leave none to choose",
                   "ask the admin: their \"choose\" have nothing in common");
}

Status Resolver::find_profile() {
  std::string name = ask_.profile;
  verdict_.chosen_by = "request";
  if (!name.empty() && policy_.profiles.count(name) == 0) {
    std::string near = nearest(name, verdict_.choose);
    return not_given(
        "profile " + shown(name), "there is no such profile",
        near.empty() ? "there are " + joined(verdict_.choose) : "did you mean " + near + "?");
  }
  if (!name.empty() && !has(verdict_.choose, name)) {
    return not_given("profile " + name, choice_by_ + " doesn't let you choose it",
                     "leave it out, or ask for one of: " + joined(verdict_.choose));
  }
  for (const Rule* rule : rules_) {
    if (!name.empty() || rule->profile.empty() || !has(verdict_.choose, rule->profile)) continue;
    name = rule->profile;
    verdict_.chosen_by = "rule " + rule->name;
  }
  if (name.empty()) {
    name = has(verdict_.choose, policy_.otherwise) ? policy_.otherwise : verdict_.choose.front();
    verdict_.chosen_by = name == policy_.otherwise ? "default" : choice_by_;
  }
  chosen_ = &policy_.profiles.at(name);
  verdict_.profile = chosen_->values;
  verdict_.profile.name = name;
  verdict_.from = chosen_->from;
  for (const Control& control : controls()) {
    std::string& from = verdict_.from[index_of(control)];
    if (from.empty()) from = control.always ? "always" : "default";
  }
  return {};
}

// What was asked for by name has to fit as it is. What it leaves open, the ceiling fills in.
Status Resolver::apply_ceiling(const Settings& ceiling) {
  std::vector<std::string> above;
  const Control* first = nullptr;
  for (const Control& control : controls()) {
    if (!ceiling.has(control) || within(control, verdict_.profile, ceiling.values)) continue;
    if (!ask_.profile.empty() && chosen_->has(control)) {
      if (first == nullptr) first = &control;
      above.emplace_back(control.name);
      continue;
    }
    tighten(control, &verdict_.profile, ceiling.values);
    verdict_.from[index_of(control)] = ceiling.from[index_of(control)];
  }
  if (first == nullptr) return {};
  return not_given(joined(above),
                   "profile " + ask_.profile + " has " + first->name + " " +
                       value_text(*first, chosen_->values) + ", and the " +
                       ceiling.from[index_of(*first)] + " allows " +
                       value_text(*first, ceiling.values),
                   "leave --profile out, or ask for a profile within the ceiling");
}

Status Resolver::apply_ceilings() {
  TRY(apply_ceiling(policy_.ceiling));
  for (const Rule* rule : rules_) TRY(apply_ceiling(rule->ceiling));
  return {};
}

Status Resolver::apply_request() {
  Settings asked = TRY(read_asked(ask_.controls));
  for (const Control& control : controls()) {
    if (!asked.has(control)) continue;
    std::string& from = verdict_.from[index_of(control)];
    if (!within(control, asked.values, verdict_.profile)) {
      return not_given(control.name,
                       value_text(control, asked.values) + " is more than " + from +
                           " gives: " + value_text(control, verdict_.profile),
                       "a request can only tighten; rtlaunch policy explain shows what is given");
    }
    if (!same(control, asked.values, verdict_.profile)) from = "request";
    tighten(control, &verdict_.profile, asked.values);
  }
  return {};
}

Status Resolver::check_result() const {
  const UidRange& uids = verdict_.profile.uids;
  if (uids.want == Want::kOff || uids.count > 0) return {};
  return not_given("uids", "profile and ceilings leave no user id", "ask the admin");
}

void Resolver::allow(const Allowed& allowed, const std::string& from) {
  for (size_t key = 0; key < std::size(kAllowedKeys); ++key) {
    const auto& list = list_of(allowed, key);
    if (!list) continue;
    auto& now = list_of(verdict_.allow, key);
    bool paths = &now == &verdict_.allow.mounts;
    now = !now ? *list : paths ? common_paths(*now, *list) : common_patterns(*now, *list);
    std::string& source = verdict_.allow_from[key];
    source += (source.empty() ? "" : ", ") + from;
  }
}

void Resolver::find_allowed() {
  verdict_.allow_from.resize(std::size(kAllowedKeys));
  allow(policy_.allow, "policy");
  for (const Rule* rule : rules_) allow(rule->allow, "rule " + rule->name);
}

Result<Verdict> Resolver::resolve() {
  TRY(check_who(who_));
  find_rules();
  TRY(find_choice());
  TRY(find_profile());
  TRY(apply_ceilings());
  TRY(apply_request());
  TRY(check_result());
  find_allowed();
  verdict_.every_worker = every_worker(policy_, who_);
  return std::move(verdict_);
}

Status check_word(const char* what, const std::string& word) {
  bool fine =
      word.size() <= kLongestWord &&
      std::all_of(word.begin(), word.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
  if (fine) return {};
  return make_error("command line", what, "too long, or with a control character in it",
                    "use at most 256 printable characters");
}

}  // namespace

Status check_who(const Who& who) {
  TRY(check_word("job", who.job));
  if (who.labels.size() > kMostLabels) {
    return make_error("command line", "label", "more than 64 labels", "give fewer");
  }
  for (const auto& [name, value] : who.labels) {
    TRY(check_name({"label", "", "command line"}, name));
    TRY(check_word("label", value));
  }
  return {};
}

std::string every_worker(const Policy& policy, const Who& who) {
  if (policy.every_worker) return "policy";
  for (const Rule& rule : policy.rules) {
    if (rule.every_worker && binds(rule, who)) return "rule " + rule.name;
  }
  return "";
}

Result<Verdict> resolve(const Policy& policy, const Who& who, const Ask& ask) {
  return Resolver(policy, who, ask).resolve();
}

}  // namespace rtlaunch::config
