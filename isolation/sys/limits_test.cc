#include "isolation/sys/limits.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "isolation/sys/process.h"

namespace rtlaunch::sys {
namespace {

// In a process of its own, for none of this can be undone; its exit status.
template <typename Body>
int in_child(Body body) {
  pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  int status = -1;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void restrict_self() {
  struct rlimit files = {100, 200}, memory = {1ul << 33, 1ul << 34};
  ::setrlimit(RLIMIT_NOFILE, &files);
  ::setrlimit(RLIMIT_AS, &memory);
  ::setpriority(PRIO_PROCESS, 0, 7);
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  ::sched_setaffinity(0, sizeof one, &one);
  struct sched_param none = {};
  ::sched_setscheduler(0, SCHED_BATCH, &none);
}

TEST(Limits, AreTakenAsTheyAreOfAnother) {
  int ready[2], end[2];
  ASSERT_EQ(::pipe(ready) | ::pipe(end), 0);
  pid_t other = ::fork();
  if (other == 0) {
    restrict_self();
    ::close(end[1]);
    char byte = 0;
    (void)!::write(ready[1], &byte, 1);
    (void)!::read(end[0], &byte, 1);
    ::_exit(0);
  }
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  auto theirs = limits_of(other);
  ASSERT_TRUE(theirs.ok());
  EXPECT_EQ(theirs->resources[RLIMIT_NOFILE], (Limits::Resource{100, 200}));
  EXPECT_EQ(theirs->nice, 7);
  EXPECT_EQ(theirs->policy, uint32_t{SCHED_BATCH});
  EXPECT_FALSE(limits_of(::getpid()).value() == *theirs);
  EXPECT_EQ(in_child([&] {
              if (!take_limits(*theirs).ok()) return 1;
              return limits_of(0).value() == *theirs ? 0 : 2;
            }),
            0);
  ::close(end[1]);
  ::waitpid(other, nullptr, 0);
}

TEST(Limits, OursStayWhereWeMayNotRaiseThem) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to give it up";
  Limits wanted = limits_of(0).value();
  wanted.resources[RLIMIT_NOFILE] = {300, 300};
  EXPECT_EQ(in_child([&] {
              restrict_self();
              if (::setresuid(12345, 12345, 12345) != 0) return 1;
              wanted.nice = 7;
              if (!take_limits(wanted).ok()) return 2;
              struct rlimit files;
              ::getrlimit(RLIMIT_NOFILE, &files);
              return files.rlim_cur == 200 && files.rlim_max == 200 ? 0 : 3;
            }),
            0);
}

TEST(Limits, OfNobodyAreNone) { EXPECT_EQ(limits_of(INT32_MAX).error().code, ESRCH); }

struct Cpus {
  cpu_set_t before = {}, own = {}, parents = {};
};

int look_at_cpus(void* argument) {
  auto* cpus = static_cast<Cpus*>(argument);
  bool looked = ::sched_getaffinity(0, sizeof cpus->own, &cpus->own) == 0 &&
                ::sched_getaffinity(::getppid(), sizeof cpus->parents, &cpus->parents) == 0;
  ::_exit(looked ? 0 : 1);
}

// It begins on our CPU; neither it nor we are bound to that.
TEST(Limits, WhoBorrowsMemoryHasItsParentsCpus) {
  for (bool restricted : {false, true}) {
    EXPECT_EQ(in_child([&] {
                if (restricted) restrict_self();
                Cpus cpus;
                cpu_set_t after = {};
                ::sched_getaffinity(0, sizeof cpus.before, &cpus.before);
                auto child = spawn_borrowing_memory(look_at_cpus, &cpus);
                int status = -1;
                if (!child || ::waitpid(*child, &status, 0) != *child || status != 0) return 1;
                ::sched_getaffinity(0, sizeof after, &after);
                if (!CPU_EQUAL(&cpus.own, &cpus.before)) return 2;
                if (!CPU_EQUAL(&cpus.parents, &cpus.before)) return 3;
                return CPU_EQUAL(&after, &cpus.before) ? 0 : 4;
              }),
              0);
  }
}

}  // namespace
}  // namespace rtlaunch::sys
