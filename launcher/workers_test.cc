#include "launcher/workers.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/test_support.h"

namespace rtlaunch {
namespace {

class WorkersTest : public testing::Test {
 protected:
  void TearDown() override {
    for (pid_t pid : children_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }

  Workers open() {
    auto workers = Workers::open(folder_);
    EXPECT_TRUE(workers.ok());
    return std::move(*workers);
  }
  std::string file(const std::string& id) { return folder_ + "/workers/" + id; }

  // What spawner and pid 1 do: lock, say the pid, live until killed.
  pid_t live(UniqueFd record, bool says_pid) {
    int ready[2];
    EXPECT_EQ(::pipe(ready), 0);
    pid_t pid = ::fork();
    if (pid == 0) {
      (void)sys::lock_file(record.get(), sys::Lock::kExclusive, "").ok();
      std::string line = "{\"pid\":" + std::to_string(::getpid()) +
                         ",\"start_time\":" + std::to_string(start_time_of(::getpid())) +
                         ",\"cgroup\":\"/x\"}\n";
      if (says_pid) (void)!::write(record.get(), line.data(), line.size());
      (void)!::write(ready[1], "x", 1);
      while (true) ::pause();
    }
    children_.push_back(pid);
    char byte;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    ::close(ready[1]);
    return pid;
  }
  void end(pid_t pid) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    std::erase(children_, pid);
  }

  TempDir temp_;
  const std::string& folder_ = temp_.path();
  std::vector<pid_t> children_;
};

Worker named(uid_t uid, const std::string& name) {
  Worker worker;
  worker.uid = uid;
  worker.name = name;
  return worker;
}

TEST_F(WorkersTest, ANewTableAdoptsWhatIsLockedAndForgetsWhatIsNot) {
  Workers first = open();
  Worker lives = named(1000, "train"), ended = named(0, "quick"), never = named(7, "");
  pid_t pid = live(std::move(*first.create(lives)), true);
  pid_t gone = live(std::move(*first.create(ended)), true);
  ASSERT_TRUE(first.create(never).ok());
  end(gone);
  std::string last = "{\"status\":256,\"ended\":1700000000}\n";
  UniqueFd record(::open(file(ended.id).c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  ASSERT_TRUE(sys::write_all(record.get(), last, "").ok());
  record.reset();

  Workers second = open();
  auto adopted = second.adopt();
  ASSERT_TRUE(adopted.ok());
  EXPECT_EQ(adopted->running, std::vector<std::string>{lives.id});
  EXPECT_EQ(adopted->ended, std::vector<std::string>{ended.id});
  EXPECT_TRUE(adopted->undecided.empty());
  Worker* worker = second.running(lives.id);
  ASSERT_NE(worker, nullptr);
  EXPECT_EQ(worker->pid, pid);
  EXPECT_EQ(worker->uid, 1000u);
  EXPECT_EQ(worker->name, "train");
  EXPECT_EQ(worker->cgroup, "/x");
  EXPECT_TRUE(worker->pidfd.valid());
  ASSERT_EQ(second.all_ended().size(), 1u);
  EXPECT_EQ(second.all_ended()[0].status, 256);
  EXPECT_EQ(second.all_ended()[0].ended, 1700000000'000000);
  EXPECT_FALSE(std::filesystem::exists(file(ended.id)));
  EXPECT_FALSE(std::filesystem::exists(file(never.id)));
  EXPECT_TRUE(std::filesystem::exists(file(lives.id)));
}

TEST_F(WorkersTest, ALockedRecordWithoutAPidIsUndecided) {
  Workers first = open();
  Worker worker = named(0, "");
  pid_t pid = live(std::move(*first.create(worker)), false);
  Workers second = open();
  auto adopted = second.adopt();
  ASSERT_TRUE(adopted.ok());
  EXPECT_EQ(adopted->undecided, std::vector<std::string>{worker.id});
  EXPECT_TRUE(std::filesystem::exists(file(worker.id)));
  end(pid);
  adopted = second.adopt();
  ASSERT_TRUE(adopted.ok());
  EXPECT_TRUE(adopted->undecided.empty() && adopted->running.empty());
  EXPECT_FALSE(std::filesystem::exists(file(worker.id)));
}

// A pid that was given to somebody else meanwhile, and a lock that is somebody else's.
// Attacks: F7
TEST_F(WorkersTest, AnotherProcessOfTheSameNumberIsNotAdopted) {
  Workers first = open();
  Worker worker = named(0, "");
  UniqueFd record = std::move(*first.create(worker));
  std::string line = "{\"pid\":" + std::to_string(::getpid()) + ",\"start_time\":1}\n";
  ASSERT_TRUE(sys::write_all(record.get(), line, "").ok());
  ASSERT_TRUE(sys::lock_file(record.get(), sys::Lock::kExclusive, "").ok());
  Workers second = open();
  auto adopted = second.adopt();
  ASSERT_TRUE(adopted.ok());
  EXPECT_TRUE(adopted->running.empty());
  EXPECT_EQ(adopted->undecided.size(), 1u);
  // Control: the same number, since when it is this process's.
  std::string since = std::to_string(start_time_of(::getpid()));
  line = "{\"pid\":" + std::to_string(::getpid()) + ",\"start_time\":" + since + "}\n";
  ASSERT_TRUE(sys::write_all(record.get(), line, "").ok());
  EXPECT_EQ(open().adopt()->running.size(), 1u);
}

TEST_F(WorkersTest, RestoredRecordsAreAdoptedByPidAndStartTime) {
  Workers first = open();
  Worker worker = named(5, "x");
  pid_t pid = live(std::move(*first.create(worker)), true);
  first.started(worker.id, pid, pidfd_of(pid), "");
  EXPECT_TRUE(first.in_place());
  std::filesystem::remove_all(folder_ + "/workers");
  EXPECT_FALSE(first.in_place());
  ASSERT_TRUE(first.restore().ok());
  EXPECT_TRUE(first.in_place());
  Workers second = open();
  ASSERT_EQ(second.adopt()->running.size(), 1u);
  end(pid);
  Workers third = open();
  EXPECT_TRUE(third.adopt()->running.empty());
  EXPECT_FALSE(std::filesystem::exists(file(worker.id)));
}

TEST_F(WorkersTest, OthersWorkersAreNotFound) {
  Workers workers = open();
  Worker worker = named(1000, "");
  ASSERT_TRUE(workers.create(worker).ok());
  EXPECT_TRUE(workers.find(worker.id.substr(0, 6), 1000).ok());
  EXPECT_TRUE(workers.find(worker.id, 0).ok());
  EXPECT_EQ(workers.find(worker.id, 1001).error().code, ESRCH);
}

TEST_F(WorkersTest, OnlyTheLastThousandThatEndedAreKept) {
  Workers workers = open();
  for (int i = 0; i < 1100; ++i) {
    Worker worker = named(0, std::to_string(i));
    ASSERT_TRUE(workers.create(worker).ok());
    EXPECT_EQ(workers.ended(worker.id).status, std::nullopt);
  }
  EXPECT_EQ(workers.all_ended().size(), Workers::kMostEnded);
  EXPECT_EQ(workers.all_ended().front().name, "100");
  EXPECT_TRUE(std::filesystem::is_empty(folder_ + "/workers"));
}

TEST_F(WorkersTest, UsageCountsTheWholeTree) {
  Usage own = usage_of(::getpid());
  EXPECT_GE(own.processes, 1);
  EXPECT_GT(own.memory, 0);
  Worker worker = named(0, "");
  Workers workers = open();
  pid_t pid = live(std::move(*workers.create(worker)), true);
  EXPECT_EQ(usage_of(::getpid()).processes, own.processes + 1);
  EXPECT_EQ(usage_of(pid).processes, 1);
  end(pid);
  EXPECT_EQ(usage_of(pid).processes, 0);
}

}  // namespace
}  // namespace rtlaunch
