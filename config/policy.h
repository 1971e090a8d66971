// The policy: who may ask for what, and how strongly a worker is shut in. One JSON object:
//
//   {"version": 1,
//    "default": PROFILE,              what a worker gets if nobody says otherwise; "ml"
//    "choose": [PROFILE...],          what a caller may ask for by name; all that are shipped
//    "profiles": {NAME: {"about": TEXT, "extends": PROFILE, CONTROL: VALUE...}},
//    "ceiling": PROFILE or {"extends": PROFILE, CONTROL: VALUE...},
//    "allow": {"fields": [...], "indexes": [...], "images": [...], "mounts": [...],
//              "plugins": [...], "special_files": [...]},
//    "every_worker": "require",       of Ray's nodes: see every_worker(); "off"
//    "rules": [{"name": NAME, "if": MATCH, "unless": MATCH, and of the keys above
//               "profile" (a default), "choose", "ceiling", "allow", "every_worker"}]}
//   MATCH: {"user": [...], "group": [...], "job": [...], "label": {NAME: [...]}}
//
// How a worker's profile comes about (resolve()):
//   1. The rules that bind are those whose "if" matches and whose "unless" doesn't. All of them
//      count, in whatever order they stand: each can only take away.
//   2. The profile is the one asked for, which all "choose" must have; else that of the first such
//      rule with a "profile", else the default.
//   3. The ceilings, the policy's own and those of all such rules, bound every control of it. What
//      a profile that was asked for by name sets above a ceiling is refused, never trimmed.
//   4. Single controls that are asked for may only tighten what is there by now.
// What a request says of itself (job, labels) can bring a rule upon it, never lift one: "unless"
// knows only user and group. So whatever is asked for, the result is within every ceiling.
//
//   Policy policy = TRY(parse_policy(text, "policy.json", accounts));
//   Verdict verdict = TRY(resolve(policy, {.uid = 1000, .gid = 1000}, {.profile = "strict"}));
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "config/allowed.h"
#include "config/settings.h"
#include "isolation/sys/result.h"

namespace rtlaunch::config {

// Names of users and groups as numbers. Who they are is looked up once, when a policy is read.
struct Accounts {
  std::map<std::string, uint32_t> users, groups;
};
// /etc/passwd and /etc/group; who is known elsewhere (LDAP) is written by number.
Accounts read_accounts(const std::string& passwd = "/etc/passwd",
                       const std::string& group = "/etc/group");

struct IdRange {
  uint32_t first = 0, last = 0;
  bool operator==(const IdRange&) const = default;
};

// All that is there must match, each by one of its list.
struct Match {
  std::optional<std::vector<IdRange>> users, groups;
  std::optional<std::vector<std::string>> jobs;
  std::map<std::string, std::vector<std::string>> labels;
  bool operator==(const Match&) const = default;
};

struct Rule {
  std::string name;
  Match when, unless;
  bool has_unless = false;
  std::string profile;  // "": says nothing
  std::optional<std::vector<std::string>> choose;
  Settings ceiling;
  Allowed allow;
  bool every_worker = false;
};

struct Policy {
  std::string file;       // "" for the built-in one
  std::string otherwise;  // the default profile
  std::vector<std::string> choose;
  bool chooses = false;  // `choose` is written there; else it is no bound for what rules give
  std::map<std::string, Settings> profiles;
  std::map<std::string, std::string> abouts;
  Settings ceiling;
  Allowed allow;
  bool every_worker = false;
  std::vector<Rule> rules;
  std::vector<std::string> warnings;  // of rules that never match, and the like
};

// `name` is what the text is called in errors. At most 1 MiB: more is no policy.
inline constexpr size_t kMostPolicyBytes = 1 << 20;
Result<Policy> parse_policy(std::string_view text, const std::string& name,
                            const Accounts& accounts);
// What is in force where there is no file: the shipped profiles, each for everybody.
std::string_view built_in_text();
const Policy& built_in_policy();
const std::vector<std::string>& shipped_profiles();

struct Who {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
  std::string job;
  std::map<std::string, std::string> labels;
};

struct Ask {
  std::string profile;  // "": the default
  std::vector<std::pair<std::string, std::string>> controls;
};

struct Verdict {
  Profile profile;
  std::vector<std::string> from;    // of each control: "profile ml", "ceiling of rule x", "request"
  std::string chosen_by;            // "request", "rule x", "default"
  std::vector<std::string> rules;   // that bind
  std::vector<std::string> choose;  // what may be asked for
  Allowed allow;
  std::vector<std::string> allow_from;  // by kAllowedKeys
  std::string every_worker;             // every_worker()
};
// EPERM: something was asked for that the policy doesn't give. The object names it.
Result<Verdict> resolve(const Policy& policy, const Who& who, const Ask& ask);

// Who says that each worker on this user's nodes of Ray is shut in, also one that nothing is
// mounted for, or that has no runtime env: "policy", "rule x"; "": nobody. Job and labels don't
// count: such a worker is started before it is anybody's.
std::string every_worker(const Policy& policy, const Who& who);
// Of the policy only what every_worker() looks at, as a policy, with ids in place of names. What it
// says to whom may be seen by all.
std::string every_worker_text(const Policy& policy);

// Of job and labels: printable, no control characters, at most 256 bytes; at most 64 labels.
Status check_who(const Who& who);

// JSON Schema (2020-12) of the file.
Json policy_schema();

}  // namespace rtlaunch::config
