#include "launcher/ray/failure.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace rtlaunch::ray {
namespace {

TEST(Failure, SaysCauseAndCureOnWhichNode) {
  std::string text = failure_text(make_error("pip", "x", "isn't there", "check its name"));
  EXPECT_EQ(text, "pip: x: isn't there\ncheck its name");
  EXPECT_EQ(on_node("1.2.3.4", text), "[Node 1.2.3.4] " + text);
  EXPECT_EQ(on_node("", failure_text(make_error("", "", "words"))), "[Node unknown] words");
}

TEST(Failure, HasTenLinesAtMost) {
  std::string many;
  for (int i = 0; i < 1000; ++i) many += "line\n";
  std::string text = failure_text(make_error("", "", many));
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), 10);
  EXPECT_LT(failure_text(make_error("", "", std::string(10 << 20, 'x'))).size(), 1u << 20);
}

TEST(Failure, IsUtf8) {
  EXPECT_EQ(trimmed_text("é✓😀", 1, 100), "é✓😀");
  EXPECT_EQ(trimmed_text("a\xff"
                         "b\xc3",
                         1, 100),
            "a?b?");
  EXPECT_EQ(trimmed_text("\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80", 1, 100), "?????????");
  EXPECT_EQ(trimmed_text("a\x1b[0m\tb", 1, 100), "a?[0m?b");
}

TEST(Failure, TooLateIsInRaysWords) {
  std::string text = failure_text(too_late(std::chrono::seconds(5), "pip: download"));
  EXPECT_NE(text.find("Failed to install runtime_env within the timeout of 5 seconds. Consider "
                      "increasing the timeout in the runtime_env config."),
            std::string::npos);
  EXPECT_NE(text.find("It was at: pip: download"), std::string::npos);
}

}  // namespace
}  // namespace rtlaunch::ray
