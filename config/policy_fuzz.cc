#include <nlohmann/json.hpp>

#include "config/fuzz_testing.h"
#include "config/policy.h"

namespace rtlaunch::config {
namespace {

constexpr char kTeam[] = R"({"version": 1, "default": "team", "choose": ["team", "ml"],
  "profiles": {"team": {"extends": "ml", "about": "x", "memory": "16G", "cpus": 1.5, "pids": {"at_most": 10, "want": "prefer"},
    "syscalls": {"base": "strict", "allow": ["mbind"], "deny": ["read"]}, "files": {"read": ["/usr"], "write": []},
    "ports": {"connect": [443, "8000-8100"], "bind": []}, "rlimits": {"nofile": 65536, "core": "unlimited"},
    "network": {"mode": "egress", "to": ["index.example:443", "10.0.0.0/8", "[2001:db8::/32]:80-90", "udp://10.0.0.1:53"]},
    "environment": ["PATH", "LC_*"], "devices": ["/dev/nvidia*"], "uids": {"first": 100000, "count": 1000}}},
  "ceiling": {"extends": "ray", "no_bpf": "require"},
  "allow": {"fields": ["pip"], "indexes": ["https://index.example/*"], "images": ["*"], "mounts": ["/srv"], "plugins": []},
  "rules": [{"name": "r", "if": {"user": [0, "1000-2000", "root"], "group": [5], "job": ["n*"], "label": {"a": ["b"]}},
    "unless": {"user": [3]}, "profile": "ml", "choose": ["ml"], "ceiling": "strict", "allow": {"fields": []}}]})";

// A policy that is taken gives everybody a verdict, or says why not.
void resolve_for_some(const Policy& policy) {
  for (uid_t user : {0, 3, 1500}) {
    Who who{.uid = user, .gid = 5, .groups = {7}, .job = "night", .labels = {{"a", "b"}}};
    for (const char* profile : {"", "team", "strict"}) {
      (void)resolve(policy, who, {profile, {{"memory", "1G"}, {"network", "none"}}}).ok();
    }
  }
}

const FuzzTarget kPolicy(
    "policy",
    [] {
      return Seeds{kTeam, std::string(built_in_text())};
    },
    [](std::string_view input) {
      static const Accounts kAccounts{{{"root", 0}, {"alice", 1000}},
                                      {{"root", 0}, {"users", 100}}};
      Result<Policy> policy = parse_policy(input, "policy.json", kAccounts);
      if (policy) resolve_for_some(*policy);
    },
    2000);

}  // namespace
}  // namespace rtlaunch::config
