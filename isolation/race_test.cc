// A3: while launches run, somebody exchanges a directory on the way to a mount point with a link to
// another place (RENAME_EXCHANGE, without pause). Each launch mounts where it was told to, or
// fails.
#include <linux/fs.h>
#include <sys/syscall.h>

#include <chrono>

#include "isolation/sandbox_testing.h"

namespace rtlaunch::isolation {
namespace {

// As many as that time is enough for: emulated, a launch takes a quarter of a second.
constexpr int kLaunches = 1000;
constexpr std::chrono::seconds kLongEnough(100);

// A process that exchanges two names for as long as this lives.
class Flipper {
 public:
  Flipper(const std::string& a, const std::string& b) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::alarm(0);
    while (true) {
      ::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
    }
  }
  ~Flipper() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_;
};

struct Place {
  explicit Place(const World& world)
      : point(world.host + "/point"),
        link(world.host + "/link"),
        canary(world.make(world.host + "/canary/sub")),
        payload(world.make(world.host + "/payload")) {
    world.make(point + "/sub");
    world.write(payload + "/here", "");
    std::filesystem::create_symlink(world.host + "/canary", link);
  }
  std::string point, link, canary, payload;
};

// Attacks: A3; control: MountingByPathLosesTheRace
SANDBOX_TEST(ExchangedDirectoriesLeadNowhere) {
  Place place(world);
  Spec spec = shell("test -e " + place.canary + "/here && echo escaped; true");
  spec.writable = {world.host};
  spec.binds.push_back({.source = place.payload, .target = place.point + "/sub"});
  Flipper flipper(place.point, place.link);
  int mounted = 0, refused = 0;
  ::alarm(240);
  auto until = std::chrono::steady_clock::now() + kLongEnough;
  for (int i = 0; i < kLaunches && std::chrono::steady_clock::now() < until; ++i) {
    Outcome outcome = run(spec);
    outcome.started ? ++mounted : ++refused;
    ASSERT_EQ(outcome.output, "") << "it was led to the canary after " << i << " launches";
  }
  EXPECT_GT(mounted, 0);
  EXPECT_GE(mounted + refused, 100) << "too few to say anything";
  EXPECT_GT(refused, 0) << "the race never happened";
  EXPECT_FALSE(std::filesystem::exists(place.canary + "/here"));
}

// Control: who mounts by path is led to the canary soon.
ROOT_TEST(MountingByPathLosesTheRace) {
  Place place(world);
  Flipper flipper(place.point, place.link);
  for (int i = 0; i < 100000; ++i) {
    std::string target = place.point + "/sub";
    if (::mount(place.payload.c_str(), target.c_str(), nullptr, MS_BIND, nullptr) != 0) continue;
    bool escaped = std::filesystem::exists(place.canary + "/here");
    if (escaped) return;
    ::umount2(target.c_str(), MNT_DETACH);
    ::umount2((world.host + "/link/sub").c_str(), MNT_DETACH);
  }
  ADD_FAILURE() << "the attack doesn't work, so the test above proves nothing";
}

}  // namespace
}  // namespace rtlaunch::isolation
