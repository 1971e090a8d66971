// The spawner, from outside: whose life is tied to whose, whose rights count, and that nothing is
// left.
#include "launcher/spawner_testing.h"

namespace rtlaunch {
namespace {

using isolation::LineMessage;
using isolation::Overlay;
using isolation::Spec;

class SpawnerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    node_.emplace();
  }
  Node& node() { return *node_; }
  std::optional<Node> node_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// --- a worker's life ---

TEST_F(SpawnerTest, StartsACommandAndTellsItsStatus) {
  Client client = node().start(Node::shell("echo $$; id -u; exit 7"));
  auto started = node().reply(client.id);
  ASSERT_TRUE(started);
  ASSERT_EQ(started->kind, SpawnReply::Kind::kStarted) << started->error.message();
  EXPECT_GT(started->pid, 0);
  EXPECT_TRUE(started->pidfd.valid());
  EXPECT_FALSE(started->steps.empty());
  EXPECT_EQ(client.next()->kind, LineMessage::kGoing);
  EXPECT_EQ(client.next()->kind, LineMessage::kStarted);
  EXPECT_EQ(drain(client.output.get()), "2\n12345\n");
  auto ended = client.next();
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->kind, LineMessage::kEnded);
  EXPECT_EQ(ended->value, W_EXITCODE(7, 0));
  EXPECT_FALSE(client.next()) << "pid 1 ends after it";
  std::string record = read_text(client.record);
  EXPECT_TRUE(contains(record, "{\"pid\":" + std::to_string(started->pid) + ",\"start_time\":"));
  EXPECT_TRUE(contains(record, "{\"status\":1792,\"ended\":")) << record;
}

}  // namespace
}  // namespace rtlaunch
