#include "launcher/ray/executable.h"

#include <gtest/gtest.h>

namespace rtlaunch::ray {
namespace {

TEST(Executable, OnlyPythonItselfIsCertainNotToFork) {
  for (const char* text : {"python", "/v e/bin/python3.11 -X dev", "/venv/bin/python3 -m x --a=b"})
    EXPECT_EQ(becomes_python(text), std::string(text).find("/v e") == std::string::npos) << text;
  for (const char* text : {"", "uv run python", "./start.sh", "python; true", "python$(id)",
                           "env python", "pythonx", "bash -c 'python'", "nsys profile python"})
    EXPECT_FALSE(becomes_python(text)) << text;
}

TEST(Executable, ProfilersAreWrittenAsRayWritesThem) {
  Profiler nsight{"_nsight", {{"t", "cuda"}, {"o", "'w_%p'"}, {"stop-on-exit", "true"}}, {}};
  std::vector<std::string> expected = {
      "nsys", "profile", "-t", "cuda", "-o", "/l/nsight/'w_%p'", "--stop-on-exit=true"};
  EXPECT_EQ(profiler_words(nsight, "/l"), expected);
  nsight.args = {{"o", "/elsewhere"}};
  expected = {"nsys", "profile", "-o", "/elsewhere"};
  EXPECT_EQ(profiler_words(nsight, "/l"), expected);
  Profiler rocprof{"_rocprof_sys", {{"F", "true"}}, {{"A", "1"}}};
  expected = {"rocprof-sys-python", "-F", "true", "--"};
  EXPECT_EQ(profiler_words(rocprof, "/l"), expected);
}

}  // namespace
}  // namespace rtlaunch::ray
