#include "isolation/sys/caller.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <thread>

#include "isolation/sys/files.h"
#include "isolation/sys/run_program.h"
#include "isolation/sys/test_support.h"

namespace rtlaunch::sys {
namespace {

constexpr uid_t kCaller = 12345;

// act_for() is for the whole process: each test has one of its own.
void in_child(const std::function<void()>& body) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to act for somebody else";
  fflush(nullptr);
  pid_t pid = fork();
  if (pid == 0) {
    body();
    fflush(nullptr);
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

class CallerRights : public ::testing::Test {
 protected:
  CallerRights() {
    chmod(folder_.c_str(), 0755);
    EXPECT_TRUE(replace_file_at(AT_FDCWD, folder_ + "/secret", "root's", 0600).ok());
    EXPECT_TRUE(make_dirs(folder_ + "/closed", 0700).ok());
    EXPECT_TRUE(replace_file_at(AT_FDCWD, folder_ + "/closed/file", "root's", 0644).ok());
    EXPECT_TRUE(make_dirs(folder_ + "/own", 0700).ok());
    EXPECT_EQ(chown((folder_ + "/own").c_str(), kCaller, kCaller), 0);
  }
  bool readable(const std::string& name) { return read_file(folder_ + "/" + name).ok(); }

  TempDir temp_;
  const std::string& folder_ = temp_.path();
};

TEST_F(CallerRights, AreTheDefaultAndRootsOnlyWhileAsked) {
  in_child([&] {
    ASSERT_TRUE(act_for({kCaller, kCaller, {777}}).ok());
    EXPECT_FALSE(readable("secret"));
    EXPECT_FALSE(readable("closed/file"));
    EXPECT_FALSE(replace_file_at(AT_FDCWD, folder_ + "/new", "x").ok());
    EXPECT_TRUE(replace_file_at(AT_FDCWD, folder_ + "/own/new", "x").ok());
    {
      AsRoot root;
      EXPECT_TRUE(readable("secret"));
      { AsRoot nested; }
      EXPECT_TRUE(readable("closed/file"));
      EXPECT_TRUE(replace_file_at(AT_FDCWD, folder_ + "/ours", "x").ok());
    }
    EXPECT_FALSE(readable("secret"));
    struct stat info;
    AsRoot root;
    ASSERT_EQ(stat((folder_ + "/own/new").c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, kCaller);
    EXPECT_EQ(info.st_gid, kCaller);
    ASSERT_EQ(stat((folder_ + "/ours").c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, 0u);
    EXPECT_EQ(info.st_gid, 0u);
  });
}

TEST_F(CallerRights, BelongToAThread) {
  in_child([&] {
    ASSERT_TRUE(act_for({kCaller, kCaller, {}}).ok());
    AsRoot root;
    bool open = true;
    std::thread other([&] {
      AsRoot its_own;  // inherited root's; ends as the caller's
    });
    other.join();
    EXPECT_TRUE(readable("secret"));
    std::thread third([&] {
      { AsRoot its_own; }
      open = readable("secret");
    });
    third.join();
    EXPECT_FALSE(open);
  });
}

TEST_F(CallerRights, GroupsAreTheCallersAlone) {
  EXPECT_EQ(chown((folder_ + "/secret").c_str(), 0, 777), 0);
  chmod((folder_ + "/secret").c_str(), 0640);
  in_child([&] {
    ASSERT_TRUE(act_for({kCaller, kCaller, {776}}).ok());
    EXPECT_FALSE(readable("secret"));
  });
  in_child([&] {
    ASSERT_TRUE(act_for({kCaller, kCaller, {776, 777}}).ok());
    EXPECT_TRUE(readable("secret"));
  });
}

TEST_F(CallerRights, AProgramThatIsRunHasNothingOfRoot) {
  in_child([&] {
    ASSERT_TRUE(act_for({kCaller, 4321, {777}}).ok());
    AsRoot root;  // even then
    auto said =
        run_program({.argv = {"/bin/sh", "-c",
                              "id -u; id -g; id -G; grep -E '^(NoNewPrivs|Cap(Prm|Eff|Inh))' "
                              "/proc/self/status"},
                     .env = {"PATH=/usr/bin:/bin"}});
    ASSERT_TRUE(said.ok());
    std::string nothing = "0000000000000000\n";
    EXPECT_EQ(said->out, "12345\n4321\n4321 777\nCapInh:\t" + nothing + "CapPrm:\t" + nothing +
                             "CapEff:\t" + nothing + "NoNewPrivs:\t1\n");
  });
}

// A path through another process into its mounts shows what is hidden from the caller.
TEST_F(CallerRights, NoPathLeadsIntoAnothersNamespace) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to act for somebody else";
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  pid_t hidden = fork();
  if (hidden == 0) {
    bool made = unshare(CLONE_NEWNS) == 0 &&
                mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                mount("t", folder_.c_str(), "tmpfs", 0, nullptr) == 0 &&
                replace_file_at(AT_FDCWD, folder_ + "/theirs", "private", 0644).ok() &&
                setresuid(kCaller + 1, kCaller + 1, kCaller + 1) == 0;
    char byte = made ? '+' : '-';
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    while (true) pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  ASSERT_EQ(byte, '+');
  std::string path = "/proc/" + std::to_string(hidden) + "/root" + folder_ + "/theirs";
  EXPECT_TRUE(read_file(path).ok()) << "root can: else this test shows nothing";
  in_child([&] {
    ASSERT_TRUE(act_for({kCaller, kCaller, {}}).ok());
    EXPECT_FALSE(read_file(path).ok());
  });
  kill(hidden, SIGKILL);
  waitpid(hidden, nullptr, 0);
}

TEST_F(CallerRights, DyingWithTheParentSurvivesTheChanges) {
  in_child([&] {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ASSERT_TRUE(act_for({kCaller, kCaller, {}}).ok());
    { AsRoot root; }
    int signal = 0;
    prctl(PR_GET_PDEATHSIG, &signal);
    EXPECT_EQ(signal, SIGKILL);
  });
}

TEST(Caller, WithoutOneNothingChanges) {
  AsRoot root;
  EXPECT_EQ(acting_for(), nullptr);
  EXPECT_EQ(become_caller_after_fork(), 0);
}

TEST(Caller, IsParsedStrictly) {
  auto caller = parse_caller("12345:100:4,27");
  ASSERT_TRUE(caller.ok());
  EXPECT_EQ(caller->uid, 12345u);
  EXPECT_EQ(caller->gid, 100u);
  EXPECT_EQ(caller->groups, (std::vector<gid_t>{4, 27}));
  EXPECT_TRUE(parse_caller("0:0:").ok());
  for (const char* text : {"", "1", "1:", "1:2", ":1:2", "1:2:3,", "1:2:,3", "-1:2:", "1:2:x",
                           "a:b:", "4294967295:0:", "4294967296:0:", "1 :2:", "1:2:3:"}) {
    EXPECT_FALSE(parse_caller(text).ok()) << text;
  }
}

}  // namespace
}  // namespace rtlaunch::sys
