#include "launcher/options.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace rtlaunch {
namespace {

TEST(Options, ValuesComeBothWays) {
  auto options = parse_run_options(
      {"--pip", "a", "--pip=b==1", "--env=K=V=W", "--json", "--", "cmd", "--pip"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->pip, (std::vector<std::string>{"a", "b==1"}));
  EXPECT_EQ(options->env[0], (std::pair<std::string, std::string>("K", "V=W")));
  EXPECT_TRUE(options->json);
  EXPECT_EQ(options->command, (std::vector<std::string>{"cmd", "--pip"}));
}

TEST(Options, TheCommandStartsAtTheFirstWordThatIsNoOption) {
  auto options = parse_run_options({"--json", "python3", "-c", "pass"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->command, (std::vector<std::string>{"python3", "-c", "pass"}));
}

TEST(Options, AnEnvWithoutValueIsOurs) {
  ::setenv("RTLAUNCH_TEST_MINE", "mine", 1);
  auto options = parse_run_options({"--env", "RTLAUNCH_TEST_MINE", "--", "x"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->env[0].second, "mine");
  ::unsetenv("RTLAUNCH_TEST_MINE");
  EXPECT_FALSE(parse_run_options({"--env", "RTLAUNCH_TEST_MINE", "--", "x"}).ok());
}

TEST(Options, UnknownOnesAreNamedAndTheNearestIsSuggested) {
  auto options = parse_run_options({"--workingdir", ".", "--", "x"});
  ASSERT_FALSE(options.ok());
  EXPECT_EQ(options.error().object, "--workingdir");
  EXPECT_NE(options.error().cure.find("--working-dir"), std::string::npos);
  EXPECT_EQ(options.error().exit_code, 125);
}

TEST(Options, ProfilesAndPlaces) {
  auto options = parse_exec_options({"env", "--profile=ray", "--working-dir-at", "/a/../b/",
                                     "--hide", "/h", "--session", "/s/session_1", "--py-module-at",
                                     "/1", "--py-module-at", "/2", "--bind", "/a=/b/../c",
                                     "--die-with-parent", "--", "x", "--profile", "ml"});
  ASSERT_TRUE(options.ok()) << options.error().message();
  EXPECT_EQ(options->asked.ask.profile, "ray");
  EXPECT_EQ(options->working_dir_at, "/b");
  EXPECT_EQ(options->py_modules_at, (std::vector<std::string>{"/1", "/2"}));
  EXPECT_EQ(options->hidden, (std::vector<std::string>{"/h"}));
  EXPECT_EQ(options->session, "/s/session_1");
  EXPECT_TRUE(options->die_with_parent);
  using Binds = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(options->binds, (Binds{{"/a", "/c"}}));
  for (const char* bad : {"/a", "a=/b", "/a=b", "=/b"})
    EXPECT_FALSE(parse_exec_options({"env", "--bind", bad, "--", "x"}).ok()) << bad;
  EXPECT_EQ(parse_run_options({"x"})->asked.ask.profile, "");
  for (const char* option : {"--working-dir-at", "--py-module-at", "--hide", "--session"}) {
    EXPECT_FALSE(parse_run_options({option, "relative", "--", "x"}).ok()) << option;
    EXPECT_FALSE(parse_create_options({option, "/x"}).ok()) << option;
  }
}

TEST(Options, WhatIsAskedOfThePolicy) {
  auto options = parse_run_options({"--control", "memory=1G", "--control=network=none", "--job",
                                    "j", "--label", "team=x=y", "--", "x"});
  ASSERT_TRUE(options.ok()) << options.error().message();
  EXPECT_EQ(options->asked.ask.controls, (std::vector<std::pair<std::string, std::string>>{
                                             {"memory", "1G"}, {"network", "none"}}));
  EXPECT_EQ(options->asked.job, "j");
  EXPECT_EQ(options->asked.labels.at("team"), "x=y");
  for (const std::vector<std::string>& bad :
       std::vector<std::vector<std::string>>{{"--profile", ".."},
                                             {"--profile", "-x"},
                                             {"--profile", "a\nb"},
                                             {"--control", "memory"},
                                             {"--control", "memroy=1G"},
                                             {"--control", "memory=x"},
                                             {"--job", "a\nb"},
                                             {"--label", "=x"},
                                             {"--label", "..=x"}}) {
    EXPECT_FALSE(parse_run_options({bad[0], bad[1], "--", "x"}).ok()) << bad[1];
  }
}

TEST(Options, Sizes) {
  EXPECT_EQ(*parse_size("0"), 0u);
  EXPECT_EQ(*parse_size("4k"), 4096u);
  EXPECT_EQ(*parse_size("2G"), 2ull << 30);
  EXPECT_EQ(*parse_size("3MB"), 3ull << 20);
  for (const char* bad : {"", "-1", "G", "1X", "99999999999999999999", "99999999999T"}) {
    EXPECT_FALSE(parse_size(bad).ok()) << bad;
  }
}

TEST(Options, Durations) {
  EXPECT_EQ(*parse_duration("90"), 90);
  EXPECT_EQ(*parse_duration("15m"), 900);
  EXPECT_EQ(*parse_duration("1h"), 3600);
  EXPECT_EQ(*parse_duration("7D"), 7 * 86400);
  for (const char* bad : {"", "-1", "h", "1w", "99999999999", "99999999d"}) {
    EXPECT_FALSE(parse_duration(bad).ok()) << bad;
  }
}

TEST(Options, ExecTakesOptionsBeforeAndAfterTheEnvironmentAndNoneOfTheCommand) {
  auto options = parse_exec_options({"--timings", "job", "--env", "A=b", "python3", "--json"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->environment, "job");
  EXPECT_EQ(options->command, (std::vector<std::string>{"python3", "--json"}));
  EXPECT_TRUE(options->timings);
  EXPECT_FALSE(options->json);
  EXPECT_FALSE(parse_exec_options({"job"}).ok());
  EXPECT_FALSE(parse_exec_options({}).ok());
  EXPECT_FALSE(parse_exec_options({"--pip", "a", "job", "x"}).ok());
}

TEST(Options, CreateTakesNoCommandAndATimeOnlyWithAName) {
  auto options = parse_create_options({"--pip", "a", "--name", "n", "--ttl", "1h"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->ttl, 3600);
  EXPECT_FALSE(parse_create_options({"--pip", "a", "true"}).ok());
  EXPECT_FALSE(parse_create_options({"--pip", "a", "--ttl", "1h"}).ok());
  EXPECT_FALSE(parse_create_options({"--socket", "/s", "--embedded"}).ok());
}

}  // namespace
}  // namespace rtlaunch
