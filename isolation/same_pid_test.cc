// One number inside and outside, whatever else starts and however few numbers there are.
#include "isolation/same_pid.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>

#include <functional>

#include "isolation/sandbox_testing.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch::isolation {
namespace {

// The command says its pid, and stays until we have looked at it from outside: what the kernel
// calls it in each pid namespace from ours on. "NSpid:\t17\t17"
struct Seen {
  std::string inside, outside;
  Error error;
};

Seen look_at_one(bool same_pid) {
  Pipe in, out;
  Spec spec = shell("echo $$; read line");
  spec.root = Root::kShared;
  spec.same_pid = same_pid;
  spec.stdin_fd = in.read.get();
  spec.stdout_fd = out.write.get();
  Result<Sandbox> sandbox = start(spec);
  if (!sandbox) return {"", "", sandbox.error()};
  Seen seen;
  char c;
  while (::read(out.read.get(), &c, 1) == 1 && c != '\n') seen.inside += c;
  Result<std::string> status = sys::read_file("/proc/" + seen.inside + "/status");
  size_t at = status ? status->find("NSpid:") : std::string::npos;
  if (at != std::string::npos) seen.outside = status->substr(at, status->find('\n', at) - at);
  in.write.reset();
  (void)sandbox->wait().ok();
  return seen;
}

std::string twice(const std::string& pid) { return "NSpid:\t" + pid + "\t" + pid; }

SANDBOX_TEST(PidIsTheSameInsideAndOutside) {
  for (int i = 0; i < 200; ++i) {
    ::alarm(60);  // each has a minute
    Seen seen = look_at_one(true);
    ASSERT_EQ(seen.outside, twice(seen.inside)) << i << ": " << seen.error.message();
  }
  Seen control = look_at_one(false);
  EXPECT_EQ(control.inside, "2");
  EXPECT_NE(control.outside, twice("2"));
}

pid_t start_forking() {
  pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  while (true) {
    if (::fork() == 0) ::_exit(0);
    ::wait(nullptr);
  }
}

// Without root the number is guessed: then it may not be had, but never is it another.
SANDBOX_TEST(PidIsTheSameWhileOthersFork) {
  pid_t storm = start_forking();
  for (int i = 0; i < 40; ++i) {
    Seen seen = look_at_one(true);
    if (seen.inside.empty()) {
      EXPECT_FALSE(world.root);
      EXPECT_EQ(seen.error.step, "same pid");
      continue;
    }
    ASSERT_EQ(seen.outside, twice(seen.inside)) << i;
  }
  ::kill(storm, SIGKILL);
  ::waitpid(storm, nullptr, 0);
}

// --- SamePid by itself, as pid 1 of a namespace in another of which we choose how big it is ---

void wait_for_child(pid_t pid) {
  int status = -1;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
}

// In a new pid namespace, with a /proc of its own; `body` runs as its pid 1.
void in_new_namespace(const std::function<void()>& body) {
  ASSERT_EQ(::unshare(CLONE_NEWPID), 0);
  pid_t pid = ::fork();
  if (pid == 0) {
    EXPECT_EQ(::mount("proc", "/proc", "proc", 0, nullptr), 0);
    body();
    std::fflush(nullptr);
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  wait_for_child(pid);
}

struct Numbers {
  int proc;
  pid_t inside = 0, outside = 0;
};

int note_numbers(void* argument) {
  auto* numbers = static_cast<Numbers*>(argument);
  char text[16] = {};
  (void)!::readlinkat(numbers->proc, "self", text, sizeof text - 1);
  numbers->inside = ::getpid();
  numbers->outside = std::atoi(text);
  ::_exit(0);
}

// A child of ours in a pid namespace below ours; its numbers come back by `told`.
Result<pid_t> spawn_below(const Outside& outside, Numbers* numbers) {
  Result<SamePid> same_pid = SamePid::prepare(outside);
  if (!same_pid) return same_pid.error();
  numbers->proc = ::open("/proc", O_PATH | O_CLOEXEC);
  return same_pid->spawn(note_numbers, numbers);
}

void set_number(const char* path, int number) {
  std::ofstream(path) << number << std::flush;
  EXPECT_EQ(std::atoi(World::read(path).c_str()), number) << path;
}

// Since Linux 6.14 each namespace has a pid_max of its own; before, this would be the host's.
bool pid_max_is_ours() { return World::read("/proc/sys/kernel/pid_max") == "4194304\n"; }

pid_t occupy() {
  pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) ::pause();
  }
  return pid;
}

ROOT_TEST(PidIsFoundAmongTheFewThatAreFree) {
  SKIP_BESIDE_A_THREAD();
  in_new_namespace([] {
    if (!pid_max_is_ours()) GTEST_SKIP() << "pid_max is the whole machine's here";
    set_number("/proc/sys/kernel/pid_max", 340);
    set_number("/proc/sys/kernel/ns_last_pid", 299);
    for (int i = 0; i < 38; ++i) occupy();  // one for `below`, one for its child
    Outside outside = Outside::look().value();
    EXPECT_EQ(outside.pid_max, 340);
    outside.pid_max = 4'194'304;  // as if it had been lowered since
    ASSERT_EQ(::unshare(CLONE_NEWPID), 0);
    pid_t below = ::fork();
    if (below == 0) {
      Numbers numbers{};
      Result<pid_t> pid = spawn_below(outside, &numbers);
      bool same = pid && numbers.inside == *pid && numbers.outside == *pid && *pid >= 338;
      if (!pid) std::fprintf(stderr, "%s\n", pid.error().message().c_str());
      ::_exit(same ? 0 : 1);
    }
    wait_for_child(below);
  });
}

ROOT_TEST(PidThatCantBeHadIsAnError) {
  SKIP_BESIDE_A_THREAD();
  in_new_namespace([] {
    if (!pid_max_is_ours()) GTEST_SKIP() << "pid_max is the whole machine's here";
    set_number("/proc/sys/kernel/pid_max", 310);
    set_number("/proc/sys/kernel/ns_last_pid", 299);
    for (int i = 0; i < 9; ++i) occupy();  // `below` takes the last
    Outside outside = Outside::look().value();
    ASSERT_EQ(::unshare(CLONE_NEWPID), 0);
    pid_t below = ::fork();
    if (below == 0) {
      Numbers numbers{};
      Result<pid_t> pid = spawn_below(outside, &numbers);
      ::_exit(!pid && pid.error().code == EAGAIN && numbers.inside == 0 ? 0 : 1);
    }
    wait_for_child(below);
  });
}

// Another namespace's /proc would have us compare apples with pears.
SANDBOX_TEST(GuessedPidNeedsAProcOfItsOwnNamespace) {
  if (world.root) return;
  SKIP_BESIDE_A_THREAD();
  Outside outside = Outside::look().value();
  outside.pid += 1;
  ASSERT_EQ(::unshare(CLONE_NEWUSER | CLONE_NEWPID), 0);
  pid_t below = ::fork();
  if (below == 0) {
    Numbers numbers{};
    Result<pid_t> pid = spawn_below(outside, &numbers);
    ::_exit(!pid && pid.error().code == ENOTSUP && numbers.inside == 0 ? 0 : 1);
  }
  wait_for_child(below);
}

}  // namespace
}  // namespace rtlaunch::isolation
