// Whatever stands in a policy and whatever is asked for, nobody gets more than each ceiling that
// binds, and nobody less tight a sandbox than he asked for. What "more" means is written down here
// a second time, by trying things out: may this call be made, this file be read, this port be
// reached?
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "config/address.h"
#include "config/policy.h"

namespace rtlaunch::config {
namespace {

// --- what a worker can do, tried out
// --------------------------------------------------------------

const std::vector<std::string> kWords = {"PATH",         "PATHX",    "HOME",
                                         "LC_ALL",       "LC_",      "/dev/nvidia0",
                                         "/dev/nvidia1", "/dev/kfd", "/dev/dri/card0"};
const std::vector<std::string> kPlaces = {"/",          "/usr",        "/usr/bin",     "/usr/bin/x",
                                          "/home",      "/home/alice", "/home/alice2", "/srv",
                                          "/srv/data/1"};
// The first of these that has a call.
const std::map<std::string, Syscalls::Base> kCalls = {{"read", Syscalls::Base::kStrict},
                                                      {"mbind", Syscalls::Base::kMl},
                                                      {"shmat", Syscalls::Base::kRay},
                                                      {"ptrace_like", Syscalls::Base::kDebug}};
const std::vector<std::string> kHosts = {"10.0.0.1", "10.1.2.3", "192.0.2.7", "2001:db8::1",
                                         "index.example"};
const std::vector<uint16_t> kPorts = {1, 53, 80, 443, 8000, 8050, 8100, 65535};

template <typename T>
bool found(const std::vector<T>& list, auto test) {
  return std::any_of(list.begin(), list.end(), test);
}

bool named(const std::vector<std::string>& patterns, const std::string& word) {
  return found(patterns, [&](const std::string& pattern) {
    return pattern.back() == '*' ? word.rfind(pattern.substr(0, pattern.size() - 1), 0) == 0
                                 : pattern == word;
  });
}

bool below(const std::vector<std::string>& folders, const std::string& path) {
  return found(folders, [&](const std::string& folder) {
    return folder == "/" || path == folder || path.rfind(folder + "/", 0) == 0;
  });
}

bool may_call(const Syscalls& syscalls, const std::string& name) {
  if (syscalls.want == Want::kOff) return true;
  auto in = [&](const std::vector<std::string>& list) {
    return found(list, [&](const std::string& one) { return one == name; });
  };
  return !in(syscalls.deny) && (kCalls.at(name) <= syscalls.base || in(syscalls.allow));
}

bool may_reach(const Network& network, const std::string& host, uint16_t port,
               Destination::Protocol protocol) {
  if (network.want == Want::kOff || network.mode == Network::Mode::kHost) return true;
  if (network.mode != Network::Mode::kEgress) return false;
  return found(network.destinations, [&](const Destination& to) {
    return host_within(host, to.host) && to.first_port <= port && port <= to.last_port &&
           (to.protocol == Destination::Protocol::kAny || to.protocol == protocol);
  });
}

bool has_port(const std::vector<PortRange>& ranges, uint16_t port) {
  return found(ranges,
               [&](const PortRange& range) { return range.first <= port && port <= range.last; });
}

// "" when `less` can do nothing that `more` can't, and is as strongly wanted.
std::string excess(Want less, Want more) { return less >= more ? "" : "strength"; }

std::string excess(const Amount& less, const Amount& more) {
  if (more.want == Want::kOff) return "";
  return less.want >= more.want && less.value <= more.value ? "" : "amount";
}

std::string excess(const Names& less, const Names& more) {
  if (more.want == Want::kOff) return "";
  if (less.want < more.want) return "strength";
  for (const std::string& word : kWords) {
    if (named(less.names, word) && !named(more.names, word)) return word;
  }
  return "";
}

std::string excess(const Grants& less, const Grants& more) {
  for (const std::string& word : kWords) {
    if (named(less.names, word) && !named(more.names, word)) return word;
  }
  return "";
}

std::string excess(const Syscalls& less, const Syscalls& more) {
  if (more.want > less.want) return "strength";
  for (const auto& [name, base] : kCalls) {
    if (may_call(less, name) && !may_call(more, name)) return name;
  }
  return "";
}

std::string excess(const Files& less, const Files& more) {
  if (more.want == Want::kOff) return "";
  if (less.want < more.want) return "strength";
  for (const std::string& path : kPlaces) {
    bool reads = below(less.read, path) || below(less.write, path);
    if (reads && !below(more.read, path) && !below(more.write, path)) return "read " + path;
    if (below(less.write, path) && !below(more.write, path)) return "write " + path;
  }
  return "";
}

std::string excess(const Ports& less, const Ports& more) {
  if (more.want == Want::kOff) return "";
  if (less.want < more.want) return "strength";
  for (uint16_t port : kPorts) {
    if (has_port(less.connect, port) && !has_port(more.connect, port)) return "connect";
    if (has_port(less.bind, port) && !has_port(more.bind, port)) return "bind";
  }
  return "";
}

std::string excess(const Network& less, const Network& more) {
  if (more.want > less.want) return "strength";
  bool job = less.want != Want::kOff && less.mode == Network::Mode::kJob;
  if (job && more.want != Want::kOff && more.mode == Network::Mode::kNone) return "job";
  for (const std::string& host : kHosts) {
    for (uint16_t port : kPorts) {
      for (auto protocol : {Destination::Protocol::kTcp, Destination::Protocol::kUdp}) {
        if (may_reach(less, host, port, protocol) && !may_reach(more, host, port, protocol))
          return host + ":" + std::to_string(port);
      }
    }
  }
  return "";
}

std::string excess(const ResourceLimits& less, const ResourceLimits& more) {
  if (more.want == Want::kOff) return "";
  if (less.want < more.want) return "strength";
  for (const auto& [name, value] : more.values) {
    auto at = less.values.find(name);
    if (at == less.values.end() || at->second > value) return name;
  }
  return "";
}

std::string excess(const UidRange& less, const UidRange& more) {
  if (more.want == Want::kOff) return "";
  if (less.want < more.want) return "strength";
  if (less.count == 0) return "";
  bool inside = less.first >= more.first &&
                uint64_t{less.first} + less.count <= uint64_t{more.first} + more.count;
  return inside ? "" : "ids";
}

std::string excess(const Control& control, const Profile& less, const Profile& more) {
  return std::visit([&](auto member) { return excess(less.*member, more.*member); },
                    control.member);
}

// --- random policies and requests ---------------------------------------------------------------

class Chance {
 public:
  explicit Chance(unsigned seed) : random_(seed) {}
  size_t below(size_t count) { return random_() % count; }
  bool one_in(size_t count) { return below(count) == 0; }
  template <typename T>
  const T& of(const std::vector<T>& list) {
    return list[below(list.size())];
  }
  std::vector<std::string> some(const std::vector<std::string>& list) {
    std::vector<std::string> few;
    for (size_t left = below(4); left > 0; --left) few.push_back(of(list));
    return few;
  }

 private:
  std::mt19937 random_;
};

std::string want(Chance& chance) { return chance.one_in(2) ? "prefer" : "require"; }

Json json_for(const Control& control, Chance& chance) {
  struct Maker {
    const Control& control;
    Chance& chance;
    Json operator()(Want Profile::*) {
      return control.always ? "require" : chance.one_in(3) ? "off" : want(chance);
    }
    Json operator()(Amount Profile::*) {
      return {{"want", want(chance)}, {"at_most", 1 + chance.below(5)}};
    }
    Json operator()(Names Profile::*) {
      return {{"want", want(chance)},
              {"names", chance.some({"PATH", "PATH*", "HOME", "LC_*", "LC_ALL", "*", "NONE"})}};
    }
    Json operator()(Grants Profile::*) {
      return chance.some({"/dev/nvidia*", "/dev/nvidia0", "/dev/dri/*", "/dev/kfd", "/dev/n*"});
    }
    Json operator()(Syscalls Profile::*) {
      Json json = {{"want", want(chance)},
                   {"base", chance.of<std::string>({"strict", "ml", "ray", "debug"})},
                   {"allow", chance.some({"mbind", "shmat"})},
                   {"deny", chance.some({"read", "ptrace_like"})}};
      return json;
    }
    Json operator()(Files Profile::*) {
      return {
          {"want", want(chance)}, {"read", chance.some(kPlaces)}, {"write", chance.some(kPlaces)}};
    }
    Json operator()(Ports Profile::*) {
      std::vector<std::string> ports = {"443", "1-65535", "80-8050", "8000-8100", "53", "54-79"};
      return {
          {"want", want(chance)}, {"connect", chance.some(ports)}, {"bind", chance.some(ports)}};
    }
    Json operator()(Network Profile::*) {
      if (chance.one_in(2)) return chance.of<std::string>({"none", "job", "host", "off"});
      return {{"want", want(chance)},
              {"mode", "egress"},
              {"to", chance.some({"10.0.0.0/8", "10.1.0.0/16:80-8050", "index.example:443",
                                  "index.example", "udp://10.0.0.1:53", "tcp://0.0.0.0/0",
                                  "[2001:db8::/32]:443", "192.0.2.7:1-100"})}};
    }
    Json operator()(ResourceLimits Profile::*) {
      Json json = {{"want", want(chance)}};
      for (const std::string& name : chance.some({"core", "nofile", "nproc"}))
        json[name] = chance.below(5);
      return json;
    }
    Json operator()(UidRange Profile::*) {
      return {{"want", want(chance)},
              {"first", 1000 + chance.below(10)},
              {"count", 1 + chance.below(10)}};
    }
  };
  if (!control.always && chance.one_in(8)) return "off";
  return std::visit(Maker{control, chance}, control.member);
}

Json some_controls(Chance& chance, size_t one_in) {
  Json json = Json::object();
  for (const Control& control : controls()) {
    if (chance.one_in(one_in)) json[control.name] = json_for(control, chance);
  }
  return json;
}

const std::vector<std::string> kProfiles = {"strict", "ml", "debug", "ray", "a", "b"};

Json random_rule(Chance& chance, size_t number) {
  Json rule = {{"name", "r" + std::to_string(number)}, {"if", Json::object()}};
  if (chance.one_in(2)) rule["if"]["user"] = {chance.of<std::string>({"1000", "1000-1001", "*"})};
  if (chance.one_in(3)) rule["if"]["group"] = {chance.of<std::string>({"50", "60"})};
  if (chance.one_in(3)) rule["if"]["job"] = {chance.of<std::string>({"night*", "day"})};
  if (chance.one_in(4)) rule["if"]["label"] = {{"team", {"x", "y*"}}};
  if (chance.one_in(4)) rule["unless"] = {{"user", {"1001"}}};
  if (chance.one_in(2)) rule["ceiling"] = some_controls(chance, 4);
  if (chance.one_in(4)) rule["ceiling"] = chance.of(kProfiles);
  if (chance.one_in(3)) rule["profile"] = chance.of(kProfiles);
  return rule;
}

Json random_policy(Chance& chance) {
  Json json = {{"version", 1}, {"profiles", Json::object()}, {"rules", Json::array()}};
  json["profiles"]["a"] = some_controls(chance, 3);
  json["profiles"]["b"] = some_controls(chance, 3);
  json["profiles"]["b"]["extends"] = "a";
  json["default"] = chance.of(kProfiles);
  if (chance.one_in(2)) json["ceiling"] = some_controls(chance, 4);
  size_t count = chance.below(4);
  for (size_t i = 0; i < count; ++i) json["rules"].push_back(random_rule(chance, i));
  return json;
}

Who random_who(Chance& chance) {
  Who who;
  who.uid = static_cast<uid_t>(999 + chance.below(4));
  who.gid = chance.one_in(2) ? 50 : 70;
  if (chance.one_in(2)) who.groups = {60};
  if (chance.one_in(2)) who.job = chance.of<std::string>({"nightly", "day", "days"});
  if (chance.one_in(2)) who.labels["team"] = chance.of<std::string>({"x", "y2", "z"});
  return who;
}

Ask random_ask(Chance& chance) {
  Ask ask;
  if (chance.one_in(3)) ask.profile = chance.of(kProfiles);
  if (chance.one_in(2)) return ask;
  for (const Control& control : controls()) {
    if (!chance.one_in(30)) continue;
    Json json = json_for(control, chance);
    ask.controls.emplace_back(control.name,
                              json.is_string() ? json.get<std::string>() : json.dump());
  }
  return ask;
}

// As the header says it, told once more.
bool has_id(const Json& list, std::vector<uint32_t> ids) {
  for (const std::string word : list) {
    uint32_t first = word == "*" ? 0 : static_cast<uint32_t>(std::stoul(word));
    uint32_t last = word == "*" ? UINT32_MAX
                    : word.find('-') != std::string::npos
                        ? std::stoul(word.substr(word.find('-') + 1))
                        : first;
    for (uint32_t id : ids) {
      if (first <= id && id <= last) return true;
    }
  }
  return false;
}

bool rule_binds(const Json& rule, const Who& who) {
  const Json& when = rule.at("if");
  std::vector<uint32_t> groups = {who.gid};
  groups.insert(groups.end(), who.groups.begin(), who.groups.end());
  if (when.contains("user") && !has_id(when["user"], {who.uid})) return false;
  if (when.contains("group") && !has_id(when["group"], groups)) return false;
  if (when.contains("job")) {
    bool night = when["job"][0] == "night*";
    if (night ? who.job.rfind("night", 0) != 0 : who.job != "day") return false;
  }
  if (when.contains("label")) {
    auto team = who.labels.find("team");
    if (team == who.labels.end() || (team->second != "x" && team->second[0] != 'y')) return false;
  }
  return !(rule.contains("unless") && who.uid == 1001);
}

struct Counts {
  size_t given = 0, refused = 0, bounds = 0, tightened = 0;
};

void check_case(const Json& json, const Policy& policy, Chance& chance, Counts& counts) {
  Who who = random_who(chance);
  Ask ask = random_ask(chance);
  auto verdict = resolve(policy, who, ask);
  ++(verdict ? counts.given : counts.refused);
  if (!verdict) return;
  std::vector<const Settings*> bounds;
  if (json.contains("ceiling")) bounds.push_back(&policy.ceiling);
  for (size_t i = 0; i < policy.rules.size(); ++i) {
    if (rule_binds(json["rules"][i], who)) bounds.push_back(&policy.rules[i].ceiling);
  }
  for (const Settings* bound : bounds) {
    for (const Control& control : controls()) {
      if (!bound->has(control)) continue;
      ++counts.bounds;
      ASSERT_EQ(excess(control, verdict->profile, bound->values), "")
          << control.name << " has " << value_text(control, verdict->profile) << " over "
          << value_text(control, bound->values) << "\n"
          << json.dump(1);
    }
  }
  auto asked = read_asked(ask.controls);
  ASSERT_TRUE(asked) << asked.error().message();
  for (const Control& control : controls()) {
    if (!asked->has(control)) continue;
    ++counts.tightened;
    ASSERT_EQ(excess(control, verdict->profile, asked->values), "") << control.name;
  }
}

// Attacks: J3; control: WithoutCeilingsTheyWouldGetMore
TEST(PolicyProperty, NobodyGetsMoreThanHisCeilings) {
  Chance chance(20);
  Counts counts;
  for (int i = 0; i < 2'500; ++i) {
    Json json = random_policy(chance);
    auto policy = parse_policy(json.dump(), "random", {});
    if (!policy) {  // two rules alike with two profiles
      ASSERT_NE(policy.error().message().find("contradiction"), std::string::npos)
          << policy.error().message() << json.dump(1);
      continue;
    }
    for (int j = 0; j < 45; ++j) {
      ASSERT_NO_FATAL_FAILURE(check_case(json, *policy, chance, counts));
    }
  }
  EXPECT_GT(counts.given + counts.refused, 100'000u);
  EXPECT_GT(counts.given, 30'000u);
  EXPECT_GT(counts.refused, 10'000u);
  EXPECT_GT(counts.bounds, 100'000u);
  EXPECT_GT(counts.tightened, 1'000u);
}

// The control run: excess() does see what a ceiling would have forbidden.
TEST(PolicyProperty, WithoutCeilingsTheyWouldGetMore) {
  Chance chance(21);
  std::map<std::string, int> exceeded;
  for (int i = 0; i < 3'000; ++i) {
    for (const Control& control : controls()) {
      Place place{"t", ""};
      Profile a, b;
      ASSERT_TRUE(read_control(place, control, json_for(control, chance), &a).ok());
      ASSERT_TRUE(read_control(place, control, json_for(control, chance), &b).ok());
      if (excess(control, a, b) != "") ++exceeded[control.name];
    }
  }
  for (const Control& control : controls()) {
    EXPECT_TRUE(control.always || exceeded[control.name] > 100) << control.name;
  }
}

TEST(PolicyProperty, MeetIsAMeet) {
  Chance chance(22);
  for (int i = 0; i < 20'000; ++i) {
    for (const Control& control : controls()) {
      Place place{"t", ""};
      Profile a, b;
      Json x = json_for(control, chance), y = json_for(control, chance);
      ASSERT_TRUE(read_control(place, control, x, &a).ok());
      ASSERT_TRUE(read_control(place, control, y, &b).ok());
      Profile ab = a, ba = b, aa = a;
      tighten(control, &ab, b);
      tighten(control, &ba, a);
      tighten(control, &aa, a);
      ASSERT_TRUE(same(control, aa, a)) << control.name << x;
      ASSERT_TRUE(same(control, ab, ba)) << control.name << x << y;
      ASSERT_TRUE(within(control, ab, a) && within(control, ab, b)) << control.name << x << y;
      ASSERT_EQ(excess(control, ab, a), "") << control.name << x << y;
      if (std::holds_alternative<UidRange Profile::*>(control.member) && ab.uids.count == 0)
        continue;
      // Written out and read again it is the same.
      Profile again;
      ASSERT_TRUE(read_control(place, control, value_json(control, ab), &again).ok())
          << value_json(control, ab);
      ASSERT_TRUE(same(control, ab, again)) << control.name << value_json(control, ab);
    }
  }
}

}  // namespace
}  // namespace rtlaunch::config
