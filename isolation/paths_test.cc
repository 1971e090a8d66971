// Attacks by names: what a layer, a request or a command calls a path. Each has a control run in
// which the name leads where it must not.
#include <fstream>

#include "isolation/sandbox_testing.h"

namespace rtlaunch::isolation {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Runs `attempt` where it may mount, as its user may: the control runs' place.
template <typename F>
int unguarded_mounts(const World& world, F attempt) {
  pid_t pid = ::fork();
  if (pid == 0) {
    if (::unshare((world.root ? 0 : CLONE_NEWUSER) | CLONE_NEWNS) != 0) ::_exit(99);
    ::_exit(attempt());
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool mounts_over(const World& world, const std::string& target) {
  return ::mount(world.dir.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) == 0;
}

// Attacks: A12, A13
SANDBOX_TEST(RefusesPathsThatMeanSomethingElse) {
  for (const char* target : {"/", "//", "/.", "/proc", "/./proc", "/proc/self", "/dev", "tmp", "",
                             "/tmp/../proc", "/tmp/..", "/proc/", "/proc/."}) {
    Spec binds = shell("true"), hides = binds, shows = binds;
    binds.binds.push_back({.source = world.dir, .target = target});
    hides.hidden = {target};
    shows.visible = {target};
    for (const Spec& spec : {binds, hides, shows}) {
      Outcome outcome = run(spec);
      EXPECT_FALSE(outcome.started) << target;
      EXPECT_EQ(outcome.error.step, "sandbox") << target;
    }
  }
  Spec longer = shell("true");
  longer.binds.push_back({.source = world.dir, .target = "/tmp/" + std::string(5000, 'x')});
  EXPECT_FALSE(run(longer).started);
  Spec nul = shell("true");
  nul.binds.push_back({.source = world.dir, .target = std::string("/tmp/a\0b", 8)});
  EXPECT_FALSE(run(nul).started);
  if (!world.root) SKIP_BESIDE_A_THREAD();
  for (const char* target : {"/proc", "/./proc", "/tmp/../proc", "/proc/", "/proc/.", "//proc"}) {
    int covered = unguarded_mounts(world, [&] {
      return mounts_over(world, target) && ::access("/proc/self", F_OK) != 0 ? 0 : 1;
    });
    EXPECT_EQ(covered, 0) << "control: the kernel takes " << target << ", and /proc is gone";
  }
}

// What an image has in place of terminals is covered, not followed.
// Attacks: A6
SANDBOX_TEST(TerminalsOfAnImageAreCovered) {
  std::string canary = world.make(world.host + "/canary");
  world.write(canary + "/file", "alive\n");
  std::string image = world.make(world.dir + "/image");
  world.make(image + "/dev");
  for (const char* name : {"pts", "shm", "mqueue"}) {
    std::filesystem::create_symlink(canary, image + "/dev/" + name);
  }
  for (const char* name : {"console", "ptmx", "tty", "null", "stdin"}) {
    std::filesystem::create_symlink(canary + "/file", image + "/dev/" + name);
  }
  int pty = ::posix_openpt(O_RDWR | O_NOCTTY);
  ASSERT_TRUE(pty >= 0 && ::unlockpt(pty) == 0);
  int terminal = ::open(::ptsname(pty), O_RDWR | O_NOCTTY);
  ASSERT_GE(terminal, 0);
  Spec spec = guest(world, "terminal");
  spec.root = Root::kEmpty;
  spec.overlays.emplace_back();
  spec.overlays[0].target = "/", spec.overlays[0].lowers = {image};
  spec.stdin_fd = terminal;
  EXPECT_EQ(run(spec).output, "pty /dev/pts/0, stdin /dev/console\n");
  EXPECT_EQ(world.read(canary + "/file"), "alive\n");
  EXPECT_FALSE(std::filesystem::exists(canary + "/ptmx"));
  if (!world.root) SKIP_BESIDE_A_THREAD();
  int followed = unguarded_mounts(world, [&] {
    bool mounted = ::mount("devpts", (image + "/dev/pts").c_str(), "devpts", 0, "newinstance") == 0;
    return mounted && ::access((canary + "/ptmx").c_str(), F_OK) == 0 ? 0 : 1;
  });
  EXPECT_EQ(followed, 0) << "control: who mounts by path mounts where the link leads";
}

// A mount of the host's doesn't come in while a worker runs, and none gets out.
// Attacks: C8
SANDBOX_TEST(EveryMountIsSafeAndPrivate) {
  if (world.root) {
    ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_SHARED, nullptr), 0);
  }
  // A bound device has neither flag (it must work, and can't be executed). But for our own places
  // all is read-only.
  const std::string look =
      "while read id parent dev root point opts rest; do"
      " case $rest in *shared:*|*master:*) echo shared $point;; esac;"
      " case $point in /dev/pts|/dev/shm|/dev/mqueue) ;; /dev/?*) continue;; esac;"
      " case $opts in *nosuid*) ;; *) echo suid $point;; esac;"
      " case $point in /dev/pts|/dev/shm|/dev/mqueue|/proc/?*) continue;; esac;"
      " case $opts in *nodev*) ;; *) echo dev $point;; esac;"
      " case $point in /tmp|/var/tmp|/proc) continue;; esac;"
      " case $opts in ro,*) ;; *) echo rw $point;; esac;"
      "done </proc/self/mountinfo";
  EXPECT_EQ(run(shell(look)).output, "") << "mounts that are not as they should be";
  FILE* outside = ::popen(("(" + look + ")").c_str(), "r");
  std::string said = drain(::fileno(outside));
  ::pclose(outside);
  EXPECT_TRUE(contains(said, "suid /\n") && contains(said, "rw /\n")) << "control: the host's own";
}

// Attacks: C8
ROOT_TEST(AMountOfTheHostsDoesNotTravelIn) {
  std::string point = world.make(world.host + "/point");
  ASSERT_EQ(::mount(nullptr, "/", nullptr, MS_REC | MS_SHARED, nullptr), 0);
  Pipe told, go, other;
  Spec spec = shell("echo up; read line; ls " + point);
  spec.stdin_fd = go.read.get(), spec.stdout_fd = told.write.get();
  Result<Sandbox> sandbox = start(spec);
  ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
  told.write.reset();
  pid_t plain = ::fork();
  if (plain == 0) {
    char byte;
    bool apart = ::unshare(CLONE_NEWNS) == 0 && ::write(other.write.get(), "u", 1) == 1;
    ::_exit(apart && ::read(go.read.get(), &byte, 1) == 1 &&
                    ::access((point + "/travelled").c_str(), F_OK) == 0
                ? 0
                : 1);
  }
  char byte;
  ASSERT_EQ(::read(told.read.get(), &byte, 1), 1);
  ASSERT_EQ(::read(other.read.get(), &byte, 1), 1);
  ASSERT_EQ(::mount("none", point.c_str(), "tmpfs", 0, nullptr), 0);
  world.write(point + "/travelled", "");
  ASSERT_EQ(::write(go.write.get(), "\n\n\n\n", 4), 4);
  int status = -1;
  ::waitpid(plain, &status, 0);
  EXPECT_EQ(status, 0) << "control: in a namespace that is only another it is there";
  go.write.reset();
  EXPECT_EQ(drain(told.read.get()), "p\n");
  EXPECT_EQ(*sandbox->wait(), 0);
}

}  // namespace
}  // namespace rtlaunch::isolation
