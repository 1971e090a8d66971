#include "launcher/ray/agent_options.h"

#include <gtest/gtest.h>

namespace rtlaunch::ray {
namespace {

const std::vector<std::string> kLeast = {"--node-id=ab", "--session-dir=/s",
                                         "--runtime-env-dir=/r"};

Result<AgentOptions> parse(std::vector<std::string> more) {
  more.insert(more.begin(), kLeast.begin(), kLeast.end());
  return parse_agent_options(more);
}

TEST(AgentOptions, TakesRaysArguments) {
  auto options = parse({"--node-ip-address=10.0.0.1", "--runtime-env-agent-port", "8080",
                        "--log-dir=/l", "--logging-rotate-bytes=1", "--gcs-address=h:1"});
  ASSERT_TRUE(options);
  EXPECT_EQ(options->node_ip, "10.0.0.1");
  EXPECT_EQ(options->port, 8080);
  EXPECT_EQ(options->log_dir, "/l");
  EXPECT_EQ(options->rotate_bytes, 1u);
  EXPECT_EQ(options->log_name, "runtime_env_agent.log");
  EXPECT_EQ(parse({"--logging-filename="})->log_name, "");
}

TEST(AgentOptions, IsLenientAboutWhatItDoesNotKnow) {
  auto options = parse({"--of-later", "x", "--flag", "--temp-dir=/tmp", "word"});
  ASSERT_TRUE(options);
  EXPECT_EQ(options->ignored, (std::vector<std::string>{"--of-later", "--flag", "word"}));
}

TEST(AgentOptions, RefusesWhatCanNotBeMeant) {
  EXPECT_FALSE(parse({"--runtime-env-agent-port=70000"}));
  EXPECT_FALSE(parse({"--runtime-env-agent-port=x"}));
  EXPECT_FALSE(parse({"--logging-rotate-bytes=-1"}));
  EXPECT_FALSE(parse_agent_options({"--node-id=ab"}));
}

TEST(Knobs, AreRays) {
  Knobs none = Knobs::from({});
  EXPECT_EQ(none.failed_for.count(), 600);
  EXPECT_EQ(none.attempts, 3);
  EXPECT_EQ(none.cache_bytes("pip"), 10ull << 30);
  Knobs knobs = Knobs::from({{"BAD_RUNTIME_ENV_CACHE_TTL_SECONDS", "7"},
                             {"RUNTIME_ENV_RETRY_TIMES", "0"},
                             {"RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB", "0.5"},
                             {"RAY_RUNTIME_ENV_PIP_CACHE_SIZE_GB", "0"},
                             {"RAY_RUNTIME_ENV_UV_CACHE_SIZE_GB", "much"},
                             {"RTLAUNCH_EMBEDDED", "1"}});
  EXPECT_EQ(knobs.failed_for.count(), 7);
  EXPECT_EQ(knobs.attempts, 1);
  EXPECT_EQ(knobs.cache_bytes("working_dir"), 1ull << 29);
  EXPECT_EQ(knobs.cache_bytes("pip"), 0u);
  EXPECT_EQ(knobs.cache_bytes("uv"), 10ull << 30);
  EXPECT_TRUE(knobs.node.embedded);
}

}  // namespace
}  // namespace rtlaunch::ray
