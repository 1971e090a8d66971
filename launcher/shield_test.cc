#include "launcher/shield.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <random>

#include "isolation/ahead.h"
#include "isolation/seccomp.h"
#include "isolation/seccomp_rules.h"
#include "launcher/zygote.h"

namespace rtlaunch {
namespace {

using config::Verdict;
using isolation::Root;
using isolation::Spec;

Verdict verdict_of(const std::string& profile,
                   std::vector<std::pair<std::string, std::string>> controls = {}) {
  return config::resolve(config::built_in_policy(), {}, {profile, std::move(controls)}).value();
}

Shield shield(const std::string& profile,
              std::vector<std::pair<std::string, std::string>> controls = {}) {
  return shield_of(verdict_of(profile, std::move(controls))).value();
}

TEST(Shield, WhatClientsAssumeIsWhatTheBuiltInPolicySays) {
  for (const char* profile : {"", "ml", "ray"}) {
    EXPECT_EQ(*assumed_shape(profile), shape_of(verdict_of(profile).profile)) << profile;
  }
  EXPECT_FALSE(assumed_shape("strict"));
  EXPECT_TRUE(isolation::Ahead::fits(shield("ml").bound)) << "may be made before it is known";
  for (const char* profile : {"ml", "ray"}) {
    EXPECT_EQ(verdict_of(profile).allow, config::Allowed()) << profile;
    EXPECT_EQ(verdict_of(profile).profile.uids.want, config::Want::kOff) << profile;
  }
  EXPECT_EQ(assumed_shape("ml")->key(), "host home *");
  EXPECT_EQ(assumed_shape("ray")->key(), "shared home *");
}

TEST(Shield, AShapeTellsWhatAZygoteHasntGot) {
  const std::vector<std::pair<std::string, std::string>> kControls[] = {
      {},
      {{"no_debug", "require"}},
      {{"memory", "1G"}},
      {{"swap", "0"}},
      {{"pids", "9"}},
      {{"cpus", "1"}},
      {{"cpu_weight", "9"}},
      {{"io_weight", "9"}},
      {{"network", "none"}},
      {{"private_tmp", "require"}},
      {{"no_capabilities", "require"}},
      {{"own_clock", "prefer"}},
      {{"own_user", "prefer"}},
      {{"rlimits", R"({"core": 0})"}}};
  for (const auto& controls : kControls) {
    Spec spec;
    spec.root = Root::kShared;
    spec.network = isolation::Network::kHost;
    spec.keep_caps = true;
    bool held = apply(shield("ray", controls), 0, "", &spec).ok();  // else of another shape
    EXPECT_EQ(shape_of(verdict_of("ray", controls).profile).copies, held && Zygote::can_give(spec))
        << (controls.empty() ? "" : controls[0].first);
  }
}

TEST(Shield, SurvivesItsWayAsText) {
  Verdict verdict = verdict_of("strict", {{"upper_bytes", "1M"}});
  verdict.allow.mounts = {{"/srv", "/a b"}};
  Shield sent = shield_of(verdict).value();
  auto got = decode_shield(encode(sent));
  ASSERT_TRUE(got) << got.error().message();
  EXPECT_EQ(encode(*got), encode(sent));
  EXPECT_EQ(got->mounts, sent.mounts);
  EXPECT_EQ(got->bound.upper_bytes, 1u << 20);
  EXPECT_EQ(got->bound.network, isolation::Network::kNone);
  EXPECT_FALSE(got->home || got->keep_caps);
}

TEST(Shield, NonsenseIsRefused) {
  std::string good = encode(shield("ml"));
  for (const std::string& bad : {std::string(), std::string("zz"), good.substr(1), good + "0",
                                 good + "00", good.substr(0, good.find(':'))}) {
    EXPECT_FALSE(decode_shield(bad)) << bad;
  }
  std::mt19937 random(3);
  for (int i = 0; i < 2'000; ++i) {
    std::string text = good;
    text[random() % text.size()] = "0123456789abcdef:x"[random() % 18];
    auto got = decode_shield(text);
    EXPECT_TRUE(!got || encode(*got) == text);
  }
}

TEST(Shield, TakesAwayAndNeverGives) {
  Spec asked;
  asked.root = Root::kShared;
  asked.keep_caps = true;
  asked.upper_bytes = 0;
  ASSERT_TRUE(apply(shield("strict", {{"upper_bytes", "1M"}}), 1000, "/store", &asked).ok());
  EXPECT_EQ(asked.root, Root::kHost);
  EXPECT_FALSE(asked.keep_caps);
  EXPECT_EQ(asked.network, isolation::Network::kNone);
  EXPECT_EQ(asked.upper_bytes, 1u << 20);

  Spec tight;
  tight.network = isolation::Network::kNone;
  tight.upper_bytes = 4096;
  tight.keep_caps = false;
  ASSERT_TRUE(apply(shield("ray", {{"upper_bytes", "1M"}}), 1000, "/store", &tight).ok());
  EXPECT_EQ(tight.root, Root::kHost);
  EXPECT_FALSE(tight.keep_caps);
  EXPECT_EQ(tight.network, isolation::Network::kNone);
  EXPECT_EQ(tight.upper_bytes, 4096u);
}

// Whatever else is asked for, the filters of the shipped profiles are those that lie in the
// program.
TEST(Shield, ShippedProfilesHaveShippedFilters) {
  for (const std::string& name : config::shipped_profiles()) {
    Shield made = shield(name);
    const isolation::Filter& filter = made.bound.controls.seccomp;
    EXPECT_EQ(filter.want, isolation::Want::kRequire) << name;
    EXPECT_FALSE(isolation::shipped_filter(filter.rules).empty()) << name;
    EXPECT_EQ(compiled_filter(made).value(), "") << name;
  }
}

// Each base allows all that the one before it allows: a ceiling relies on that.
TEST(Shield, BasesAreInOrder) {
  isolation::FilterRules rules[4];
  const isolation::FilterBase kBases[] = {isolation::FilterBase::kStrict,
                                          isolation::FilterBase::kMl, isolation::FilterBase::kRay,
                                          isolation::FilterBase::kDebug};
  for (size_t i = 0; i < 4; ++i) rules[i].base = kBases[i];
  for (size_t i = 1; i < 4; ++i) {
    for (std::string_view call : isolation::known_calls(rules[i - 1])) {
      if (isolation::verdict(rules[i - 1], call) != isolation::Verdict::kAllowed) continue;
      EXPECT_EQ(isolation::verdict(rules[i], call), isolation::Verdict::kAllowed) << call;
    }
  }
}

// By a bind or an overlay, to another place or into an image: with a list only what lies in it.
TEST(Shield, WhatIsBroughtInIsHeldToTheList) {
  Shield bound = shield("ml");
  auto over = [](const std::string& target, const std::string& lower) {
    isolation::Overlay overlay;
    overlay.target = target, overlay.lowers = {lower};
    return overlay;
  };
  auto fine = [&](const std::string& source, const std::string& target, bool image = false) {
    Spec spec;
    spec.binds.push_back({source, target});
    if (image) spec.overlays.push_back(over("/", "/store/layer"));
    return apply(bound, 1000, "/store", &spec).ok();
  };
  EXPECT_TRUE(fine("/usr/share", "/srv"));
  bound.mounts = {{"/usr/share"}};
  EXPECT_TRUE(fine("/usr/share", "/srv") && fine("/usr/share/doc", "/srv"));
  EXPECT_FALSE(fine("/usr", "/srv") || fine("/usr/share/../lib", "/srv"));
  EXPECT_TRUE(fine("/store/layer", "/srv") && fine("/usr/lib", "/usr/lib"));
  EXPECT_FALSE(fine("/usr/lib", "/usr/lib", true));
  EXPECT_TRUE(fine("/etc/hosts", "/etc/hosts", true) && fine("/usr/share", "/srv", true));
  Spec spec;
  spec.overlays.push_back(over("/srv", "/usr/lib"));
  EXPECT_FALSE(apply(bound, 1000, "/store", &spec).ok());
}

isolation::Overlay overlay_at(const std::string& target, const std::string& lower, bool over_host) {
  isolation::Overlay overlay;
  overlay.target = target;
  overlay.lowers = {lower};
  overlay.over_host = over_host;
  return overlay;
}

// The ways that no client of ours takes. With no read-only root none of them is looked at
// otherwise.
TEST(Shield, IntoAnImageNothingComesBesideTheList) {
  Shield bound = shield("ml");
  bound.read_only = false;
  auto fine = [&](void (*change)(Spec&), bool image = true) {
    Spec spec;
    if (image) spec.overlays.push_back(overlay_at("/", "/store/layer", false));
    change(spec);
    return apply(bound, 1000, "/store", &spec).ok();
  };
  const std::vector<void (*)(Spec&)> kWays = {
      [](Spec& spec) { spec.visible = {"/usr/lib"}; },
      [](Spec& spec) { spec.writable = {"/usr/lib"}; },
      [](Spec& spec) {
        spec.binds.push_back({"/usr/lib", "/usr/lib", true});
      },
      [](Spec& spec) { spec.overlays.push_back(overlay_at("/usr/lib", "/store/x", true)); }};
  for (auto way : kWays) EXPECT_TRUE(fine(way)) << "control";
  bound.mounts = {{"/usr/share"}};
  for (size_t i = 0; i < kWays.size(); ++i) {
    EXPECT_FALSE(fine(kWays[i])) << i;
    EXPECT_TRUE(fine(kWays[i], false)) << i << ": there it is anyhow";
  }
  EXPECT_TRUE(fine([](Spec& spec) { spec.writable = {"/usr/share/doc"}; }));
}

// What was judged is what is opened: isolation/ follows no link that comes later.
TEST(Shield, WhatIsBroughtInIsNamedByItsRealPath) {
  Spec spec;
  spec.binds = {
      {"/proc/self/root/usr/../usr/share", "/srv"}, {"/etc/mtab", "/etc/mtab"}, {"/store/a", "/b"}};
  ASSERT_TRUE(apply(shield("ml"), 1000, "/store", &spec).ok());
  EXPECT_EQ(spec.binds[0].source, "/usr/share");
  EXPECT_EQ(spec.binds[1].source, "/proc/" + std::to_string(::getpid()) + "/mounts");
  EXPECT_EQ(spec.binds[2].source, "/store/a");
}

TEST(Shield, IntentsTakeSystemCallsAway) {
  auto allowed = [](const Shield& by, const char* call) {
    return isolation::verdict(by.bound.controls.seccomp.rules, call) ==
           isolation::Verdict::kAllowed;
  };
  EXPECT_TRUE(allowed(shield("ml"), "ptrace"));
  Shield tight = shield("ml", {{"no_debug", "require"}});
  EXPECT_FALSE(allowed(tight, "ptrace"));
  EXPECT_FALSE(compiled_filter(tight).value().empty());
  // An intent alone, without any list.
  Verdict alone;
  alone.profile.no_io_uring = config::Want::kRequire;
  Shield open = shield_of(alone).value();
  EXPECT_EQ(open.bound.controls.seccomp.rules.base, isolation::FilterBase::kOpen);
  EXPECT_FALSE(allowed(open, "io_uring_setup"));
  EXPECT_EQ(shield_of(Verdict()).value().bound.controls.seccomp.want, isolation::Want::kOff);
}

TEST(Shield, AFilterOfItsOwnTravelsWithIt) {
  Shield sent = shield("ml", {{"no_debug", "require"}});
  sent.filter = compiled_filter(sent).value();
  auto got = decode_shield(encode(sent));
  ASSERT_TRUE(got);
  EXPECT_EQ(got->filter, sent.filter);
  Spec spec;
  spec.controls.seccomp.program = "a caller's";
  ASSERT_TRUE(apply(*got, 1000, "/store", &spec).ok());
  EXPECT_EQ(spec.controls.seccomp.program, sent.filter);
}

// What of the host may be changed inside.
TEST(Shield, WritableDirectories) {
  auto may = [](const Shield& by, const std::string& path, bool bind = false) {
    Spec spec;
    if (bind) spec.binds.push_back({path, "/x", true});
    if (!bind) spec.writable = {path};
    return apply(by, 0, "/store", &spec).ok();
  };
  Shield ml = shield("ml"), strict = shield("strict"), listed = ml;
  listed.mounts = {{"/srv/data"}};
  for (bool bind : {false, true}) {
    EXPECT_TRUE(may(ml, "/home/alice", bind));
    EXPECT_FALSE(may(ml, "/", bind));
    EXPECT_FALSE(may(strict, "/home/alice", bind));
    EXPECT_FALSE(may(strict, "/srv/data", bind));
    EXPECT_TRUE(may(listed, "/srv/data/x", bind));
    EXPECT_FALSE(may(listed, "/srv/data2", bind));
    EXPECT_TRUE(may(listed, "/root", bind)) << "root's home, as passwd(5) has it";
    EXPECT_FALSE(may(listed, "/etc", bind));
  }
  strict.mounts = {{"/srv/data"}};
  EXPECT_TRUE(may(strict, "/srv/data"));
}

TEST(Shield, ADestinationMayBeAName) {
  auto made = shield_of(
      verdict_of("ml", {{"network", R"({"mode": "egress", "to": ["index.example:443"]})"}}));
  if (::geteuid() != 0) {
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().object, "network");
    return;
  }
  ASSERT_EQ(made->bound.destinations.size(), 1u);
  EXPECT_EQ(made->bound.destinations[0].host, "index.example");
  EXPECT_EQ(made->bound.destinations[0].first_port, 443);
}

TEST(Shield, WhatIsRequiredAndIsntThereRefusesByName) {
  auto made = shield_of(verdict_of("ml", {{"uids", R"({"first": 100000, "count": 10})"}}));
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().object, "uids");
  EXPECT_EQ(made.error().code, EOPNOTSUPP);
}

}  // namespace
}  // namespace rtlaunch
