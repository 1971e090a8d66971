#include "launcher/ray/auth.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>

#include "isolation/sys/test_support.h"

namespace rtlaunch::ray {
namespace {

using Verdict = Auth::Verdict;

Auth with(const std::string& token) {
  return *Auth::load({{"RAY_AUTH_MODE", "token"}, {"RAY_AUTH_TOKEN", token}});
}

class AuthFiles : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(folder_ + "/token") << "  filed\r\nrest\n";
    std::ofstream(folder_ + "/empty") << "\n";
  }
  TempDir temp_;
  const std::string& folder_ = temp_.path();
};

TEST(Auth, IsOffUnlessAsked) {
  EXPECT_EQ(Auth::load({{"RAY_AUTH_TOKEN", "x"}})->judge("", "", ""), Verdict::kAllowed);
}

TEST(Auth, LooksInThreePlaces) {
  Auth auth = with("abc");
  EXPECT_EQ(auth.judge("Bearer abc", "", ""), Verdict::kAllowed);
  EXPECT_EQ(auth.judge("", "Bearer abc", ""), Verdict::kAllowed);
  EXPECT_EQ(auth.judge("", "", "a=1; ray-authentication-token=abc"), Verdict::kAllowed);
  EXPECT_EQ(auth.judge("", "", "ray-authentication-token=\"abc\""), Verdict::kAllowed);
  EXPECT_EQ(auth.judge("", "", ""), Verdict::kMissing);
  EXPECT_EQ(auth.judge("", "", "other=abc"), Verdict::kMissing);
}

TEST(Auth, TheFirstThatIsThereCounts) {
  Auth auth = with("abc");
  EXPECT_EQ(auth.judge("Bearer no", "Bearer abc", "ray-authentication-token=abc"), Verdict::kWrong);
  for (const char* wrong :
       {"Bearer ab", "Bearer abcd", "Bearer abcabc", "abc", "bearer abc", "Bearer "}) {
    EXPECT_EQ(auth.judge(wrong, "", ""), Verdict::kWrong) << wrong;
  }
}

TEST_F(AuthFiles, AreReadByTheirFirstLine) {
  auto auth = Auth::load({{"RAY_AUTH_MODE", "token"}, {"RAY_AUTH_TOKEN_PATH", folder_ + "/token"}});
  ASSERT_TRUE(auth);
  EXPECT_EQ(auth->token(), "filed");
}

TEST_F(AuthFiles, MustBeThereWhenNamed) {
  for (const char* name : {"/nowhere", "/empty"}) {
    EXPECT_FALSE(Auth::load({{"RAY_AUTH_MODE", "token"}, {"RAY_AUTH_TOKEN_PATH", folder_ + name}}));
  }
}

TEST_F(AuthFiles, KubernetesJudgesAndRenews) {
  auto auth = Auth::load({{"RAY_AUTH_MODE", "token"},
                          {"RAY_AUTH_TOKEN_PATH", folder_ + "/token"},
                          {"RAY_ENABLE_K8S_TOKEN_AUTH", "true"}});
  ASSERT_TRUE(auth);
  EXPECT_EQ(auth->judge("Bearer anything", "", ""), Auth::Verdict::kAsk);
  EXPECT_EQ(auth->judge("anything", "", ""), Auth::Verdict::kWrong);
  EXPECT_EQ(auth->judge("", "", ""), Auth::Verdict::kMissing);
  EXPECT_EQ(Auth::given("", "", "a=b; ray-authentication-token=x"), "Bearer x");
  std::string first = auth->token();
  std::ofstream(folder_ + "/token") << "renewed\n";
  EXPECT_NE(first, "renewed");
  EXPECT_EQ(auth->token(), "renewed");
}

}  // namespace
}  // namespace rtlaunch::ray
