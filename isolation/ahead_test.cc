// A sandbox whose pid 1 was there before its Spec: it is the same as one that is made at once, and
// one that is never told anything leaves nothing.
#include "isolation/ahead.h"

#include <signal.h>
#include <sys/file.h>

#include <fstream>

#include "isolation/sandbox_testing.h"

namespace rtlaunch::isolation {
namespace {

// The children of this process that have not ended.
std::vector<pid_t> children() {
  std::vector<pid_t> all;
  std::ifstream list("/proc/thread-self/children");
  for (pid_t pid; list >> pid;) {
    std::string stat = World::read("/proc/" + std::to_string(pid) + "/stat");
    if (stat.find(") Z ") == std::string::npos) all.push_back(pid);
  }
  return all;
}

Result<Ahead> begin() {
  return Ahead::begin([] { return [](Spec*) { return Status(); }; });
}

void end(pid_t pid) {
  ::kill(pid, SIGKILL);
  for (int tries = 0; tries < 1000 && !children().empty(); ++tries) ::usleep(1000);
}

// What it says comes by a file, as its stdio has to be ours.
Outcome run_ahead(const World& world, Spec spec) {
  Outcome outcome;
  std::string said = world.write(world.host + "/said", "");
  ::chmod(said.c_str(), 0666);
  spec.writable.push_back(world.host);
  spec.argv = {"/bin/sh", "-c", "exec >" + said + " 2>&1\n" + spec.argv.back()};
  Result<Ahead> ahead = begin();
  EXPECT_TRUE(ahead.ok()) << ahead.error().message();
  EXPECT_TRUE(Ahead::fits(spec));
  Status told = ahead->tell(spec);
  EXPECT_TRUE(told.ok()) << told.error().message();
  Result<Sandbox> sandbox = ahead->finish();
  if (!sandbox) {
    outcome.error = sandbox.error();
    return outcome;
  }
  outcome.started = true;
  outcome.status = *sandbox->wait();
  outcome.output = World::read(said);
  outcome.sandbox = std::move(*sandbox);
  return outcome;
}

SANDBOX_TEST(IsTheSameAsOneMadeAtOnce) {
  std::string layer = world.make(world.dir + "/layer"), place = world.make(world.host + "/place");
  world.write(layer + "/file", "of the layer\n");
  Spec spec = shell(
      "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; ls -A /tmp /dev /dev/shm; "
      "cat " +
      place +
      "/file; echo $$; echo $NAME; ulimit -c; "
      "ls -A /sys/firmware /sys/kernel/debug /proc/acpi; cat /proc/kcore /proc/keys; "
      "touch /etc/rtlaunch-test; id -u; umask; exit 7");
  spec.env.push_back("NAME=value");
  spec.controls = Controls::of(FilterBase::kMl);
  spec.keep_caps = world.root;
  Overlay overlay;
  overlay.target = place;
  overlay.lowers = {layer};
  overlay.writable = true;
  spec.overlays.push_back(overlay);
  Outcome later = run_ahead(world, spec);
  ASSERT_TRUE(later.started) << later.error.message();
  spec.writable.push_back(world.host);
  spec.argv.back() = "exec 2>&1\n" + spec.argv.back();
  Outcome once = run(spec);
  EXPECT_EQ(later.code(), 7);
  EXPECT_EQ(later.output, once.output);
  EXPECT_NE(later.output.find("of the layer"), std::string::npos) << later.output;
  auto named = [](const Outcome& outcome) {
    std::string text;
    for (const Applied& one : outcome.sandbox->applied())
      text += std::string(control_name(one.control)) + (one.applied ? " yes " : " no ") + one.why;
    return text;
  };
  EXPECT_EQ(named(later), named(once));
}

SANDBOX_TEST(HoldsLeasesThatCameLater) {
  std::string path = world.write(world.dir + "/lease", "");
  Result<Ahead> ahead = begin();
  ASSERT_TRUE(ahead.ok());
  UniqueFd lease(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::flock(lease.get(), LOCK_SH), 0);
  Spec spec = shell("exec sleep 600");
  spec.leases = {lease.get()};
  ASSERT_TRUE(ahead->tell(spec).ok());
  Result<Sandbox> sandbox = ahead->finish();
  ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
  lease.reset();
  UniqueFd other(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_NE(::flock(other.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_TRUE(sandbox->send(SIGKILL).ok());
  EXPECT_EQ(*sandbox->wait(), SIGKILL);
  EXPECT_EQ(::flock(other.get(), LOCK_EX | LOCK_NB), 0);
}

SANDBOX_TEST(SaysWhatFailedLater) {
  Spec spec = shell("true");
  spec.cwd = "/no/such/folder";
  Result<Ahead> ahead = begin();
  ASSERT_TRUE(ahead.ok());
  ASSERT_TRUE(ahead->tell(spec).ok());
  Result<Sandbox> sandbox = ahead->finish();
  ASSERT_FALSE(sandbox.ok());
  EXPECT_EQ(sandbox.error().step, "chdir");
  EXPECT_EQ(sandbox.error().exit_code, 125);
  EXPECT_TRUE(children().empty());
}

SANDBOX_TEST(WhatIsPreparedBesideHoldsTheSpec) {
  auto prepare = [] {
    return [pid = ::getpid()](Spec* spec) -> Status {
      if (spec->hostname == "refused") return make_error("hold", "hostname", "no");
      spec->argv = {"/bin/sh", "-c", "exit " + std::to_string(40 + pid)};
      return {};
    };
  };
  for (const char* name : {"", "refused"}) {
    Result<Ahead> ahead = Ahead::begin(prepare);
    ASSERT_TRUE(ahead.ok());
    Spec spec = shell("exit 1");
    spec.hostname = name;
    ASSERT_TRUE(ahead->tell(spec).ok());
    Result<Sandbox> sandbox = ahead->finish();
    EXPECT_EQ(sandbox.ok(), spec.hostname.empty());
    if (sandbox) {
      EXPECT_EQ(*sandbox->wait(), W_EXITCODE(41, 0)) << "prepared in pid 1";
    } else {
      EXPECT_EQ(sandbox.error().step, "hold");
    }
  }
}

SANDBOX_TEST(UnusedItEndsWithTheObject) {
  {
    Result<Ahead> ahead = begin();
    ASSERT_TRUE(ahead.ok());
    EXPECT_EQ(children().size(), 1u);
  }
  EXPECT_TRUE(children().empty());
}

SANDBOX_TEST(UnusedItEndsWithTheLauncher) {
  for (int delay = 0; delay < 3000; delay += 150) {
    ends_with_its_launcher(delay, [](Pipe& out) {
      out.read.reset();
      return begin();
    });
  }
}

SANDBOX_TEST(WhatWasKilledHasNotHeard) {
  Result<Ahead> ahead = begin();
  ASSERT_TRUE(ahead.ok());
  ASSERT_EQ(children().size(), 1u);
  end(children().front());
  EXPECT_FALSE(ahead->tell(shell("true")).ok());
}

SANDBOX_TEST(WhatIsKnownToNoDocumentDoesNotFit) {
  EXPECT_TRUE(Ahead::fits(shell("true")));
  auto fits_with = [](auto change) {
    Spec spec = shell("true");
    change(spec);
    return Ahead::fits(spec);
  };
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.root = Root::kShared; }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.same_pid = true; }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.user = User{}; }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.caller = User{}; }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.stdout_fd = 2; }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.listener_to = 0; }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.network = Network::kEgress; }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.controls.pids = {Want::kPrefer, 9}; }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.leases.assign(300, 0); }));
  EXPECT_FALSE(fits_with([](Spec& spec) { spec.overlays.emplace_back().upper = "/upper"; }));
}

SANDBOX_TEST(WhatIsTooLongIsNotTold) {
  Result<Ahead> ahead = begin();
  ASSERT_TRUE(ahead.ok());
  EXPECT_FALSE(ahead->tell(shell(std::string(1 << 20, '#'))).ok());
}

}  // namespace
}  // namespace rtlaunch::isolation
