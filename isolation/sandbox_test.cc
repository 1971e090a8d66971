// The life of a sandbox: how the command starts and ends, what it inherits, and that nothing is
// left.
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/inotify.h>

#include <fstream>

#include "isolation/sandbox_testing.h"
#include "isolation/sys/files.h"

namespace rtlaunch::isolation {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string read_line(int fd) {
  std::string line;
  char c;
  while (::read(fd, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

SANDBOX_TEST(GivesTheExitStatus) {
  Outcome seven = run(shell("exit 7"));
  ASSERT_TRUE(seven.started) << seven.error.message();
  EXPECT_EQ(seven.status, W_EXITCODE(7, 0));
  EXPECT_EQ(run(shell("true")).status, 0);
  EXPECT_EQ(run(shell("kill -TERM $$")).status, SIGTERM);
  EXPECT_EQ(run(shell("kill -KILL $$")).status, SIGKILL);
}

SANDBOX_TEST(SaysWhyACommandCantRun) {
  std::string dir = world.make(world.host + "/bin");
  world.write(dir + "/plain", "exit 9\n");
  world.write(dir + "/lost", "#!/no/such/interpreter\n");
  world.write(dir + "/script", "exit $1\n");
  ::chmod((dir + "/lost").c_str(), 0755);
  ::chmod((dir + "/script").c_str(), 0755);
  auto with = [&](std::vector<std::string> argv) {
    Spec spec = shell("");
    spec.env = {"PATH=/no/such/folder:" + dir + ":/usr/bin"};
    spec.argv = argv;
    return run(spec);
  };
  EXPECT_EQ(with({"no-such-command"}).error.exit_code, 127);
  EXPECT_EQ(with({dir + "/nothing"}).error.exit_code, 127);
  EXPECT_EQ(with({dir + "/lost"}).error.exit_code, 127);
  EXPECT_TRUE(contains(with({dir + "/lost"}).error.reason, "interpreter"));
  EXPECT_EQ(with({dir}).error.exit_code, 126);
  EXPECT_EQ(with({"script", "9"}).code(), 9);  // no #!: run by the shell, as execvp does
  EXPECT_EQ(with({"env", "true"}).code(), 0);
  EXPECT_EQ(with({"plain"}).error.exit_code, 126);  // found, but not executable
  EXPECT_EQ(with({"plain"}).error.code, EACCES);
  EXPECT_EQ(with({""}).error.exit_code, 127);
  EXPECT_EQ(with({}).error.exit_code, 127);
}

SANDBOX_TEST(NamesAMissingWorkingDirectory) {
  Spec spec = shell("true");
  spec.cwd = "/no/such/folder";
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.error.step, "chdir");
  EXPECT_EQ(outcome.error.code, ENOENT);
  EXPECT_EQ(outcome.error.object, "/no/such/folder");
  EXPECT_EQ(outcome.error.exit_code, 125);
}

SANDBOX_TEST(SendsSignalsToTheCommandAlone) {
  Pipe out;
  Spec spec = shell("trap 'echo got; exit 9' TERM; sleep 100 & echo ready; wait; echo lost");
  spec.stdout_fd = out.write.get();
  Result<Sandbox> sandbox = start(spec);
  ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
  out.write.reset();
  EXPECT_EQ(read_line(out.read.get()), "ready");
  EXPECT_TRUE(sandbox->send(SIGTERM).ok());
  EXPECT_EQ(read_line(out.read.get()), "got");
  Result<int> status = sandbox->wait();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(*status, W_EXITCODE(9, 0));
  EXPECT_TRUE(sandbox->send(SIGTERM).ok()) << "after the end it is no error";
  EXPECT_EQ(*sandbox->wait(), W_EXITCODE(9, 0)) << "asked again";
}

// The command alone, in a process group of its own whose orphans are ours: has it left one behind?
bool leaves_one_behind(const std::string& program) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  pid_t pid = ::fork();
  if (pid == 0) ::execl(program.c_str(), program.c_str(), nullptr);
  ::waitpid(pid, nullptr, 0);
  std::ifstream children("/proc/thread-self/children");
  pid_t orphan = 0;
  if (!(children >> orphan)) return false;
  bool lived = ::waitpid(orphan, nullptr, WNOHANG) == 0;
  ::kill(orphan, SIGKILL);
  ::waitpid(orphan, nullptr, 0);
  return lived;
}

// Attacks: F6
SANDBOX_TEST(LeavesNothingOfWhatTheCommandStarted) {
  Outcome outcome = run(guest(world, "outlive"));  // drain() ends only when all have ended
  EXPECT_EQ(outcome.code(), 0);
  EXPECT_TRUE(contains(outcome.output, "daemon"));
  EXPECT_TRUE(leaves_one_behind(guests_folder() + "/outlive")) << "control";
}

// Before pid 1 itself has ended.
SANDBOX_TEST(TellsTheEndWhenNothingIsLeft) {
  for (int round = 0; round < 20; ++round) {
    Pipe out;
    Spec spec = guest(world, "outlive");
    spec.stdout_fd = out.write.get();
    Result<Sandbox> sandbox = start(spec);
    ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
    out.write.reset();
    Result<int> status = sandbox->ended();
    ASSERT_TRUE(status.ok());
    EXPECT_EQ(*status, 0);
    ::fcntl(out.read.get(), F_SETFL, O_NONBLOCK);
    (void)drain(out.read.get());  // it may have been too quick for the daemon to say a word
    char byte;
    EXPECT_EQ(::read(out.read.get(), &byte, 1), 0) << "somebody has the pipe still";
    EXPECT_EQ(*sandbox->ended(), 0) << "asked again";
    EXPECT_EQ(*sandbox->wait(), 0);
  }
}

SANDBOX_TEST(TellsTheEndOfAPid1ThatWasKilled) {
  Result<Sandbox> sandbox = start(shell("exec sleep 600"));
  ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
  pid_t pid1 = 0;
  std::ifstream("/proc/thread-self/children") >> pid1;
  ASSERT_EQ(::kill(pid1, SIGKILL), 0);
  EXPECT_EQ(*sandbox->ended(), SIGKILL);
}

// IN_UNMOUNT comes when nobody has a file system any more, in whatever namespace.
bool is_given_up(int watch) {
  struct pollfd polled = {watch, POLLIN, 0};
  while (::poll(&polled, 1, 5000) > 0) {
    alignas(struct inotify_event) char buffer[4096];
    ssize_t size = ::read(watch, buffer, sizeof buffer);
    for (char* at = buffer; at < buffer + size;) {
      auto* event = reinterpret_cast<struct inotify_event*>(at);
      if (event->mask & IN_UNMOUNT) return true;
      at += sizeof *event + event->len;
    }
  }
  return false;
}

// Whoever ends, and however, the kernel takes all mounts down.
ROOT_TEST(NoMountOutlivesIt) {
  for (bool killed : {false, true, false}) {
    std::string fs = world.make(world.host + "/fs");
    ASSERT_EQ(::mount("fs", fs.c_str(), "tmpfs", 0, nullptr), 0);
    UniqueFd watch(::inotify_init1(IN_CLOEXEC));
    ASSERT_GE(::inotify_add_watch(watch.get(), fs.c_str(), IN_DELETE_SELF), 0);
    Spec spec = shell(killed ? "exec sleep 600" : "true");
    spec.writable = {fs};
    Result<Sandbox> sandbox = start(spec);
    ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
    pid_t pid1 = 0;
    std::ifstream("/proc/thread-self/children") >> pid1;
    if (killed) ::kill(pid1, SIGKILL);
    EXPECT_EQ(*sandbox->ended(), killed ? SIGKILL : 0);
    EXPECT_TRUE(sandbox->wait().ok());
    ASSERT_EQ(::umount2(fs.c_str(), MNT_DETACH), 0);
    EXPECT_TRUE(is_given_up(watch.get())) << killed;
  }
}

SANDBOX_TEST(EndsWithTheSandboxObject) {
  Pipe out;
  Spec spec = guest(world, "outlive", {"stay"});
  spec.stdout_fd = out.write.get();
  {
    Result<Sandbox> sandbox = start(spec);
    ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
    out.write.reset();
    EXPECT_EQ(read_line(out.read.get()), "daemon");
  }
  EXPECT_EQ(drain(out.read.get()), "");
}

SANDBOX_TEST(EndsWithTheLauncher) {
  Pipe out;
  pid_t launcher = ::fork();
  if (launcher == 0) {
    Spec spec = guest(world, "outlive", {"stay"});
    spec.stdout_fd = out.write.get();
    Result<Sandbox> sandbox = start(spec);
    out.write.reset();
    if (!sandbox) ::_exit(1);
    ::pause();
  }
  out.write.reset();
  EXPECT_EQ(read_line(out.read.get()), "daemon");
  ::kill(launcher, SIGKILL);
  ::waitpid(launcher, nullptr, 0);
  EXPECT_EQ(drain(out.read.get()), "") << "the end of file: every process is gone";
}

// Also in the middle of the launch.
SANDBOX_TEST(EndsWithTheLauncherWheneverItDies) {
  for (int delay = 0; delay < 3000; delay += 75) {
    ends_with_its_launcher(delay, [](Pipe& out) {
      Spec spec = shell("sleep 600");
      spec.stdout_fd = out.write.get();
      return start(spec);
    });
  }
}

SANDBOX_TEST(MovesAsAnOwner) {
  Pipe first, second;
  auto sleeper = [&](Pipe& pipe) {
    Spec spec = shell("echo up; sleep 600");
    spec.stdout_fd = pipe.write.get();
    Result<Sandbox> sandbox = start(spec);
    pipe.write.reset();
    return sandbox;
  };
  Result<Sandbox> a = sleeper(first);
  Result<Sandbox> b = sleeper(second);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(read_line(first.read.get()) + read_line(second.read.get()), "upup");
  *a = std::move(*b);  // the first ends here, the second lives on
  EXPECT_EQ(drain(first.read.get()), "");
  EXPECT_TRUE(a->send(SIGTERM).ok());
  EXPECT_EQ(*a->wait(), SIGTERM);
  EXPECT_EQ(drain(second.read.get()), "");
}

// Attacks: B4
SANDBOX_TEST(PassesOnlyStdio) {
  for (int i = 0; i < 200; ++i) ASSERT_GE(::dup(2), 0);  // not close-on-exec
  EXPECT_EQ(unguarded("descriptors"), 0) << "control";
  Outcome outcome = run(guest(world, "descriptors"));
  EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
}

SANDBOX_TEST(TakesStdioInAnyOrder) {
  Pipe in, out;
  ASSERT_EQ(::write(in.write.get(), "hello\n", 6), 6);
  in.write.reset();
  Spec spec = shell("read line; echo out $line; echo err >&2");
  ASSERT_EQ(::dup2(out.write.get(), 0), 0);  // our descriptor 0 is to be its 1 and 2
  out.write.reset();
  spec.stdin_fd = in.read.get();
  spec.stdout_fd = spec.stderr_fd = 0;
  Result<Sandbox> sandbox = start(spec);
  ::close(0);
  ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
  EXPECT_EQ(drain(out.read.get()), "out hello\nerr\n");
  EXPECT_EQ(*sandbox->wait(), 0);
}

SANDBOX_TEST(ClosedStdioIsNull) {
  Pipe out;
  Spec spec = shell("readlink /proc/self/fd/0");
  spec.stdout_fd = out.write.get();
  ::close(0);
  Result<Sandbox> sandbox = start(spec);
  out.write.reset();
  ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
  EXPECT_EQ(drain(out.read.get()), "/dev/null\n");
}

SANDBOX_TEST(HoldsLeasesAsLongAsItLives) {
  std::string path = world.write(world.dir + "/lease", "");
  UniqueFd held(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::flock(held.get(), LOCK_SH), 0);
  Pipe out;
  Spec spec = shell("echo up; sleep 600");
  spec.stdout_fd = out.write.get();
  spec.leases = {held.get()};
  Result<Sandbox> sandbox = start(spec);
  ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
  held.reset();
  UniqueFd other(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_NE(::flock(other.get(), LOCK_EX | LOCK_NB), 0) << "pid 1 has it";
  EXPECT_TRUE(sandbox->send(SIGKILL).ok());
  EXPECT_EQ(*sandbox->wait(), SIGKILL);
  EXPECT_EQ(::flock(other.get(), LOCK_EX | LOCK_NB), 0) << "it went with pid 1";
}

SANDBOX_TEST(ReapsOrphans) { EXPECT_EQ(run(guest(world, "orphan")).code(), 1); }

SANDBOX_TEST(CantBeKilledFromWithin) { EXPECT_EQ(run(guest(world, "kill_init")).code(), 1); }

// A process of the same user, by its number outside and by "everybody".
// Attacks: D7
SANDBOX_TEST(SignalsReachNobodyOutside) {
  pid_t victim = ::fork();
  if (victim == 0) {
    ::pause();
    ::_exit(0);
  }
  std::string number = std::to_string(victim);
  Spec spec = shell("kill -9 " + number + "; kill -9 -" + number + "; kill -9 -1; true");
  for (Root root : {Root::kHost, Root::kShared}) {
    spec.root = root;
    ASSERT_TRUE(run(spec).started);
    EXPECT_EQ(::waitpid(victim, nullptr, WNOHANG), 0) << "it lives";
  }
  EXPECT_EQ(std::system(("kill -9 " + number).c_str()), 0);
  int status = 0;
  ::waitpid(victim, &status, 0);
  EXPECT_EQ(status, SIGKILL) << "control: outside it is killed";
}

// The set of ignored signals as /proc/self/status has it, SIGHUP added: whoever started the tests
// may have ignored some more.
std::string ignored_with_hangup() {
  std::string status = *rtlaunch::sys::read_file("/proc/self/status");
  uint64_t set = std::stoull(status.substr(status.find("SigIgn:") + 7), nullptr, 16) | 1;
  char text[32];
  std::snprintf(text, sizeof text, "SigIgn:\t%016llx\n", static_cast<unsigned long long>(set));
  return text;
}

SANDBOX_TEST(InheritsIgnoredSignalsAndUmask) {
  ::signal(SIGHUP, SIG_IGN);
  ::signal(SIGTERM, [](int) {});
  ::umask(037);
  sigset_t blocked;
  ::sigfillset(&blocked);
  ::sigprocmask(SIG_SETMASK, &blocked, nullptr);
  Outcome outcome = run(shell("umask; cat /proc/self/status | grep -E 'Sig(Blk|Ign|Cgt)'"));
  EXPECT_EQ(outcome.output, "0037\nSigBlk:\t0000000000000000\n" + ignored_with_hangup() +
                                "SigCgt:\t0000000000000000\n");
}

SANDBOX_TEST(StaysInTheSessionUnlessAskedNot) {
  const std::string script = "cut -d' ' -f6 /proc/$$/stat";  // 0: a session outside of here
  EXPECT_EQ(run(shell(script)).output, "0\n");
  Spec apart = shell(script);
  apart.new_session = true;
  EXPECT_EQ(run(apart).output, "2\n");
}

SANDBOX_TEST(SetsTheHostname) {
  Spec spec = shell("uname -n");
  spec.hostname = "worker-1";
  EXPECT_EQ(run(spec).output, "worker-1\n");
  EXPECT_NE(run(shell("uname -n")).output, "worker-1\n");
}

SANDBOX_TEST(TimesItsSteps) {
  Outcome outcome = run(shell("true"));
  ASSERT_TRUE(outcome.started) << outcome.error.message();
  std::string names;
  for (const Sandbox::Step& step : outcome.sandbox->steps()) {
    names += step.name + ",";
    EXPECT_GE(step.microseconds, 0);
  }
  EXPECT_TRUE(contains(names, "overlays,")) << names;
  EXPECT_TRUE(contains(names, "privileges,")) << names;
}

}  // namespace
}  // namespace rtlaunch::isolation
