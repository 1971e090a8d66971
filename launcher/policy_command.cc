#include "launcher/policy_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "config/explain.h"
#include "config/policy_file.h"
#include "config/runtime_env.h"
#include "isolation/sys/files.h"
#include "launcher/oci_filter.h"
#include "launcher/policy_audit.h"
#include "launcher/shield.h"
#include "launcher/table.h"

namespace rtlaunch {
namespace {

using config::Ask;
using config::Json;
using config::Policy;
using config::Verdict;
using config::Who;

constexpr uint64_t kMostRequests = 16 << 20;

struct Options {
  std::vector<std::string> words;
  std::string policy, user, job, profile, runtime_env;
  std::vector<std::string> groups, labels, controls;
  bool json = false, all = false, oci = false;
};

Error usage_error(const std::string& object, const std::string& reason, const std::string& cure) {
  return make_error("command line", object, reason, cure);
}

Status take(Options& options, const std::string& name, const std::string& value) {
  std::string* texts[] = {&options.policy, &options.user, &options.job, &options.profile,
                          &options.runtime_env};
  const char* text_names[] = {"--policy", "--user", "--job", "--profile", "--runtime-env"};
  for (size_t i = 0; i < std::size(texts); ++i) {
    if (name == text_names[i]) return *texts[i] = value, Status();
  }
  std::vector<std::string>* lists[] = {&options.groups, &options.labels, &options.controls};
  const char* list_names[] = {"--group", "--label", "--control"};
  for (size_t i = 0; i < std::size(lists); ++i) {
    if (name == list_names[i]) return lists[i]->push_back(value), Status();
  }
  std::vector<std::string> known = {"--json", "--all", "--oci"};
  known.insert(known.end(), std::begin(text_names), std::end(text_names));
  known.insert(known.end(), std::begin(list_names), std::end(list_names));
  std::string near = config::nearest(name, known);
  return usage_error(name, "unknown option",
                     near.empty() ? "see rtlaunch policy --help" : "did you mean " + near + "?");
}

Result<Options> parse(const std::vector<std::string>& args) {
  Options options;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& word = args[i];
    if (word.rfind("--", 0) != 0) {
      options.words.push_back(word);
    } else if (word == "--json" || word == "--all" || word == "--oci") {
      (word == "--json" ? options.json : word == "--all" ? options.all : options.oci) = true;
    } else if (size_t equals = word.find('='); equals != std::string::npos) {
      TRY(take(options, word.substr(0, equals), word.substr(equals + 1)));
    } else if (i + 1 < args.size()) {
      TRY(take(options, word, args[++i]));
    } else {
      TRY(take(options, word, ""));
      return usage_error(word, "needs a value", "see rtlaunch policy --help");
    }
  }
  return options;
}

Result<std::pair<std::string, std::string>> pair_of(const char* option, const std::string& text) {
  size_t equals = text.find('=');
  if (equals != std::string::npos && equals > 0) {
    return std::pair(text.substr(0, equals), text.substr(equals + 1));
  }
  return usage_error(std::string(option) + " " + text, "no name before '='", "write NAME=VALUE");
}

// --- who
// ------------------------------------------------------------------------------------------

std::vector<std::vector<std::string>> lines_of(const char* path) {
  std::vector<std::vector<std::string>> lines;
  auto text = sys::read_file(path, 64 << 20);
  std::string line;
  for (size_t at = 0; text && at < text->size(); at += line.size() + 1) {
    line = text->substr(at, text->find('\n', at) - at);
    std::vector<std::string> parts(1);
    for (char c : line) {
      if (c == ':') parts.emplace_back();
      if (c != ':') parts.back().push_back(c);
    }
    if (parts.size() >= 4) lines.push_back(std::move(parts));
  }
  return lines;
}

Result<uint32_t> id_of(const std::string& option, const std::string& text) {
  bool digits = !text.empty() && text.size() <= 10 &&
                text.find_first_not_of("0123456789") == std::string::npos;
  if (digits && std::stoull(text) < UINT32_MAX) return static_cast<uint32_t>(std::stoull(text));
  return usage_error(option + " " + text, "nobody of this name is here",
                     "write it as in /etc/passwd or /etc/group, or as a number");
}

Result<uint32_t> group_of(const std::string& name) {
  for (const auto& line : lines_of("/etc/group")) {
    if (line[0] == name) return id_of("--group", line[2]);
  }
  return id_of("--group", name);
}

// As login(1) would have it.
Result<Who> account(const std::string& user) {
  Who who;
  std::string name = user;
  bool known = false;
  for (const auto& line : lines_of("/etc/passwd")) {
    if (line[0] != user && line[2] != user) continue;
    name = line[0];
    who.uid = TRY(id_of("--user", line[2]));
    who.gid = TRY(id_of("--user", line[3]));
    known = true;
    break;
  }
  if (!known) who.uid = who.gid = TRY(id_of("--user", user));
  for (const auto& line : lines_of("/etc/group")) {
    std::string members = "," + line[3] + ",";
    if (members.find("," + name + ",") == std::string::npos) continue;
    who.groups.push_back(TRY(id_of("--group", line[2])));
  }
  return who;
}

Result<Who> who_of(const Options& options) {
  Who who = options.user.empty() ? TRY(config::ourselves()) : TRY(account(options.user));
  for (const std::string& name : options.groups) who.groups.push_back(TRY(group_of(name)));
  who.job = options.job;
  for (const std::string& label : options.labels) {
    auto [name, value] = TRY(pair_of("--label", label));
    who.labels[name] = value;
  }
  return who;
}

Result<Ask> ask_of(const Options& options) {
  Ask ask;
  ask.profile = options.profile;
  for (const std::string& control : options.controls) {
    ask.controls.push_back(TRY(pair_of("--control", control)));
  }
  return ask;
}

// --- the verbs ----------------------------------------------------------------------------------

Result<Policy> policy_of(const Options& options) {
  if (!options.policy.empty()) return config::read_policy_of_anybody(options.policy);
  return config::load_default_policy();
}

Result<config::RuntimeEnv> runtime_env_of(const std::string& option) {
  std::string cwd = TRY(sys::real_path("."));
  size_t first = option.find_first_not_of(" \t\r\n");
  bool inline_text = first != std::string::npos && option[first] == '{';
  if (inline_text) return config::parse_runtime_env(option, "--runtime-env", cwd);
  std::string text = TRY(sys::read_file(option, 16 << 20));
  return config::parse_runtime_env(text, option, cwd);
}

Status need_words(const Options& options, size_t count, const char* what) {
  if (options.words.size() == count) return {};
  return usage_error("policy", std::string("needs ") + what, "see rtlaunch policy --help");
}

// Names of system calls are the kernel's: only who compiles a filter knows them.
void try_filters(Policy* policy) {
  for (const auto& [name, settings] : policy->profiles) {
    Verdict verdict;
    verdict.profile = settings.values;
    auto shield = shield_of(verdict);
    Status made = shield ? Status() : Status(shield.error());
    if (shield) {
      auto filter = compiled_filter(*shield);
      if (!filter) made = filter.error();
    }
    if (!made) policy->warnings.push_back("profile " + name + ": " + made.error().message());
  }
}

Result<int> check(const Options& options) {
  TRY(need_words(options, 1, "one FILE"));
  Policy policy = TRY(config::read_policy_of_anybody(options.words[0]));
  try_filters(&policy);
  auto again = config::load_policy(options.words[0]);
  if (!again) policy.warnings.push_back("the daemon would refuse it: " + again.error().message());
  if (options.json) {
    print_json({{"ok", true},
                {"warnings", policy.warnings},
                {"profiles", policy.profiles.size()},
                {"rules", policy.rules.size()}});
    return 0;
  }
  for (const std::string& warning : policy.warnings) std::printf("warning: %s\n", warning.c_str());
  std::printf("%s: %zu profiles, %zu rules, %zu warnings\n", policy.file.c_str(),
              policy.profiles.size(), policy.rules.size(), policy.warnings.size());
  return 0;
}

Result<int> explain(const Options& options) {
  TRY(need_words(options, 0, "options only"));
  Policy policy = TRY(policy_of(options));
  Who who = TRY(who_of(options));
  Ask ask = TRY(ask_of(options));
  Verdict verdict = TRY(config::resolve(policy, who, ask));
  Status fields;
  if (!options.runtime_env.empty()) {
    config::RuntimeEnv env = TRY(runtime_env_of(options.runtime_env));
    fields = config::check_fields(env, verdict.allow);
  }
  if (options.json) {
    Json json = config::verdict_json(verdict);
    json["user"] = who.uid;
    json["policy"] = policy.file.empty() ? "built-in" : policy.file;
    json["runtime_env"] = fields ? Json("allowed") : Json(fields.error().message());
    print_json(json);
  } else {
    std::printf("policy: %s; user %u\n%s", policy.file.empty() ? "built-in" : policy.file.c_str(),
                who.uid, config::verdict_text(verdict, options.all).c_str());
  }
  TRY(std::move(fields));
  return 0;
}

Result<int> export_oci(const Options& options) {
  TRY(need_words(options, 0, "options only"));
  if (!options.oci) return usage_error("policy export", "no format", "say --oci");
  Policy policy = TRY(policy_of(options));
  Who who = TRY(who_of(options));
  Ask ask = TRY(ask_of(options));
  Verdict verdict = TRY(config::resolve(policy, who, ask));
  Json json = config::oci_config(verdict.profile, who.uid, who.gid);
  Verdict calls = verdict;  // of which no network or user is made here
  calls.profile.network = {};
  calls.profile.uids = {};
  Shield shield = TRY(shield_of(calls));
  const isolation::Filter& filter = shield.bound.controls.seccomp;
  if (filter.want != isolation::Want::kOff) json["linux"]["seccomp"] = oci_filter(filter.rules);
  print_json(json);
  return 0;
}

// A profile as `diff` sees it, of a policy or of nobody.
using Named = std::map<std::string, config::Profile>;

bool is_file(const std::string& word) {
  return word.find('/') != std::string::npos || word.ends_with(".json");
}

// Everything in a policy that bounds somebody, under a name of its own.
Named parts_of(const Policy& policy) {
  Named parts;
  for (const auto& [name, settings] : policy.profiles) parts["profile " + name] = settings.values;
  if (!policy.ceiling.empty()) parts["ceiling"] = policy.ceiling.values;
  for (const auto& rule : policy.rules) {
    if (!rule.ceiling.empty()) parts["ceiling of rule " + rule.name] = rule.ceiling.values;
  }
  return parts;
}

void add_difference(Json& list, const std::string& where, const std::string& what,
                    const std::string& before, const std::string& after) {
  list.push_back({{"where", where}, {"what", what}, {"before", before}, {"after", after}});
}

void add_every_worker(Json& list, const std::string& where, bool before, bool after) {
  auto word = [](bool required) { return required ? "require" : "off"; };
  if (before != after) add_difference(list, where, "every_worker", word(before), word(after));
}

Json diff_policies(const Policy& a, const Policy& b) {
  Json list = Json::array();
  Named before = parts_of(a), after = parts_of(b), all = before;
  all.insert(after.begin(), after.end());
  if (a.otherwise != b.otherwise)
    add_difference(list, "default", "profile", a.otherwise, b.otherwise);
  add_every_worker(list, "policy", a.every_worker, b.every_worker);
  for (const auto& [name, ignored] : all) {
    bool had = before.count(name) != 0, has = after.count(name) != 0;
    if (had != has) add_difference(list, name, "there", had ? "yes" : "no", has ? "yes" : "no");
    if (!had || !has) continue;
    for (const auto& one : config::differences(before[name], after[name]))
      add_difference(list, name, one.control, one.before, one.after);
  }
  std::map<std::string, const config::Rule*> rules;
  for (const auto& rule : a.rules) rules[rule.name] = &rule;
  for (const auto& rule : b.rules) {
    auto old = rules.find(rule.name);
    if (old == rules.end()) {
      add_difference(list, "rule " + rule.name, "there", "no", "yes");
      continue;
    }
    const config::Rule& was = *old->second;
    bool same_match = was.when == rule.when && was.unless == rule.unless;
    if (!same_match) add_difference(list, "rule " + rule.name, "who", "changed", "changed");
    if (was.profile != rule.profile)
      add_difference(list, "rule " + rule.name, "profile", was.profile, rule.profile);
    if (was.choose != rule.choose || !(was.allow == rule.allow))
      add_difference(list, "rule " + rule.name, "choose or allow", "changed", "changed");
    add_every_worker(list, "rule " + rule.name, was.every_worker, rule.every_worker);
    rules.erase(old);
  }
  for (const auto& [name, ignored] : rules)
    add_difference(list, "rule " + name, "there", "yes", "no");
  return list;
}

Result<config::Profile> profile_of(const Policy& policy, const std::string& name) {
  auto found = policy.profiles.find(name);
  if (found != policy.profiles.end()) return found->second.values;
  std::vector<std::string> names;
  for (const auto& [known, ignored] : policy.profiles) names.push_back(known);
  return config::Place{"policy diff", "", "command line"}.unknown("profile", name, names);
}

Result<Json> difference(const Options& options) {
  const std::string &a = options.words[0], &b = options.words[1];
  if (is_file(a) != is_file(b)) {
    return usage_error("policy diff", "one is a file and one a profile", "give two of a kind");
  }
  if (is_file(a)) {
    Policy before = TRY(config::read_policy_of_anybody(a));
    Policy after = TRY(config::read_policy_of_anybody(b));
    return diff_policies(before, after);
  }
  Policy policy = TRY(policy_of(options));
  config::Profile before = TRY(profile_of(policy, a)), after = TRY(profile_of(policy, b));
  Json list = Json::array();
  for (const auto& one : config::differences(before, after))
    add_difference(list, a + " → " + b, one.control, one.before, one.after);
  return list;
}

// As diff(1): 1 when there is a difference.
Result<int> diff(const Options& options) {
  TRY(need_words(options, 2, "two profiles, or two FILEs"));
  Json list = TRY(difference(options));
  if (options.json) {
    print_json(list);
  } else {
    std::vector<Row> rows;
    for (const Json& one : list)
      rows.push_back({one["where"], one["what"], one["before"], one["after"]});
    if (!rows.empty()) rows.insert(rows.begin(), {"WHERE", "WHAT", "BEFORE", "AFTER"});
    print_table(rows);
  }
  return list.empty() ? 0 : 1;
}

// One request of a list: {"user", "groups", "job", "labels", "profile", "controls", "runtime_env"}.
Result<Verdict> simulate_one(const Policy& policy, const config::Place& place, const Json& json) {
  TRY(place.object_of(json,
                      {"user", "groups", "job", "labels", "profile", "controls", "runtime_env"}));
  Who who;
  if (json.contains("user")) {
    const Json& user = json["user"];
    bool number = user.is_number_unsigned();
    std::string name = number ? user.dump() : TRY(place.at("user").string(user));
    who = TRY(account(name));
  }
  if (json.contains("groups")) {
    for (const std::string& name : TRY(place.at("groups").strings(json["groups"])))
      who.groups.push_back(TRY(group_of(name)));
  }
  Ask ask;
  if (json.contains("job")) who.job = TRY(place.at("job").string(json["job"]));
  if (json.contains("profile")) ask.profile = TRY(place.at("profile").string(json["profile"]));
  for (const char* key : {"labels", "controls"}) {
    if (!json.contains(key)) continue;
    if (!json[key].is_object()) return place.at(key).wrong_type("an object", json[key]);
    for (const auto& [name, value] : json[key].items()) {
      std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      if (key == std::string("labels")) who.labels[name] = text;
      if (key == std::string("controls")) ask.controls.emplace_back(name, text);
    }
  }
  Verdict verdict = TRY(config::resolve(policy, who, ask));
  if (json.contains("runtime_env")) {
    auto env = config::parse_runtime_env(json["runtime_env"].dump(), place.text, "/");
    if (!env) return env.error();
    TRY(config::check_fields(*env, verdict.allow));
  }
  return verdict;
}

Result<int> simulate(const Options& options) {
  TRY(need_words(options, 1, "one FILE of requests"));
  Policy policy = TRY(policy_of(options));
  std::string text = TRY(sys::read_file(options.words[0], kMostRequests));
  Json requests = TRY(config::parse_json(text, options.words[0]));
  config::Place place{options.words[0], "", "simulate"};
  if (!requests.is_array()) return place.wrong_type("a list of requests", requests);
  Json all = Json::array();
  std::vector<Row> rows = {{"REQUEST", "PROFILE", "BY", "RULES", "REFUSED"}};
  for (size_t i = 0; i < requests.size(); ++i) {
    auto verdict = simulate_one(policy, place.at(i), requests[i]);
    std::string number = std::to_string(i), reason = verdict ? "" : verdict.error().message();
    all.push_back(verdict ? config::verdict_json(*verdict) : Json{{"refused", reason}});
    std::string rules;
    for (size_t at = 0; verdict && at < verdict->rules.size(); ++at)
      rules += (at == 0 ? "" : " ") + verdict->rules[at];
    rows.push_back(verdict ? Row{number, verdict->profile.name, verdict->chosen_by, rules, ""}
                           : Row{number, "", "", "", reason});
  }
  if (options.json) print_json(all);
  if (!options.json) print_table(rows);
  return 0;
}

Result<int> show(const Options& options) {
  TRY(need_words(options, 0, "nothing more"));
  std::string_view text = config::built_in_text();
  std::printf("%.*s", static_cast<int>(text.size()), text.data());
  return 0;
}

Result<int> schema(const Options& options) {
  TRY(need_words(options, 0, "nothing more"));
  print_json(config::policy_schema());
  return 0;
}

// [--output FILE] -- CMD ARG...
Result<int> audit_command(const std::vector<std::string>& args) {
  std::string output;
  size_t at = 0;
  if (at + 1 < args.size() && args[at] == "--output") output = args[at + 1], at += 2;
  if (at + 1 < args.size() && args[at] == "--") {
    return audit({args.begin() + static_cast<long>(at) + 1, args.end()}, output);
  }
  return usage_error("policy audit", "no command to watch",
                     "write rtlaunch policy audit [--output FILE] -- CMD ARG...");
}

struct Verb {
  const char* name;
  Result<int> (*act)(const Options&);
};
constexpr Verb kVerbs[] = {{"check", check},       {"explain", explain},   {"diff", diff},
                           {"simulate", simulate}, {"export", export_oci}, {"show", show},
                           {"schema", schema}};

}  // namespace

Result<int> policy_command(const std::vector<std::string>& args) {
  std::string name = args.empty() ? "" : args[0];
  std::vector<std::string> names = {"audit"};
  if (name == names[0]) return audit_command({args.begin() + 1, args.end()});
  for (const Verb& verb : kVerbs) {
    names.emplace_back(verb.name);
    if (name == verb.name) return verb.act(TRY(parse({args.begin() + 1, args.end()})));
  }
  std::string near = config::nearest(name, names);
  return usage_error("policy " + name, name.empty() ? "what about it?" : "unknown command",
                     near.empty() ? "see rtlaunch policy --help" : "did you mean " + near + "?");
}

}  // namespace rtlaunch
