#include "launcher/server_policy.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "isolation/sys/test_support.h"

namespace rtlaunch {
namespace {

class PolicyInForceTest : public testing::Test {
 protected:
  void SetUp() override {
    write("ml");
    force_.emplace(PolicyInForce::load(file(), journal_).value());
  }

  std::string file() const { return folder_ + "/policy.json"; }
  void write(const std::string& profile) {
    std::ofstream(file()) << R"({"version": 1, "default": ")" << profile << R"(", "rules": [)"
                          << R"({"name": "r", "if": {"job": ["tight"]}, "ceiling": "strict"}]})";
    std::filesystem::permissions(file(), std::filesystem::perms(0600));
  }
  std::shared_ptr<const Decision> decision(uid_t uid, const protocol::Request& request = {}) {
    return force_->decision({uid, uid, {uid}}, request).value();
  }

  Journal journal_{{}};
  TempDir temp_;
  const std::string& folder_ = temp_.path();
  std::optional<PolicyInForce> force_;
};

TEST_F(PolicyInForceTest, WhoAsksTheSameAgainGetsTheSame) {
  auto first = decision(1000);
  EXPECT_EQ(decision(1000), first);
  EXPECT_EQ(first->verdict.profile.name, "ml");
  EXPECT_EQ(first->encoded, encode(first->shield));
}

TEST_F(PolicyInForceTest, AnotherUserJobLabelOrProfileIsAnotherQuestion) {
  auto first = decision(1000);
  EXPECT_NE(decision(1001), first);
  protocol::Request tight, label, profile;
  tight.job = "tight";
  label.labels = {{"team", "a"}};
  profile.profile = "strict";
  EXPECT_NE(decision(1000, tight)->encoded, first->encoded) << "a ceiling of its job's";
  EXPECT_NE(decision(1000, label), first);
  EXPECT_NE(decision(1000, profile)->encoded, first->encoded);
}

TEST_F(PolicyInForceTest, AnotherPolicyIsAnotherAnswer) {
  auto before = decision(1000);
  write("strict");
  force_->reload(journal_);
  EXPECT_EQ(decision(1000)->verdict.profile.name, "strict");
  EXPECT_EQ(before->verdict.profile.name, "ml") << "whoever has it keeps it";
}

}  // namespace
}  // namespace rtlaunch
