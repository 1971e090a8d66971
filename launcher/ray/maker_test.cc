// With a shell script in the place of rtlaunch, since what matters is what a child can do to us.
#include "launcher/ray/maker.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>

#include "isolation/sys/test_support.h"

namespace rtlaunch::ray {
namespace {

class MakerTest : public testing::Test {
 protected:
  Result<std::string> make(const std::string& script, milliseconds limit = seconds(20)) {
    std::ofstream(folder_ + "/rtlaunch") << "#!/bin/sh\ncd " << folder_ << "\n" << script << "\n";
    ::chmod((folder_ + "/rtlaunch").c_str(), 0755);
    asio::io_context io(1);
    Maker maker(io,
                {folder_ + "/rtlaunch", "/py", "/", {"--embedded"}, {{"PATH", "/usr/bin:/bin"}}});
    SetupLog log("", {}, "", {});
    Result<std::string> result = make_error("", "", "never ended");
    spawn(io, keep(maker, log, Clock::now() + limit, result));
    io.run();
    return result;
  }

  static awaitable<void> keep(Maker& maker, SetupLog& log, Clock::time_point deadline,
                              Result<std::string>& result) {
    Maker::Order order{"{\"pip\": [\"secret\"]}", "a-hold"};
    auto made = co_await maker.make(order, deadline, log);
    result = made ? Result<std::string>(made->id) : Result<std::string>(made.error());
  }

  std::string seen() {
    std::ifstream file(folder_ + "/seen");
    return {std::istreambuf_iterator<char>(file), {}};
  }
  TempDir temp_;
  const std::string& folder_ = temp_.path();
};

TEST_F(MakerTest, GivesTheEnvironmentByStdinAndTakesTheId) {
  auto id = make("echo \"$@\" > seen; cat >> seen; echo '{\"id\": \"4711\"}'");
  ASSERT_TRUE(id) << id.error().message();
  EXPECT_EQ(*id, "4711");
  EXPECT_EQ(seen(),
            "env create --runtime-env /dev/stdin --json --python /py --name a-hold --ttl 3600 "
            "--embedded\n{\"pip\": [\"secret\"]}");
}

TEST_F(MakerTest, SaysWhatTheChildSaid) {
  auto id = make(
      "echo '{\"event\":\"error\",\"step\":\"pip\",\"errno\":111,\"message\":\"pip: x: gone\","
      "\"cure\":\"look\",\"exit_code\":125}' >&2; exit 125");
  ASSERT_FALSE(id);
  EXPECT_EQ(id.error().reason, "pip: x: gone");
  EXPECT_EQ(id.error().cure, "look");
  EXPECT_TRUE(may_pass(id.error()));
}

TEST_F(MakerTest, KillsWhatIsTooLate) {
  auto began = Clock::now();
  auto id =
      make("echo '{\"event\":\"progress\",\"layer\":\"pip\",\"phase\":\"resolve\"}' >&2; sleep 100",
           milliseconds(500));
  ASSERT_FALSE(id);
  EXPECT_EQ(id.error().code, kTimeIsUp);
  EXPECT_EQ(id.error().object, "pip: resolve");
  EXPECT_LT(Clock::now() - began, seconds(15));
}

TEST_F(MakerTest, ABackgroundChildThatKeepsThePipeHoldsUpNobodyForEver) {
  EXPECT_FALSE(make("sleep 3 & echo '{\"id\": \"1\"}'", milliseconds(1000)));
}

TEST_F(MakerTest, OneThatHidesIsStillEnded) {
  auto id = make("exec >&- 2>&-; sleep 100", milliseconds(500));
  ASSERT_FALSE(id);
  EXPECT_EQ(id.error().code, kTimeIsUp);
}

TEST_F(MakerTest, SurvivesWhateverIsSaid) {
  EXPECT_FALSE(make("head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/urandom; exit 1"));
  EXPECT_FALSE(make("echo '{\"event\": 1}' >&2; echo '[1, {\"id\": 2}]'"));
  EXPECT_FALSE(make("echo '{\"id\": 2}'"));
  EXPECT_FALSE(make("exit 0"));
  EXPECT_TRUE(make("echo nonsense >&2; yes | head -c 300000 >&2; echo '{\"id\": \"1\"}'"));
}

TEST_F(MakerTest, ASignalMayPassAndAMissingProgramDoesNot) {
  auto id = make("kill -9 $$");
  ASSERT_FALSE(id);
  EXPECT_TRUE(may_pass(id.error()));
  ::unlink((folder_ + "/rtlaunch").c_str());
  asio::io_context io(1);
  Maker maker(io, {folder_ + "/nowhere", "", "/", {}, {}});
  SetupLog log("", {}, "", {});
  Result<std::string> result = std::string();
  spawn(io, keep(maker, log, Clock::now() + seconds(5), result));
  io.run();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ENOENT);
  EXPECT_FALSE(may_pass(result.error()));
}

TEST_F(MakerTest, ChildrenHaveSignalsAsTheyAreByDefault) {
  auto id = make("grep SigIgn /proc/$$/status > seen; echo '{\"id\": \"1\"}'");
  ASSERT_TRUE(id);
  constexpr unsigned long long kOfTheCLibrary = 3ULL << 31;  // 32 and 33, which it lets nobody set
  ASSERT_EQ(seen().find("SigIgn:\t"), 0u);
  EXPECT_EQ(std::strtoull(seen().c_str() + 8, nullptr, 16) & ~kOfTheCLibrary, 0u);
}

}  // namespace
}  // namespace rtlaunch::ray
