// For tests only: SANDBOX_TEST(Name) { ... } makes two tests of one body, Name_root and Name_user
// (a plain uid, so rootless). Each runs in a fresh process with a mount namespace of its own, as a
// sandbox can't be undone. Inside, `world` has directories of that user's:
//   world.dir    below /tmp, which a sandbox covers
//   world.host   elsewhere, which a sandbox shows
#pragma once

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "isolation/sandbox.h"
#include "isolation/sys/files.h"
#include "isolation/sys/test_support.h"

namespace rtlaunch::isolation {

constexpr uid_t kPlainUser = 12345;

struct World {
  bool root;
  std::string dir, host;

  // A new directory below `dir` (or any), with its parents.
  std::string make(const std::string& path) const {
    std::filesystem::create_directories(path);
    return path;
  }
  std::string write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << text;
    return path;
  }
  static std::string read(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
  }
};

struct Pipe {
  Pipe() {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) std::abort();
    read = UniqueFd(fds[0]);
    write = UniqueFd(fds[1]);
  }
  UniqueFd read, write;
};

struct Outcome {
  int status = -1;     // as waitpid(2) gives it
  std::string output;  // stdout and stderr
  Error error;         // when it didn't start
  bool started = false;
  std::optional<Sandbox> sandbox;

  int code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }
};

inline std::string drain(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t count;
  while ((count = ::read(fd, buffer, sizeof buffer)) > 0) text.append(buffer, count);
  return text;
}

// A launcher that does `begin` and dies `delay` microseconds after its fork: the end of the pipe
// says that nothing of what it has begun is left.
template <typename Begin>
void ends_with_its_launcher(int delay, const Begin& begin) {
  Pipe out;
  pid_t launcher = ::fork();
  if (launcher == 0) {
    [[maybe_unused]] auto begun = begin(out);
    ::pause();
  }
  out.write.reset();
  ::usleep(static_cast<useconds_t>(delay));
  ::kill(launcher, SIGKILL);
  ::waitpid(launcher, nullptr, 0);
  EXPECT_EQ(drain(out.read.get()), "");
}

// Starts, reads all that it says, waits.
inline Outcome run(Spec spec) {
  Outcome outcome;
  int pipe[2];
  if (::pipe2(pipe, O_CLOEXEC) != 0) std::abort();
  spec.stdout_fd = spec.stderr_fd = pipe[1];
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (spec.stdin_fd == 0) spec.stdin_fd = null.get();  // the tests' own may be a terminal
  Result<Sandbox> sandbox = start(spec);
  ::close(pipe[1]);
  if (!sandbox) {
    outcome.error = sandbox.error();
  } else {
    outcome.started = true;
    outcome.output = drain(pipe[0]);
    Result<int> status = sandbox->wait();
    outcome.status = status ? *status : -1;
    outcome.sandbox = std::move(sandbox.value());
  }
  ::close(pipe[0]);
  return outcome;
}

inline Spec shell(const std::string& script) {
  Spec spec;
  spec.argv = {"/bin/sh", "-c", script};
  spec.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"};
  return spec;
}

inline std::string guests_folder() {
  if (const char* folder = std::getenv("RTLAUNCH_GUESTS")) return folder;
  std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  return self.parent_path().parent_path().parent_path() / "guests";
}

// The guest is bound to /tmp/guest.
inline Spec guest(const World& world, const std::string& name,
                  std::vector<std::string> arguments = {}) {
  Spec spec = shell("");
  std::string copy = world.dir + "/guest-" + name;
  std::filesystem::copy_file(guests_folder() + "/" + name, copy,
                             std::filesystem::copy_options::skip_existing);
  spec.binds.push_back({.source = copy, .target = "/tmp/guest"});
  spec.argv = {"/tmp/guest"};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  return spec;
}

// The control: the same guest without a sandbox, as root. Its exit code.
inline int unguarded(const std::string& name, const std::vector<std::string>& arguments = {}) {
  std::string command = guests_folder() + "/" + name;
  for (const std::string& argument : arguments) command += " " + argument;
  int status = std::system((command + " >/dev/null").c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

inline void become_plain_user() {
  if (::setgroups(0, nullptr) != 0 || ::setresgid(kPlainUser, kPlainUser, kPlainUser) != 0 ||
      ::setresuid(kPlainUser, kPlainUser, kPlainUser) != 0) {
    std::abort();
  }
  ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);  // as after an exec
}

inline std::string make_scratch(const std::string& pattern, bool root) {
  std::string path = pattern + "/rtlaunch-test-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return "";
  ::chmod(path.c_str(), 0755);
  if (!root && ::geteuid() == 0) (void)!::chown(path.c_str(), kPlainUser, kPlainUser);
  return path;
}

// Why the test that runs now was skipped; "" when it wasn't.
inline std::string skip_reason() {
  const testing::TestResult& result =
      *testing::UnitTest::GetInstance()->current_test_info()->result();
  for (int i = 0; i < result.total_part_count(); ++i) {
    if (result.GetTestPartResult(i).skipped()) return result.GetTestPartResult(i).message();
  }
  return "";
}

inline void run_fresh(bool root, void (*body)(World&)) {
  if (root && ::geteuid() != 0) GTEST_SKIP() << "needs root";
  std::string place = ::geteuid() == 0 ? "/opt" : std::filesystem::current_path().string();
  if (sys::is_beneath(place, "/tmp")) GTEST_SKIP() << "needs a directory outside of /tmp";
  World world{root, make_scratch("/tmp", root), make_scratch(place, root)};
  ASSERT_FALSE(world.dir.empty() || world.host.empty());
  pid_t pid = ::fork();
  if (pid == 0) {
    if (::geteuid() == 0 && (::unshare(CLONE_NEWNS) != 0 ||
                             ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)) {
      std::abort();
    }
    ::alarm(60);
    if (!root && ::geteuid() == 0) become_plain_user();
    try {
      body(world);
    } catch (
        const std::exception& thrown) {  // must not reach GoogleTest's own loop in this process
      ADD_FAILURE() << thrown.what();
    }
    std::ofstream(world.dir + "/skipped") << skip_reason();
    std::fflush(nullptr);
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  std::string skipped = World::read(world.dir + "/skipped");
  EXPECT_EQ(status, 0) << "the test's own process (its output is above)";
  EXPECT_TRUE(sys::remove_tree_at(AT_FDCWD, world.dir).ok());
  EXPECT_TRUE(sys::remove_tree_at(AT_FDCWD, world.host).ok());
  if (!skipped.empty()) GTEST_SKIP() << skipped;
}

}  // namespace rtlaunch::isolation

#define SANDBOX_TEST(name)                                      \
  static void name##_body(rtlaunch::isolation::World& world);   \
  TEST(Sandbox, name##_root) { run_fresh(true, name##_body); }  \
  TEST(Sandbox, name##_user) { run_fresh(false, name##_body); } \
  static void name##_body([[maybe_unused]] rtlaunch::isolation::World& world)

// For what only root can prepare.
#define ROOT_TEST(name)                                        \
  static void name##_body(rtlaunch::isolation::World& world);  \
  TEST(Sandbox, name##_root) { run_fresh(true, name##_body); } \
  static void name##_body([[maybe_unused]] rtlaunch::isolation::World& world)
