// Attacks: on the launch (what a layer ships), and from within. Each has a control in which it
// works without the defence, and is judged from outside: the canary is as it was.
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <fstream>

#include "isolation/sandbox_testing.h"

namespace rtlaunch::isolation {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A host directory that no launch may touch.
struct Canary {
  explicit Canary(const World& w) : world(w), dir(w.make(w.host + "/canary")) {
    w.write(dir + "/sub/file", "alive\n");
  }
  void expect_untouched() const {
    EXPECT_EQ(world.read(dir + "/sub/file"), "alive\n");
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
      names.push_back(entry.path().filename());
    }
    EXPECT_EQ(names, (std::vector<std::string>{"sub", "file"}));
  }
  const World& world;
  std::string dir;
};

// A layer on its own at /tmp/app, writable, and something to be mounted at `point` below it.
Spec with_point_in_layer(const World& world, const std::string& layer, const std::string& point) {
  Spec spec = shell("cat /tmp/app/" + point + "/payload && echo mounted");
  spec.overlays = {{.target = "/tmp/app",
                    .lowers = {layer},
                    .over_host = false,
                    .writable = true,
                    .upper = "",
                    .work = "",
                    .report = false,
                    .mkdirs = {}}};
  spec.binds.push_back(
      {.source = world.make(world.dir + "/payload"), .target = "/tmp/app/" + point});
  world.write(world.dir + "/payload/payload", "payload\n");
  return spec;
}

enum class Parent { kAbsolute, kRelative, kDangling, kFifo, kSocket, kFile };

void ship(const std::string& path, Parent kind, const std::string& canary) {
  struct sockaddr_un address = {AF_UNIX, ""};
  switch (kind) {
    case Parent::kAbsolute:
      return std::filesystem::create_symlink(canary, path);
    case Parent::kRelative:
      return std::filesystem::create_symlink("../../../../../../../../../../.." + canary, path);
    case Parent::kDangling:
      return std::filesystem::create_symlink(canary + "/to-be-made", path);
    case Parent::kFifo:
      EXPECT_EQ(::mkfifo(path.c_str(), 0666), 0);
      return;
    case Parent::kSocket: {
      UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      path.copy(address.sun_path, sizeof address.sun_path - 1);
      EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
      return;
    }
    case Parent::kFile:
      std::ofstream(path) << "file\n";
  }
}

// A1, A2: a layer ships the mount point, or its parent, as something else than a directory.
// Attacks: A1, A2; control: MountingByPathFollowsALink
SANDBOX_TEST(MountPointsOfALayerAreNotFollowed) {
  Canary canary(world);
  int number = 0;
  for (Parent kind : {Parent::kAbsolute, Parent::kRelative, Parent::kDangling, Parent::kFifo,
                      Parent::kSocket, Parent::kFile}) {
    for (const char* point : {"dev", "dev/sub", "dev/sub/deep"}) {
      std::string layer = world.make(world.dir + "/l" + std::to_string(number++));
      ship(layer + "/dev", kind, canary.dir);
      Outcome outcome = run(with_point_in_layer(world, layer, point));
      EXPECT_FALSE(outcome.started) << point << " " << static_cast<int>(kind);
      EXPECT_EQ(outcome.error.step, "mount point") << outcome.error.message();
      EXPECT_EQ(outcome.error.object, std::string("/tmp/app/") + point);
      canary.expect_untouched();
    }
  }
  // Control: where the layer has a directory, all else being equal, it is mounted.
  std::string honest = world.make(world.dir + "/honest");
  world.make(honest + "/dev/sub");
  EXPECT_EQ(run(with_point_in_layer(world, honest, "dev/sub")).output, "payload\nmounted\n");
}

// Control for the above: mount(8) by path does follow a layer's link.
ROOT_TEST(MountingByPathFollowsALink) {
  Canary canary(world);
  std::string layer = world.make(world.dir + "/layer");
  std::filesystem::create_symlink(canary.dir, layer + "/dev");
  std::string payload = world.write(world.dir + "/payload/payload", "payload\n");
  ASSERT_EQ(::mount((world.dir + "/payload").c_str(), (layer + "/dev/sub").c_str(), nullptr,
                    MS_BIND, nullptr),
            0);
  EXPECT_TRUE(std::filesystem::exists(canary.dir + "/sub/payload")) << "the attack works";
}

// An upper of an earlier run has a link where a mount point is to be made (A8).
// Attacks: A8; control: MountingByPathFollowsALink
SANDBOX_TEST(MountPointsInAnUpperAreNotFollowed) {
  Canary canary(world);
  std::string layer = world.make(world.dir + "/layer");
  Overlay overlay{.target = "/tmp/app",
                  .lowers = {layer},
                  .over_host = false,
                  .writable = true,
                  .upper = world.make(world.dir + "/s/u"),
                  .work = world.make(world.dir + "/s/w"),
                  .report = false,
                  .mkdirs = {"a/venv"}};
  std::filesystem::create_symlink(canary.dir, overlay.upper + "/a");
  Spec spec = shell("true");
  spec.overlays = {overlay};
  EXPECT_FALSE(run(spec).started);
  canary.expect_untouched();
}

// A4: a layer with a proc of its own; what the sandbox has at /proc is the kernel's.
// Attacks: A4
SANDBOX_TEST(AFakeProcIsCovered) {
  std::string layer = world.make(world.dir + "/layer");
  world.write(layer + "/proc/self/status", "fake\n");
  Spec spec = shell("cat /proc/self/status; stat -f -c %T /proc");
  spec.root = Root::kEmpty;
  for (const char* dir : {"/usr", "/bin", "/lib", "/lib64"}) {
    spec.binds.push_back({.source = dir, .target = dir, .writable = false, .optional = true});
  }
  spec.binds.push_back({.source = layer, .target = "/srv"});
  Outcome outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "NoNewPrivs:\t1"))
      << outcome.output << outcome.error.message();
  EXPECT_TRUE(contains(outcome.output, "\nproc\n"));
  spec.argv.back() = "cat /srv/proc/self/status";
  EXPECT_EQ(run(spec).output, "fake\n") << "control: beside /proc it is what the layer says";
  spec.binds.back().target = "/proc/sys";
  EXPECT_FALSE(run(spec).started);
}

// A5: the host's /dev/null is no device, so a mask made from it would show a file of someone's.
// Attacks: A5
ROOT_TEST(AReplacedNullStopsTheLaunch) {
  std::string fake = world.write(world.dir + "/fake", "");
  ASSERT_TRUE(run(shell("true")).started) << "control";
  ASSERT_EQ(::mount(fake.c_str(), "/dev/null", nullptr, MS_BIND, nullptr), 0);
  Outcome outcome = run(shell("true"));
  EXPECT_FALSE(outcome.started);
  EXPECT_EQ(outcome.error.step, "device");
  EXPECT_EQ(outcome.error.object, "/dev/null");
}

// What a layer's own attributes ask of overlayfs means nothing (C1).
// Attacks: C1
ROOT_TEST(RedirectsOfALayerAreNotFollowed) {
  std::string bottom = world.make(world.dir + "/bottom"), top = world.make(world.dir + "/top");
  world.write(bottom + "/private/key", "secret\n");
  ::chmod((bottom + "/private").c_str(), 0700);
  world.make(top + "/open");
  std::string redirect = "/private";
  for (const char* name : {"trusted.overlay.redirect", "user.overlay.redirect"}) {
    int result = ::setxattr((top + "/open").c_str(), name, redirect.data(), redirect.size(), 0);
    ASSERT_TRUE(result == 0 || errno == EOPNOTSUPP) << name;  // user.* on tmpfs: Linux 6.6
  }
  Spec spec = shell("ls /tmp/app/open; cat /tmp/app/open/key");
  spec.overlays = {
      {.target = "/tmp/app", .lowers = {top, bottom}, .upper = "", .work = "", .mkdirs = {}}};
  for (bool mount2 : {false, true}) {
    spec.use_mount2 = mount2;
    EXPECT_FALSE(contains(run(spec).output, "secret"));
  }
  std::string point = world.make(world.dir + "/point");
  std::string options = "redirect_dir=follow,lowerdir=" + top + ":" + bottom;
  ASSERT_EQ(::mount("overlay", point.c_str(), "overlay", 0, options.c_str()), 0);
  EXPECT_EQ(world.read(point + "/open/key"), "secret\n") << "control: the attack works";
}

SANDBOX_TEST(HasNoPrivileges) {
  Outcome outcome = run(shell("grep -E '^(Cap|NoNewPrivs)' /proc/self/status"));
  const std::string none = "0000000000000000\n";
  EXPECT_EQ(outcome.output, "CapInh:\t" + none + "CapPrm:\t" + none + "CapEff:\t" + none +
                                "CapBnd:\t" + none + "CapAmb:\t" + none + "NoNewPrivs:\t1\n");
}

// Attacks: E1
SANDBOX_TEST(RegainsNothing) {
  if (world.root) {
    EXPECT_EQ(unguarded("regain"), 0) << "control";
  }
  EXPECT_EQ(run(guest(world, "regain")).code(), 1);
}

ROOT_TEST(KeepsTheSmallSetWhenAsked) {
  Spec spec = shell(
      "grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2 | sort -u; "
      "chown 1:1 /tmp/guest && su -s /bin/sh nobody -c 'id -u'");
  spec.keep_caps = true;
  spec.argv[2] = "touch /tmp/guest; " + spec.argv[2];
  Outcome outcome = run(spec);
  // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot setfcap
  EXPECT_EQ(outcome.output.substr(0, 17), "00000000800405fb\n") << outcome.output;
  Spec device = guest(world, "make_device", {"/tmp"});
  device.keep_caps = true;
  EXPECT_EQ(run(device).code(), 1);
}

// Attacks: E3
ROOT_TEST(ABuildIsAnotherUserWithoutGroups) {
  Spec spec = shell("id -u; id -g; id -G; grep CapEff /proc/self/status; cat /etc/shadow");
  spec.user = User{54321, 54321, {}};
  spec.keep_caps = true;  // means nothing for another user
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.output.substr(0, outcome.output.find("cat")),
            "54321\n54321\n54321\nCapEff:\t0000000000000000\n");
  EXPECT_TRUE(contains(outcome.output, "Permission denied"));
  spec.user.reset();
  EXPECT_EQ(run(spec).code(), 0) << "control: root reads it";
}

// Attacks: C3, C4
ROOT_TEST(SetuidProgramsAreJustPrograms) {
  std::string layer = world.make(world.dir + "/layer");
  std::filesystem::copy_file(guests_folder() + "/effective_root", layer + "/program");
  ASSERT_EQ(::chmod((layer + "/program").c_str(), 04755), 0);
  Spec spec = shell("exec /tmp/app/program");
  spec.overlays = {
      {.target = "/tmp/app", .lowers = {layer}, .upper = "", .work = "", .mkdirs = {}}};
  spec.user = User{54321, 54321, {}};
  EXPECT_EQ(run(spec).code(), 1);
  pid_t pid = ::fork();  // control
  if (pid == 0) {
    become_plain_user();
    ::execl((layer + "/program").c_str(), "program", nullptr);
    ::_exit(9);
  }
  int status;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0) << "control: outside it is root";
}

// Attacks: C5
SANDBOX_TEST(CantMakeOrOpenDevices) {
  if (world.root) {
    EXPECT_EQ(unguarded("make_device", {world.host}), 0) << "control";
  }
  Outcome outcome = run(guest(world, "make_device", {"/tmp", "/dev/shm", "/var/tmp"}));
  EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
}

// A node that a layer brings along is there, but can't be opened.
// Attacks: C5
ROOT_TEST(DevicesOfALayerAreDead) {
  std::string layer = world.make(world.dir + "/layer");
  ASSERT_EQ(::mknod((layer + "/guest-device").c_str(), S_IFCHR | 0666, makedev(1, 5)), 0);
  EXPECT_EQ(unguarded("make_device", {layer}), 0) << "control";
  Spec spec = guest(world, "make_device", {"/tmp/app"});
  spec.overlays = {
      {.target = "/tmp/app", .lowers = {layer}, .upper = "", .work = "", .mkdirs = {}}};
  EXPECT_EQ(run(spec).code(), 1);
}

// Attacks: B3, D6
SANDBOX_TEST(CantLookIntoPid1) {
  if (world.root) {
    EXPECT_EQ(unguarded("inspect_init", {std::to_string(::getpid())}), 0) << "control";
  }
  Outcome outcome = run(guest(world, "inspect_init"));
  EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
}

// Attacks: C7
SANDBOX_TEST(CantUncoverWhatIsCovered) {
  Outcome outcome = run(guest(world, "unmount", {"/proc/sys", "/proc", "/dev", "/tmp", "/"}));
  EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
  if (world.root) {
    std::string covered = world.make(world.dir + "/covered");
    ASSERT_EQ(::mount("none", covered.c_str(), "tmpfs", 0, nullptr), 0);
    EXPECT_EQ(unguarded("unmount", {covered}), 0) << "control";
  }
}

}  // namespace
}  // namespace rtlaunch::isolation
