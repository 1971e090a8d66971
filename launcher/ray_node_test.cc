#include "launcher/ray_node.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "isolation/sys/files.h"
#include "launcher/daemon.h"

namespace rtlaunch {
namespace {

using Words = std::vector<std::string>;

TEST(RayNode, WhichDaemonOrStoreAsRunHasIt) {
  auto where = [](const Variables& variables) { return RayNode::from(variables).where(); };
  Variables both = {{"RTLAUNCH_SOCKET", "/s"}, {"RTLAUNCH_STORE", "/d"}};
  EXPECT_EQ(where({}), Words());
  EXPECT_EQ(where(both), (Words{"--socket", "/s"}));
  EXPECT_EQ(where({{"RTLAUNCH_STORE", "/d"}}), (Words{"--store", "/d"}));
  both["RTLAUNCH_EMBEDDED"] = "1";
  EXPECT_EQ(where(both), (Words{"--embedded", "--store", "/d"}));
  EXPECT_EQ(where({{"RTLAUNCH_EMBEDDED", "true"}}), Words{"--embedded"});
}

class EveryWorkerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(folder_);
    node_.socket = folder_ + "/sock";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void tell(const std::string& text) {
    UniqueFd folder = sys::open_at(AT_FDCWD, folder_, O_RDONLY | O_DIRECTORY).value();
    ASSERT_TRUE(sys::replace_file_at(folder.get(), "sock.policy", text));
  }
  static std::string said(EveryWorker& every_worker) {
    auto by = every_worker.by();
    return by ? *by : "error: " + by.error().message();
  }

  std::string folder_ = testing::TempDir() + "/every-worker-" + std::to_string(::getpid());
  RayNode node_;
};

TEST_F(EveryWorkerTest, IsReadAnewWhenTheDaemonHasToldAnew) {
  if (::geteuid() != 0) GTEST_SKIP() << "what the daemon tells is root's";
  EveryWorker every_worker(node_);
  tell("{\"version\": 1}");
  EXPECT_EQ(said(every_worker), "");
  tell("{\"version\": 1, \"every_worker\": \"require\"}");
  EXPECT_EQ(said(every_worker), "policy of " + told_beside(node_.socket));
  tell("{\"version\": 1, \"rules\": [{\"name\": \"r\", \"every_worker\": \"require\"}]}");
  EXPECT_EQ(said(every_worker), "rule r of " + told_beside(node_.socket));
  tell("{\"version\": 1}");
  EXPECT_EQ(said(every_worker), "");
}

TEST_F(EveryWorkerTest, WhatCantBeToldIsAnError) {
  EveryWorker every_worker(node_);
  EXPECT_NE(said(every_worker).find("no rtlaunchd has told yet"), std::string::npos);
  if (::geteuid() != 0) GTEST_SKIP() << "the rest is root's";
  tell("{\"version\": 1, \"every_worker\": \"require\"");
  EXPECT_NE(said(every_worker).find("ends too early"), std::string::npos);
  tell("{\"version\": 1}");
  EXPECT_EQ(said(every_worker), "");
  ASSERT_EQ(::chown(told_beside(node_.socket).c_str(), 1234, 0), 0);
  EXPECT_NE(said(every_worker).find("not of rtlaunchd's making"), std::string::npos);
}

TEST_F(EveryWorkerTest, ADaemonThatBeginsWhenSomebodyConnectsIsWaitedFor) {
  if (::geteuid() != 0) GTEST_SKIP() << "what the daemon tells is root's";
  UniqueFd socket = listen_at(node_.socket).value();
  EveryWorker every_worker(node_);
  std::thread daemon([&] {
    struct pollfd asked = {socket.get(), POLLIN, 0};
    if (::poll(&asked, 1, 10'000) == 1) tell("{\"version\": 1, \"every_worker\": \"require\"}");
  });
  EXPECT_EQ(said(every_worker), "policy of " + told_beside(node_.socket));
  daemon.join();
}

TEST_F(EveryWorkerTest, TheNodesOwnWordIsEnough) {
  node_.every_worker = true;
  EveryWorker every_worker(node_);
  EXPECT_EQ(said(every_worker), "RTLAUNCH_RAY_SANDBOX_ALL");
}

}  // namespace
}  // namespace rtlaunch
