// From text to Policy. Every name is checked against what is there, every contradiction that can
// be seen without a request is refused, and what can never bind is warned of.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "config/policy.h"
#include "config/runtime_env.h"
#include "isolation/sys/files.h"

namespace rtlaunch::config {
namespace {

constexpr size_t kMostProfiles = 500, kMostRules = 1000, kLongestChain = 16, kMostMatches = 1000;

const std::vector<std::string> kKeys = {"version", "default", "choose",       "profiles", "ceiling",
                                        "allow",   "rules",   "every_worker", "$schema"};
const std::vector<std::string> kRuleKeys = {"name",   "if",      "unless", "profile",
                                            "choose", "ceiling", "allow",  "every_worker"};
const std::vector<std::string> kMatchKeys = {"user", "group", "job", "label"};
const std::vector<std::string> kShipped = {"strict", "ml", "debug", "ray"};

// What a control takes away by name, for contradictions with what `syscalls` adds.
struct Taken {
  Want Profile::*by;
  const char* control;
  std::vector<std::string> calls;
};
const std::vector<Taken>& taken_calls() {
  static const std::vector<Taken> kTaken = {
      {&Profile::no_io_uring,
       "no_io_uring",
       {"io_uring_setup", "io_uring_enter", "io_uring_register"}},
      {&Profile::no_userfaultfd, "no_userfaultfd", {"userfaultfd"}},
      {&Profile::no_bpf, "no_bpf", {"bpf"}},
      {&Profile::no_debug,
       "no_debug",
       {"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp",
        "perf_event_open"}},
      {&Profile::no_new_namespaces, "no_new_namespaces", {"unshare", "setns"}},
      {&Profile::no_mounts,
       "no_mounts",
       {"mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsmount",
        "fsconfig", "mount_setattr"}},
      {&Profile::own_keyring, "own_keyring", {"keyctl", "add_key", "request_key"}},
  };
  return kTaken;
}

bool has(const std::vector<std::string>& list, const std::string& word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

// --- who ----------------------------------------------------------------------------------------

std::optional<uint32_t> id_of(const std::string& digits) {
  if (digits.empty() || digits.size() > 10) return std::nullopt;
  if (digits.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  uint64_t id = std::stoull(digits);
  return id < UINT32_MAX ? std::optional(static_cast<uint32_t>(id)) : std::nullopt;
}

bool is_account_name(const std::string& name) {
  return name.size() <= 64 && name.find("..") == std::string::npos &&
         (std::isalpha(static_cast<unsigned char>(name[0])) || name[0] == '_') &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '$' || c == '@';
         });
}

// "alice", 1000, "2000-2999", "*".
Result<std::optional<IdRange>> read_id(const Place& place, const Json& json,
                                       const std::map<std::string, uint32_t>& accounts,
                                       std::vector<std::string>& warnings) {
  std::string text =
      json.is_number_unsigned() ? std::to_string(json.get<uint64_t>()) : TRY(place.string(json));
  if (text == "*") return std::optional(IdRange{0, UINT32_MAX});
  if (std::isdigit(static_cast<unsigned char>(text[0]))) {
    size_t dash = text.find('-');
    auto first = id_of(text.substr(0, dash));
    auto last = dash == std::string::npos ? first : id_of(text.substr(dash + 1));
    if (first && last && *first <= *last) return std::optional(IdRange{*first, *last});
    return place.bad("`" + shown(text) + "` is no id, and no range of ids",
                     "write 1000, or \"1000-1999\"; the last id is 4294967294");
  }
  if (!is_account_name(text)) {
    return place.bad("`" + shown(text) + "` is no account's name", "write a name or a number");
  }
  auto known = accounts.find(text);
  if (known != accounts.end()) return std::optional(IdRange{known->second, known->second});
  warnings.push_back(place.path + ": nobody here is called `" + text +
                     "`, so it matches nobody; who is known elsewhere is written by number");
  return std::optional<IdRange>();
}

Result<std::vector<IdRange>> read_ids(const Place& place, const Json& json,
                                      const std::map<std::string, uint32_t>& accounts,
                                      std::vector<std::string>& warnings) {
  if (!json.is_array()) return place.wrong_type("a list of names and ids", json);
  if (json.size() > kMostMatches) return place.bad("has too many items", "use a group, or a range");
  std::vector<IdRange> ids;
  for (size_t i = 0; i < json.size(); ++i) {
    auto range = TRY(read_id(place.at(i), json[i], accounts, warnings));
    if (range) ids.push_back(*range);
  }
  return ids;
}

Result<std::vector<std::string>> read_patterns(const Place& place, const Json& json) {
  auto list = TRY(place.strings(json));
  if (list.size() > kMostMatches) return place.bad("has too many items", "make the list shorter");
  for (size_t i = 0; i < list.size(); ++i) {
    size_t star = list[i].find('*');
    if (star == std::string::npos || star + 1 == list[i].size()) continue;
    return place.at(i).bad("`*` stands in the middle", "it may only stand at the end");
  }
  return list;
}

bool covered(const std::optional<std::vector<IdRange>>& inner,
             const std::optional<std::vector<IdRange>>& outer) {
  if (!outer) return true;
  if (!inner)
    return std::find(outer->begin(), outer->end(), IdRange{0, UINT32_MAX}) != outer->end();
  return std::all_of(inner->begin(), inner->end(), [&](const IdRange& one) {
    return std::any_of(outer->begin(), outer->end(), [&](const IdRange& other) {
      return other.first <= one.first && one.last <= other.last;
    });
  });
}

// What can't be shut in isn't started: there is nothing to prefer.
Result<bool> read_every_worker(const Place& place, const Json& json) {
  std::string word = TRY(place.string(json));
  if (word == "require" || word == "off") return word == "require";
  return place.bad("`" + shown(word) + "` is not known here", R"(write "require" or "off")");
}

// What is seen from the rule alone.
std::string why_never(const Rule& rule) {
  const Match& when = rule.when;
  if (when.users && when.users->empty()) return "its \"if\" has no user that is there";
  if (when.groups && when.groups->empty()) return "its \"if\" has no group that is there";
  if (when.jobs && when.jobs->empty()) return "its \"if\" has no job";
  for (const auto& [name, values] : when.labels) {
    if (values.empty()) return "its \"if\" has no value of label " + name;
  }
  if (rule.has_unless && covered(when.users, rule.unless.users) &&
      covered(when.groups, rule.unless.groups)) {
    return "\"unless\" covers all of \"if\"";
  }
  return "";
}

// --- the whole --------------------------------------------------------------------------------

class Parser {
 public:
  Parser(const Place& place, const Accounts& accounts, const Policy* shipped)
      : place_(place), accounts_(accounts), shipped_(shipped) {}
  Result<Policy> parse(const Json& root);

 private:
  Status profiles(const Json& json);
  Result<Settings> profile(const std::string& name, std::vector<std::string> chain);
  Status check_profile(const Place& place, const Settings& settings) const;
  Result<std::string> profile_name(const Place& place, const Json& json) const;
  Result<std::vector<std::string>> choice(const Place& place, const Json& json) const;
  Result<Settings> ceiling(const Place& place, const Json& json, const std::string& from) const;
  Result<Allowed> allowed(const Place& place, const Json& json) const;
  Result<Match> match(const Place& place, const Json& json, const std::vector<std::string>& keys);
  Status rules(const Json& json);
  Result<Rule> rule(const Place& place, const Json& json);
  Status check_rule(const Place& place, const Rule& rule);
  std::vector<std::string> known() const;

  const Place& place_;
  const Accounts& accounts_;
  const Policy* shipped_;
  const Json* written_ = nullptr;  // "profiles"
  bool chooses_ = false;
  Policy policy_;
};

std::vector<std::string> Parser::known() const {
  std::vector<std::string> names;
  for (const auto& [name, ignored] : policy_.profiles) names.push_back(name);
  return names;
}

// "ml" that extends "ml" is the shipped one with changes.
Result<Settings> Parser::profile(const std::string& name, std::vector<std::string> chain) {
  if (auto done = policy_.profiles.find(name); done != policy_.profiles.end()) return done->second;
  const Json& json = (*written_)[name];
  Place place = place_.at("profiles").at(name);
  if (chain.size() >= kLongestChain) return place.bad("extends too many others, one by one");
  chain.push_back(name);
  Settings settings;
  if (json.contains("extends")) {
    std::string parent = TRY(read_name(place.at("extends"), json["extends"]));
    bool is_shipped = shipped_ != nullptr && shipped_->profiles.count(parent) != 0;
    if (is_shipped && (parent == name || !written_->contains(parent))) {
      settings = shipped_->profiles.at(parent);
    } else if (has(chain, parent)) {
      std::string circle;
      for (const std::string& one : chain) circle += one + " → ";
      return place.at("extends").bad("goes round in a circle: " + circle + parent,
                                     "take one of them out");
    } else if (!written_->contains(parent)) {
      std::vector<std::string> names = kShipped;
      for (const auto& [other, ignored] : written_->items()) names.push_back(other);
      return place.at("extends").unknown("profile", parent, names);
    } else {
      settings = TRY(profile(parent, std::move(chain)));
    }
  }
  settings.take(TRY(read_settings(place, json, "profile " + name, {"extends", "about"})));
  TRY(check_profile(place, settings));
  if (json.contains("about")) policy_.abouts[name] = TRY(place.at("about").string(json["about"]));
  policy_.profiles[name] = settings;
  return settings;
}

Status Parser::check_profile(const Place& place, const Settings& settings) const {
  const Profile& profile = settings.values;
  for (const Taken& taken : taken_calls()) {
    if (profile.*taken.by == Want::kOff) continue;
    for (const std::string& name : taken.calls) {
      if (!has(profile.syscalls.allow, name)) continue;
      return place.bad(
          "contradiction: syscalls allows `" + name + "`, and " + taken.control + " takes it away",
          std::string("set ") + taken.control + " to off, or leave out " + name);
    }
  }
  return {};
}

Status Parser::profiles(const Json& json) {
  Place place = place_.at("profiles");
  if (!json.is_object()) return place.wrong_type("an object", json);
  if (json.size() > kMostProfiles) return place.bad("has too many profiles", "500 are the most");
  written_ = &json;
  for (const auto& [name, value] : json.items()) {
    TRY(check_name(place, name));
    if (!value.is_object()) return place.at(name).wrong_type("an object", value);
  }
  for (const auto& [name, value] : json.items()) TRY(profile(name, {}));
  return {};
}

Result<std::string> Parser::profile_name(const Place& place, const Json& json) const {
  std::string name = TRY(read_name(place, json));
  if (policy_.profiles.count(name) == 0) return place.unknown("profile", name, known());
  return name;
}

Result<std::vector<std::string>> Parser::choice(const Place& place, const Json& json) const {
  if (!json.is_array()) return place.wrong_type("a list of profiles", json);
  if (json.empty()) return place.bad("is empty: nothing could run", "name a profile");
  if (json.size() > kMostProfiles) return place.bad("has too many items", "500 are the most");
  std::vector<std::string> names;
  for (size_t i = 0; i < json.size(); ++i) {
    names.push_back(TRY(profile_name(place.at(i), json[i])));
  }
  return names;
}

Result<Settings> Parser::ceiling(const Place& place, const Json& json,
                                 const std::string& from) const {
  Settings settings;
  const Json* base = json.is_string() ? &json : nullptr;
  if (json.is_object() && json.contains("extends")) base = &json["extends"];
  if (base == nullptr && !json.is_object()) return place.wrong_type("a profile or controls", json);
  if (base != nullptr) {
    settings =
        policy_.profiles.at(TRY(profile_name(base == &json ? place : place.at("extends"), *base)));
  }
  if (json.is_object()) settings.take(TRY(read_settings(place, json, from, {"extends"})));
  for (std::string& who : settings.from) {
    if (!who.empty()) who = from;
  }
  return settings;
}

Result<Allowed> Parser::allowed(const Place& place, const Json& json) const {
  std::vector<std::string> keys(std::begin(kAllowedKeys), std::end(kAllowedKeys));
  TRY(place.object_of(json, keys));
  Allowed allowed;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!json.contains(keys[i])) continue;
    Place here = place.at(keys[i]);
    std::vector<std::string> list = TRY(read_patterns(here, json[keys[i]]));
    for (size_t at = 0; keys[i] == "mounts" && at < list.size(); ++at) {
      bool path = list[at][0] == '/' && list[at].find('*') == std::string::npos &&
                  (list[at] + "/").find("/../") == std::string::npos;
      if (!path) return here.at(at).bad("is no absolute directory", "begin it with /, without ..");
    }
    for (size_t at = 0; keys[i] == "fields" && at < list.size(); ++at) {
      if (list[at] != "*" && !has(field_names(), list[at])) {
        return here.at(at).unknown("field", list[at], field_names());
      }
    }
    list_of(allowed, i) = std::move(list);
  }
  return allowed;
}

Result<Match> Parser::match(const Place& place, const Json& json,
                            const std::vector<std::string>& keys) {
  TRY(place.object_of(json, keys));
  Match match;
  auto& warnings = policy_.warnings;
  if (json.contains("user")) {
    match.users = TRY(read_ids(place.at("user"), json["user"], accounts_.users, warnings));
  }
  if (json.contains("group")) {
    match.groups = TRY(read_ids(place.at("group"), json["group"], accounts_.groups, warnings));
  }
  if (json.contains("job")) match.jobs = TRY(read_patterns(place.at("job"), json["job"]));
  if (json.contains("label")) {
    Place here = place.at("label");
    if (!json["label"].is_object()) return here.wrong_type("an object", json["label"]);
    for (const auto& [name, values] : json["label"].items()) {
      TRY(check_name(here, name));
      match.labels[name] = TRY(read_patterns(here.at(name), values));
    }
  }
  return match;
}

Result<Rule> Parser::rule(const Place& place, const Json& json) {
  TRY(place.object_of(json, kRuleKeys));
  Rule rule;
  if (!json.contains("name")) return place.bad("has no name", "add \"name\": explain shows it");
  rule.name = TRY(read_name(place.at("name"), json["name"]));
  if (json.contains("if")) rule.when = TRY(match(place.at("if"), json["if"], kMatchKeys));
  if (json.contains("unless")) {
    const Json& unless = json["unless"];
    bool own_word = unless.is_object() && (unless.contains("job") || unless.contains("label"));
    if (own_word) {
      return place.at("unless").bad(
          "job and label are the caller's own word, and can't lift a rule", "use user and group");
    }
    rule.unless = TRY(match(place.at("unless"), unless, {"user", "group"}));
    rule.has_unless = true;
  }
  if (json.contains("profile")) {
    rule.profile = TRY(profile_name(place.at("profile"), json["profile"]));
  }
  if (json.contains("choose")) rule.choose = TRY(choice(place.at("choose"), json["choose"]));
  if (json.contains("ceiling")) {
    rule.ceiling =
        TRY(ceiling(place.at("ceiling"), json["ceiling"], "ceiling of rule " + rule.name));
  }
  if (json.contains("allow")) rule.allow = TRY(allowed(place.at("allow"), json["allow"]));
  if (json.contains("every_worker")) {
    Place here = place.at("every_worker");
    rule.every_worker = TRY(read_every_worker(here, json["every_worker"]));
    if (rule.when.jobs || !rule.when.labels.empty()) {
      return here.bad("workers are started before they are of a job, or labelled",
                      "let \"if\" have user and group alone");
    }
  }
  return rule;
}

Status Parser::check_rule(const Place& place, const Rule& rule) {
  if (!rule.profile.empty() && rule.choose && !has(*rule.choose, rule.profile)) {
    return place.at("profile").bad(
        "contradiction: `" + rule.profile + "` is not among what the same rule lets one choose",
        "add it to \"choose\"");
  }
  if (!rule.profile.empty() && chooses_ && !has(policy_.choose, rule.profile)) {
    return place.at("profile").bad(
        "contradiction: `" + rule.profile + "` is not among what the policy lets one choose",
        "add it to the policy's \"choose\"");
  }
  for (const Rule& other : policy_.rules) {
    if (other.name == rule.name) {
      return place.at("name").bad("there is a rule `" + rule.name + "` already", "name it anew");
    }
    bool alike = other.when == rule.when && other.unless == rule.unless &&
                 other.has_unless == rule.has_unless;
    bool closed =
        (alike && other.choose && !rule.profile.empty() && !has(*other.choose, rule.profile)) ||
        (alike && rule.choose && !other.profile.empty() && !has(*rule.choose, other.profile));
    if (closed) {
      return place.bad("contradiction: rule `" + other.name +
                           "` matches just the same, and of the two one gives a profile that the "
                           "other doesn't let one choose",
                       "add it to \"choose\"");
    }
    if (alike && !other.profile.empty() && !rule.profile.empty() && other.profile != rule.profile) {
      return place.at("profile").bad("contradiction: rule `" + other.name +
                                         "` matches just the same, and says profile " +
                                         other.profile,
                                     "take one of the two out");
    }
  }
  std::string never = why_never(rule);
  if (!never.empty()) {
    policy_.warnings.push_back("rule " + rule.name + " never matches: " + never);
  }
  bool says = !rule.profile.empty() || rule.choose || !rule.ceiling.empty() ||
              !(rule.allow == Allowed()) || rule.every_worker;
  if (!says) policy_.warnings.push_back("rule " + rule.name + " says nothing");
  return {};
}

Status Parser::rules(const Json& json) {
  Place place = place_.at("rules");
  if (!json.is_array()) return place.wrong_type("a list of rules", json);
  if (json.size() > kMostRules) return place.bad("has too many rules", "1000 are the most");
  for (size_t i = 0; i < json.size(); ++i) {
    Rule one = TRY(rule(place.at(i), json[i]));
    TRY(check_rule(place.at(i), one));
    policy_.rules.push_back(std::move(one));
  }
  return {};
}

Result<Policy> Parser::parse(const Json& root) {
  TRY(place_.object_of(root, kKeys));
  if (!root.contains("version")) return place_.bad("has no version", "add \"version\": 1");
  if (root.contains("$schema")) TRY(place_.at("$schema").string(root["$schema"]));
  if (root["version"] != 1) return place_.at("version").bad("is one that isn't known", "write 1");
  if (root.contains("profiles")) TRY(profiles(root["profiles"]));
  if (shipped_ != nullptr) {
    policy_.profiles.insert(shipped_->profiles.begin(), shipped_->profiles.end());
    policy_.abouts.insert(shipped_->abouts.begin(), shipped_->abouts.end());
  }
  policy_.otherwise = "ml";
  if (root.contains("default")) {
    policy_.otherwise = TRY(profile_name(place_.at("default"), root["default"]));
  }
  chooses_ = root.contains("choose");
  policy_.choose = kShipped;
  if (chooses_) policy_.choose = TRY(choice(place_.at("choose"), root["choose"]));
  policy_.chooses = chooses_;
  if (chooses_ && !has(policy_.choose, policy_.otherwise)) {
    return place_.at("default").bad(
        "contradiction: `" + policy_.otherwise + "` is not among what one may choose",
        "add it to \"choose\", or name another default");
  }
  if (root.contains("ceiling")) {
    policy_.ceiling = TRY(ceiling(place_.at("ceiling"), root["ceiling"], "ceiling"));
  }
  if (root.contains("allow")) policy_.allow = TRY(allowed(place_.at("allow"), root["allow"]));
  if (root.contains("every_worker")) {
    policy_.every_worker = TRY(read_every_worker(place_.at("every_worker"), root["every_worker"]));
  }
  if (root.contains("rules")) TRY(rules(root["rules"]));
  return std::move(policy_);
}

Result<Policy> parse(std::string_view text, const std::string& name, const Accounts& accounts,
                     const Policy* shipped) {
  Place place{name, ""};
  if (text.size() > kMostPolicyBytes) {
    return place.bad("is larger than 1 MiB: that is no policy", "give the right file");
  }
  Json root = TRY(parse_json(text, name));
  return Parser(place, accounts, shipped).parse(root);
}

void read_ids_from(const std::string& path, std::map<std::string, uint32_t>* ids) {
  auto text = sys::read_file(path, 64 << 20);
  for (size_t at = 0; text && at < text->size();) {
    std::string line = text->substr(at, text->find('\n', at) - at);
    at += line.size() + 1;
    size_t name = line.find(':'), password = line.find(':', name + 1);
    if (name == std::string::npos || name == 0 || password == std::string::npos) continue;
    auto id = id_of(line.substr(password + 1, line.find(':', password + 1) - password - 1));
    if (id) ids->emplace(line.substr(0, name), *id);
  }
}

}  // namespace

const std::vector<std::string>& shipped_profiles() { return kShipped; }

Accounts read_accounts(const std::string& passwd, const std::string& group) {
  Accounts accounts;
  read_ids_from(passwd, &accounts.users);
  read_ids_from(group, &accounts.groups);
  return accounts;
}

Result<Policy> parse_policy(std::string_view text, const std::string& name,
                            const Accounts& accounts) {
  Policy policy = TRY(parse(text, name, accounts, &built_in_policy()));
  policy.file = name;
  return policy;
}

// Ours: that it is right is what policy_test.cc sees to.
const Policy& built_in_policy() {
  static const Policy kPolicy = *parse(built_in_text(), "built-in policy", {}, nullptr);
  return kPolicy;
}

}  // namespace rtlaunch::config
