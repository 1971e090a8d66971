#include "launcher/ray/setup_log.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "isolation/sys/test_support.h"

namespace rtlaunch::ray {
namespace {

class SetupLogTest : public testing::Test {
 protected:
  std::string text(const std::string& name) {
    std::ifstream file(folder_ + "/" + name);
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
  }
  TempDir temp_;
  const std::string& folder_ = temp_.path();
};

TEST(LogLine, IsAsRaysAre) {
  std::regex form(R"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\tWARNING \S+:\d+ -- a b\n)");
  EXPECT_TRUE(std::regex_match(log_line(LogLevel::kWarning, "a b"), form));
}

TEST_F(SetupLogTest, WritesToAll) {
  SetupLog log(folder_, {}, "01000000", {"mine.log", "/etc/x", "..", "a/b"});
  log.info("hello");
  EXPECT_NE(text("runtime_env_setup-01000000.log").find("-- hello\n"), std::string::npos);
  EXPECT_NE(text("mine.log").find("-- hello\n"), std::string::npos);
  EXPECT_NE(text("mine.log").find("must be without slashes"), std::string::npos);
}

TEST_F(SetupLogTest, AJobsIdIsNoPath) {
  SetupLog(folder_, {}, "../x/y", {}).info("hello");
  EXPECT_NE(text("runtime_env_setup-.._x_y.log").find("hello"), std::string::npos);
}

TEST_F(SetupLogTest, Rotates) {
  RotatingFile file(folder_ + "/r", {10, 2});
  for (const char* line : {"aaaaaa\n", "bbbbbb\n", "cccccc\n", "dddddd\n"}) file.write(line);
  EXPECT_EQ(text("r"), "dddddd\n");
  EXPECT_EQ(text("r.1"), "cccccc\n");
  EXPECT_EQ(text("r.2"), "bbbbbb\n");
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/r.3"));
}

TEST_F(SetupLogTest, AFolderThatIsNotThereIsNoFailure) {
  SetupLog(folder_ + "/nowhere", {}, "1", {}).info("lost");
}

}  // namespace
}  // namespace rtlaunch::ray
