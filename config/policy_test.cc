#include "config/policy.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "config/address.h"
#include "config/explain.h"
#include "config/runtime_env.h"

namespace rtlaunch::config {
namespace {

const Accounts kAccounts = {{{"alice", 1000}, {"bob", 1001}}, {{"staff", 50}, {"ml", 60}}};

Result<Policy> parsed(const std::string& text) { return parse_policy(text, "p.json", kAccounts); }

std::string said(const std::string& text) {
  auto policy = parsed(text);
  return policy ? "fine" : policy.error().message() + " | " + policy.error().cure;
}

std::string with_rule(const std::string& rule) {
  return R"({"version": 1, "rules": [{"name": "r", )" + rule + "}]}";
}

std::string in_profile(const std::string& controls) {
  return R"({"version": 1, "profiles": {"p": {)" + controls + "}}}";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Every way to get it wrong: what is said names the place, and what to do.
TEST(Policy, EachErrorNamesThePathOfTheKey) {
  struct Case {
    std::string text, path, words;
  };
  const Case kCases[] = {
      {"{", "p.json", "ends too early"},
      {R"({"version": 1, "version": 1})", "p.json", "twice"},
      {R"([])", "p.json", "expected an object"},
      {R"({})", "p.json", "has no version"},
      {R"({"version": 2})", "p.json: version", "isn't known"},
      {R"({"version": 1, "rulez": []})", "p.json", "did you mean `rules`?"},
      {R"({"version": 1, "default": "mll"})", "p.json: default", "did you mean `ml`?"},
      {R"({"version": 1, "default": 3})", "p.json: default", "expected a string, got a number"},
      {R"({"version": 1, "choose": []})", "p.json: choose", "is empty"},
      {R"({"version": 1, "choose": ["ml", "nope"]})", "p.json: choose[1]", "unknown profile"},
      {R"({"version": 1, "choose": ["strict"]})", "p.json: default", "contradiction"},
      {R"({"version": 1, "every_worker": "prefer"})", "p.json: every_worker", "write \"require\""},
      {R"({"version": 1, "every_worker": true})", "p.json: every_worker", "expected a string"},
      {with_rule(R"("every_worker": "require", "if": {"job": ["ray-*"]})"), "rules[0].every_worker",
       "before they are of a job"},
      {in_profile(R"("private_tmp": "requires")"), "profiles.p.private_tmp",
       "did you mean `require`?"},
      {in_profile(R"("private_tmp": true)"), "profiles.p.private_tmp", "got true or false"},
      {in_profile(R"("privat_tmp": "off")"), "profiles.p", "did you mean `private_tmp`?"},
      {in_profile(R"("own_processes": "off")"), "profiles.p.own_processes", "always required"},
      {in_profile(R"("memory": "4X")"), "profiles.p.memory", "not a size"},
      {in_profile(R"("memory": -4)"), "profiles.p.memory", "not a whole number"},
      {in_profile(R"("memory": {"want": "prefer"})"), "profiles.p.memory", "how much"},
      {in_profile(R"("memory": {"most": 3})"), "profiles.p.memory", "unknown key `most`"},
      {in_profile(R"("pids": 0)"), "profiles.p.pids", "nothing could run"},
      {in_profile(R"("cpus": "1e9")"), "profiles.p.cpus", "expected a number of CPUs"},
      {in_profile(R"("cpu_weight": 20000)"), "profiles.p.cpu_weight", "1 to 10000"},
      {in_profile(R"("environment": ["A*B"])"), "profiles.p.environment[0]", "in the middle"},
      {in_profile(R"("environment": ["A=B"])"), "profiles.p.environment[0]", "`=`"},
      {in_profile(R"("devices": ["/etc/passwd"])"), "profiles.p.devices[0]", "no device"},
      {in_profile(R"("devices": ["/dev/../etc"])"), "profiles.p.devices[0]", "`..`"},
      {in_profile(R"("syscalls": "mll")"), "profiles.p.syscalls", "unknown list"},
      {in_profile(R"("syscalls": {"base": "ml", "allow": ["Read"]})"),
       "profiles.p.syscalls.allow[0]", "no name of a system call"},
      {in_profile(R"("syscalls": {"base": "ml", "allow": ["read"], "deny": ["read"]})"),
       "profiles.p.syscalls", "allowed and denied"},
      {in_profile(R"("syscalls": {"base": "ml", "allow": ["ptrace"]}, "no_debug": "prefer")"),
       "profiles.p", "contradiction: syscalls allows `ptrace`"},
      {in_profile(R"("files": {"read": ["usr"]})"), "profiles.p.files.read[0]", "absolute"},
      {in_profile(R"("files": {"read": ["/usr/../etc"]})"), "profiles.p.files.read[0]", "`..`"},
      {in_profile(R"("files": {"read": ["/usr\u0000x"]})"), "profiles.p.files.read[0]", "NUL"},
      {in_profile(R"("files": {"read": ["/usr\nx"]})"), "profiles.p.files.read[0]", "line break"},
      {in_profile(R"("ports": {"connect": [0]})"), "profiles.p.ports.connect[0]", "no port"},
      {in_profile(R"("ports": {"connect": ["9-3"]})"), "profiles.p.ports.connect[0]", "no port"},
      {in_profile(R"("network": "egress")"), "profiles.p.network", "where to is missing"},
      {in_profile(R"("network": {"mode": "none", "to": ["index.example"]})"),
       "profiles.p.network.to", "contradicts mode none"},
      {in_profile(R"("network": {"mode": "egress", "to": ["10.1.2.3/8"]})"),
       "profiles.p.network.to[0]", "no destination"},
      {in_profile(R"("network": {"mode": "egress", "to": ["index.example:99999"]})"),
       "profiles.p.network.to[0]", "no destination"},
      {in_profile(R"("network": {"mode": "egress", "to": ["-x.example"]})"),
       "profiles.p.network.to[0]", "`-x.example` is no destination"},
      {in_profile(R"("network": {"mode": "egress", "to": ["index.example", "a b.example"]})"),
       "profiles.p.network.to[1]", "no destination"},
      {in_profile(R"("network": {"mode": "egress", "to": ["x.example\n127.0.0.1 y"]})"),
       "profiles.p.network.to[0]", "control character"},
      {in_profile(R"("network": {"mode": "egress", "to": ["*.example"]})"),
       "profiles.p.network.to[0]", "no destination"},
      {in_profile(R"("rlimits": {"nofiles": 3})"), "profiles.p.rlimits", "did you mean `nofile`?"},
      {in_profile(R"("uids": {"first": 0, "count": 10})"), "profiles.p.uids", "no range"},
      {in_profile(R"("uids": {"first": 65000, "count": 1000})"), "profiles.p.uids", "65534"},
      {R"({"version": 1, "profiles": {"..": {}}})", "profiles", "no name"},
      {R"({"version": 1, "profiles": {"-p": {}}})", "profiles", "no name"},
      {R"({"version": 1, "profiles": {"a\nb": {}}})", "profiles", "no name"},
      {R"({"version": 1, "profiles": {"a\u0000b": {}}})", "profiles", "no name"},
      {R"({"version": 1, "profiles": {"a/b": {}}})", "profiles", "no name"},
      {R"({"version": 1, "profiles": {"p": {"extends": "q"}}})", "profiles.p.extends",
       "unknown profile"},
      {R"({"version": 1, "profiles": {"p": {"extends": "p"}}})", "profiles.p.extends",
       "circle: p → p"},
      {R"({"version": 1, "profiles": {"a": {"extends": "b"}, "b": {"extends": "c"},
           "c": {"extends": "a"}}})",
       "profiles.c.extends", "circle: a → b → c → a"},
      {R"({"version": 1, "ceiling": 3})", "p.json: ceiling", "a profile or controls"},
      {R"({"version": 1, "ceiling": "nope"})", "p.json: ceiling", "unknown profile"},
      {R"({"version": 1, "ceiling": {"about": "x"}})", "p.json: ceiling", "unknown control"},
      {R"({"version": 1, "allow": {"fields": ["pipp"]}})", "allow.fields[0]",
       "did you mean `pip`?"},
      {R"({"version": 1, "allow": {"mounts": ["data"]}})", "allow.mounts[0]", "absolute"},
      {R"({"version": 1, "rules": [{}]})", "rules[0]", "has no name"},
      {R"({"version": 1, "rules": [{"name": "r"}, {"name": "r"}]})", "rules[1].name", "already"},
      {with_rule(R"("if": {"users": []})"), "rules[0].if", "did you mean `user`?"},
      {with_rule(R"("if": {"user": ["-1"]})"), "rules[0].if.user[0]", "no account's name"},
      {with_rule(R"("if": {"user": ["+0"]})"), "rules[0].if.user[0]", "no account's name"},
      {with_rule(R"("if": {"user": [" 0"]})"), "rules[0].if.user[0]", "no account's name"},
      {with_rule(R"("if": {"user": [""]})"), "rules[0].if.user[0]", "is empty"},
      {with_rule(R"("if": {"user": ["4294967295"]})"), "rules[0].if.user[0]", "no id"},
      {with_rule(R"("if": {"user": [4294967296]})"), "rules[0].if.user[0]", "no id"},
      {with_rule(R"("if": {"user": ["5-3"]})"), "rules[0].if.user[0]", "no id"},
      {with_rule(R"("unless": {"job": ["x"]})"), "rules[0].unless", "can't lift a rule"},
      {with_rule(R"("profile": "ml", "choose": ["strict"])"), "rules[0].profile", "contradiction"},
      {R"({"version": 1, "rules": [{"name": "a", "if": {"user": ["bob"]}, "profile": "ml"},
           {"name": "b", "if": {"user": [1001]}, "profile": "strict"}]})",
       "rules[1].profile", "contradiction: rule `a`"},
      {R"({"version": 1, "rules": [{"name": "a", "profile": "ml"},
           {"name": "b", "choose": ["strict"]}]})",
       "rules[1]", "contradiction: rule `a`"},
      {R"({"version": 1, "rules": [{"name": "b", "if": {"user": [7]}, "choose": ["strict"]},
           {"name": "a", "if": {"user": [7]}, "profile": "ml"}]})",
       "rules[1]", "contradiction: rule `b`"},
      {R"({"version": 1, "$schema": 5})", "p.json: $schema", "expected a string"},
      {R"({"version": 1, "profiles": {"p": {"network": {"mode": "none", "mo\u0064e": "host"}}}})",
       "line 1", "the key `mode` is there twice"},
      {in_profile(R"("memory": 1e999)"), "line 1", "too large"},
      {in_profile(R"("memory": 1e9)"), "profiles.p.memory", "whole number"},
      {std::string("{\"version\": 1}\0, \"rules\": []", 29), "line 1, column 15", "a NUL"},
      {std::string(kMostPolicyBytes + 1, ' '), "p.json", "larger than 1 MiB"},
      {std::string(10 << 20, ' '), "p.json", "larger than 1 MiB"},
  };
  for (const Case& one : kCases) {
    std::string answer = said(one.text);
    EXPECT_TRUE(has(answer, one.path) && has(answer, one.words))
        << one.text.substr(0, 200) << "\n  " << answer;
  }
}

TEST(Policy, WarnsOfRulesThatNeverMatch) {
  auto warned = [](const std::string& rule) {
    auto policy = parsed(with_rule(rule));
    std::string all;
    for (const std::string& warning : policy ? policy->warnings : std::vector<std::string>())
      all += warning + "\n";
    return policy ? all : policy.error().message();
  };
  const std::string says = R"("profile": "strict", "if": )";
  EXPECT_TRUE(has(warned(says + R"({"user": ["nobody-here"]})"), "matches nobody"));
  EXPECT_TRUE(has(warned(says + R"({"user": ["nobody-here"]})"), "rule r never matches"));
  EXPECT_TRUE(has(warned(says + R"({"job": []})"), "rule r never matches"));
  EXPECT_TRUE(has(warned(says + R"({"user": ["bob"]}, "unless": {"user": ["1000-1999"]})"),
                  "\"unless\" covers all of \"if\""));
  EXPECT_TRUE(has(warned(R"("if": {"user": ["bob"]})"), "says nothing"));
  EXPECT_EQ(warned(says + R"({"user": ["bob"]}, "unless": {"group": ["ml"]})"), "");
  EXPECT_EQ(warned(says + R"({"user": ["*"]}, "unless": {"user": ["bob"]})"), "");
}

TEST(Policy, TheBuiltInOneIsRight) {
  auto policy = parse_policy(built_in_text(), "built-in", {});
  ASSERT_TRUE(policy) << policy.error().message();
  EXPECT_TRUE(policy->warnings.empty());
  EXPECT_EQ(policy->choose, shipped_profiles());
  for (const std::string& name : shipped_profiles()) {
    auto verdict = resolve(built_in_policy(), {}, {name, {}});
    ASSERT_TRUE(verdict) << verdict.error().message();
    EXPECT_EQ(verdict->profile.name, name);
    EXPECT_NE(built_in_policy().abouts.at(name), "");
  }
}

TEST(Policy, StrictIsWithinMl) {
  auto ml = resolve(built_in_policy(), {}, {"ml", {}}),
       strict = resolve(built_in_policy(), {}, {"strict", {}});
  for (const Control& control : controls()) {
    EXPECT_TRUE(within(control, strict->profile, ml->profile)) << control.name;
  }
}

const char kExample[] = R"({
  "version": 1,
  "profiles": {"team": {"extends": "ml", "memory": "8G"}},
  "ceiling": {"memory": "16G"},
  "allow": {"indexes": ["https://index.example/simple", "https://mirror.example/*"]},
  "rules": [
    {"name": "contractors", "if": {"group": ["staff"]}, "unless": {"user": ["alice"]},
     "profile": "strict", "choose": ["strict", "ml"], "ceiling": {"memory": "2G", "pids": 100},
     "allow": {"fields": ["pip", "working_dir", "env_vars"],
               "indexes": ["https://mirror.example/ours/*"]}},
    {"name": "nightly", "if": {"job": ["night*"]}, "ceiling": {"network": "none"}}
  ]
})";

Result<Verdict> example(const Who& who, const Ask& ask = {}) {
  return resolve(*parsed(kExample), who, ask);
}

std::string refusal(const Who& who, const Ask& ask) {
  auto verdict = example(who, ask);
  return verdict ? "given" : verdict.error().message() + " | " + verdict.error().cure;
}

std::string text_of(const Verdict& verdict, const char* control) {
  const Control& found = *find_control(control);
  return value_text(found, verdict.profile) + " from " + verdict.from[index_of(found)];
}

TEST(Policy, RulesBindByUserGroupAndJob) {
  const Who bob{1001, 1001, {50}, "", {}}, alice{1000, 1000, {50}, "", {}};
  auto verdict = example(bob);
  EXPECT_EQ(verdict->profile.name, "strict");
  EXPECT_EQ(verdict->chosen_by, "rule contractors");
  EXPECT_EQ(text_of(*verdict, "memory"), "require: 2G from ceiling of rule contractors");
  EXPECT_EQ(*verdict->allow.indexes, std::vector<std::string>{"https://mirror.example/ours/*"});
  verdict = example(alice);
  EXPECT_EQ(verdict->profile.name, "ml");
  EXPECT_EQ(text_of(*verdict, "memory"), "require: 16G from ceiling");
  EXPECT_EQ(text_of(*verdict, "network"), "require: host from profile ml");
  verdict = example({1000, 1000, {}, "nightly-7", {}});
  EXPECT_EQ(text_of(*verdict, "network"), "require: none from ceiling of rule nightly");
  // The primary group counts like the others.
  EXPECT_EQ(example({1001, 50, {}, "", {}})->profile.name, "strict");
}

TEST(Policy, RequestsOnlyTighten) {
  const Who bob{1001, 1001, {50}, "", {}}, carl{1002, 1002, {}, "", {}};
  EXPECT_EQ(refusal(bob, {"ml", {}}), "given");
  EXPECT_TRUE(has(refusal(bob, {"ray", {}}), "rule contractors doesn't let you choose it"));
  EXPECT_TRUE(has(refusal(bob, {"rey", {}}), "no such profile"));
  EXPECT_TRUE(has(refusal(carl, {"", {{"memory", "20G"}}}), "is more than ceiling gives"));
  EXPECT_TRUE(has(refusal(carl, {"strict", {{"network", "host"}}}),
                  "network: require: host is more than profile strict gives: require: none"));
  EXPECT_TRUE(has(refusal(carl, {"", {{"private_tmp", "off"}}}), "private_tmp"));
  EXPECT_TRUE(has(refusal(carl, {"", {{"devices", "[\"/dev/sda\"]"}}}), "devices"));
  EXPECT_TRUE(has(refusal(carl, {"", {{"nettwork", "none"}}}), "did you mean `network`?"));
  EXPECT_TRUE(has(refusal(carl, {"", {{"network", "none"}, {"network", "host"}}}), "twice"));
  EXPECT_TRUE(has(refusal({1000, 1000, {}, "nightly", {}}, {"ml", {}}),
                  "profile ml has network require: host, and the ceiling of rule nightly allows"));
  auto verdict = example(carl, {"", {{"network", "none"}, {"memory", "1G"}, {"cpus", "0.5"}}});
  EXPECT_EQ(text_of(*verdict, "network"), "require: none from request");
  EXPECT_EQ(text_of(*verdict, "memory"), "require: 1G from request");
  EXPECT_EQ(text_of(*verdict, "cpus"), "require: 0.5 from request");
  verdict = example(carl, {"", {{"devices", "[\"/dev/nvidia0\"]"}}});
  EXPECT_EQ(text_of(*verdict, "devices"), "/dev/nvidia0 from request");
  EXPECT_EQ(example(carl, {"team", {}}).error().code, EPERM) << "not shipped, in no rule";
}

TEST(Policy, WhatIsSaidOfARequestIsChecked) {
  EXPECT_FALSE(example({1, 1, {}, "a\nb", {}}));
  EXPECT_FALSE(example({1, 1, {}, std::string(300, 'x'), {}}));
  EXPECT_FALSE(example({1, 1, {}, "", {{"-x", "y"}}}));
  EXPECT_FALSE(example({1, 1, {}, "", {{"..", "y"}}}));
  EXPECT_FALSE(example({1, 1, {}, "", {{"x", std::string("a\0b", 3)}}}));
}

TEST(Policy, AShippedProfileMayBeChanged) {
  auto policy = parsed(R"({"version": 1, "profiles": {"ml": {"extends": "ml", "memory": "1G"},
                           "mine": {"extends": "ml"}}, "choose": ["ml", "mine"]})");
  ASSERT_TRUE(policy) << policy.error().message();
  auto verdict = resolve(*policy, {}, {"ml", {}});
  EXPECT_EQ(text_of(*verdict, "memory"), "require: 1G from profile ml");
  EXPECT_EQ(text_of(*verdict, "private_tmp"), "require from profile ml");
}

TEST(Policy, FieldsIndexesAndPlaces) {
  auto env = [](const std::string& json) { return *parse_runtime_env(json, "e", "/"); };
  Allowed allowed;
  allowed.fields = {{"pip", "working_dir"}};
  allowed.mounts = {{"/srv/data"}};
  EXPECT_TRUE(check_fields(env(R"({"pip": ["x"]})"), allowed).ok());
  EXPECT_TRUE(check_fields(env(R"({"working_dir": "local:///srv/data/x"})"), allowed).ok());
  for (const char* bad :
       {R"({"uv": ["x"]})", R"({"env_vars": {"A": "1"}})", R"({"py_modules": ["/x"]})",
        R"({"java_jars": ["/x.jar"]})", R"({"working_dir": "local:///srv/data2"})",
        R"({"working_dir": "local:///srv/data/../x"})"}) {
    Status status = check_fields(env(bad), allowed);
    ASSERT_FALSE(status.ok()) << bad;
    EXPECT_EQ(status.error().code, EPERM);
  }
  allowed.indexes = {{"https://index.example/simple"}};
  EXPECT_TRUE(check_index("https://index.example/simple", allowed).ok());
  EXPECT_FALSE(check_index("https://index.example/simple2", allowed).ok());
  EXPECT_FALSE(check_index("https://index.example.evil.example/simple", allowed).ok());
}

// Of all lists the one that is empty where it isn't there.
TEST(Policy, SpecialFilesAreKeptOfImagesThatAreNamed) {
  EXPECT_FALSE(keeps_special_files("oci:/images/a", Allowed()));
  auto policy =
      parsed(R"({"version": 1, "allow": {"special_files": ["oci:/images/*", "h.example/*"]},
    "rules": [{"name": "few", "if": {"user": [1001]}, "allow": {"special_files": ["oci:/images/a"]}},
              {"name": "none", "if": {"user": [1002]}, "allow": {"special_files": []}}]})");
  auto keeps = [&](uid_t user, const char* image) {
    auto verdict = resolve(*policy, {user, user, {}, "", {}}, {});
    return verdict.ok() && keeps_special_files(image, verdict->allow);
  };
  EXPECT_TRUE(keeps(1000, "oci:/images/b") && keeps(1000, "docker://h.example/x:1"));
  EXPECT_FALSE(keeps(1000, "oci:/images/../b") || keeps(1000, "oci:/other/b"));
  EXPECT_TRUE(keeps(1001, "oci:/images/a"));
  EXPECT_FALSE(keeps(1001, "oci:/images/b") || keeps(1002, "oci:/images/a"));
}

// The whole of what explain prints, so that no change of it goes unseen.
TEST(Policy, ExplainGolden) {
  auto policy = parsed(R"({"version": 1,
    "profiles": {"base": {"private_tmp": "require", "no_bpf": "prefer", "memory": "3G",
                          "syscalls": {"base": "ml", "deny": ["mbind"]},
                          "rlimits": {"core": 0, "want": "prefer"}},
                 "team": {"extends": "base", "environment": ["PATH", "LC_*"],
                          "network": {"mode": "egress", "to": ["index.example:443", "10.0.0.0/8"]}}},
    "rules": [{"name": "all", "profile": "team", "ceiling": {"memory": "2G"},
               "allow": {"fields": ["pip"]}}]})");
  ASSERT_TRUE(policy) << policy.error().message();
  auto verdict = resolve(*policy, {}, {"", {{"cpus", "2.5"}}});
  ASSERT_TRUE(verdict) << verdict.error().message();
  EXPECT_EQ(verdict_text(*verdict, false),
            R"(profile team, by rule all; may choose strict, ml, debug, ray, team
rules: all

private_tmp         require                             profile base
own_processes       require                             always
no_new_privileges   require                             always
no_bpf              prefer                              profile base
syscalls            require: ml, without mbind          profile base
network             require: egress to 10.0.0.0/8 index.example:443  profile team
memory              require: 2G                         ceiling of rule all
cpus                require: 2.5                        request
rlimits             prefer: core=0                      profile base
environment         require: LC_* PATH                  profile team
fields              pip                                 rule all
)");
}

TEST(Policy, HostsHaveOneSpelling) {
  EXPECT_EQ(canonical_host("Index.Example"), "index.example");
  EXPECT_EQ(canonical_host("2001:DB8:0::1"), "2001:db8::1");
  EXPECT_EQ(canonical_host("10.0.0.0/8"), "10.0.0.0/8");
  EXPECT_EQ(canonical_host("10.0.0.1/32"), "10.0.0.1");
  for (const char* bad : {"10.0.0.1/8", "10.0.0.300", "10.0.0.0/33", "10.0.0.0/08", "a..b", "-a.b",
                          "a b", "", "a/b", "1.2.3", "::1/129", "x/8"}) {
    EXPECT_EQ(canonical_host(bad), "") << bad;
  }
  EXPECT_TRUE(host_within("10.1.0.0/16", "10.0.0.0/8"));
  EXPECT_FALSE(host_within("10.0.0.0/8", "10.1.0.0/16"));
  EXPECT_FALSE(host_within("::1", "0.0.0.0/0"));
  EXPECT_FALSE(host_within("index.example", "0.0.0.0/0"));
}

// Mutated a hundred thousand times, it is parsed or refused, and what is parsed can be resolved.
TEST(Policy, SurvivesWhatIsNoPolicy) {
  std::mt19937 random(6);
  const std::string corpus = std::string(kExample) + std::string(built_in_text());
  const std::string pieces = "{}[]\",:0123456789eE+-\\ntrufalse*/.G";
  size_t good = 0, bad = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = random() % 2 ? std::string(kExample) : std::string(built_in_text());
    for (size_t changes = 1 + random() % 4; changes > 0; --changes) {
      size_t at = random() % text.size();
      if (random() % 4 == 0) {
        size_t from = random() % corpus.size();
        text.insert(at, corpus.substr(from, random() % 40));
      } else if (random() % 2) {
        text[at] = pieces[random() % pieces.size()];
      } else {
        text.erase(at, 1 + random() % 5);
      }
    }
    auto policy = parsed(text);
    ++(policy ? good : bad);
    if (!policy) {
      ASSERT_NE(policy.error().reason, "");
      continue;
    }
    auto verdict = resolve(*policy, {1001, 1001, {50}, "nightly", {}}, {});
    ASSERT_FALSE(verdict && verdict_text(*verdict, true).empty());
  }
  EXPECT_GT(good, 300u);
  EXPECT_GT(bad, 5'000u);
}

std::string every_worker_for(const Policy& policy, uid_t uid, gid_t gid) {
  return every_worker(policy, {uid, gid, {}, "", {}});
}

// A node may see only what is for it to know, and finds the same there.
TEST(Policy, EveryWorkerIsThePolicysWordOrARulesAndToldWithoutTheRest) {
  auto policy = parsed(R"({"version": 1, "ceiling": {"memory": "1G"}, "rules": [
      {"name": "others", "profile": "strict"},
      {"name": "guests", "if": {"user": ["alice", "5000-5999"]}, "unless": {"group": ["staff"]},
       "every_worker": "require"},
      {"name": "off", "every_worker": "off"},
      {"name": "nobody", "if": {"user": ["who"]}, "every_worker": "require"}]})");
  ASSERT_TRUE(policy) << policy.error().message();
  std::string text = every_worker_text(*policy);
  EXPECT_FALSE(has(text, "memory") || has(text, "others") || has(text, "alice")) << text;
  auto told = parse_policy(text, "told", {});
  ASSERT_TRUE(told) << told.error().message();
  for (const Policy* one : {&*policy, &*told}) {
    EXPECT_EQ(every_worker_for(*one, 1000, 9), "rule guests");
    EXPECT_EQ(every_worker_for(*one, 5999, 9), "rule guests");
    EXPECT_EQ(every_worker_for(*one, 5999, 50), "");
    EXPECT_EQ(every_worker_for(*one, 0, 0), "");
  }
  auto all = parsed(R"({"version": 1, "every_worker": "require"})");
  ASSERT_TRUE(all);
  EXPECT_EQ(every_worker_for(*all, 0, 0), "policy");
  EXPECT_EQ(every_worker_for(*parse_policy(every_worker_text(*all), "told", {}), 7, 7), "policy");
  EXPECT_EQ(every_worker_text(built_in_policy()), "{\"version\":1}\n");
}

TEST(Policy, EveryWorkerIsExplained) {
  auto policy = parsed(R"({"version": 1, "every_worker": "require"})");
  ASSERT_TRUE(policy);
  auto verdict = resolve(*policy, {1000, 1000, {}, "", {}}, {});
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict_json(*verdict)["every_worker"]["from"], "policy");
  EXPECT_TRUE(has(verdict_text(*verdict, false), "every_worker"));
  auto plain = resolve(built_in_policy(), {1000, 1000, {}, "", {}}, {});
  ASSERT_TRUE(plain);
  EXPECT_EQ(verdict_json(*plain)["every_worker"]["value"], "off");
}

}  // namespace
}  // namespace rtlaunch::config
