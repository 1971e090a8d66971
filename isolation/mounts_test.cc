// What the command sees: its root, the overlays, private directories, and what it doesn't see.
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "isolation/sandbox_testing.h"
#include "isolation/sys/mount.h"
#include "isolation/userns.h"

namespace rtlaunch::isolation {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A host directory with `file`, and a layer that has `added` and another `file`.
struct Layered {
  explicit Layered(const World& world)
      : target(world.make(world.host + "/project")), layer(world.make(world.dir + "/layer")) {
    world.write(target + "/kept", "host\n");
    world.write(target + "/file", "host\n");
    world.write(layer + "/file", "layer\n");
    world.write(layer + "/added", "layer\n");
  }
  Overlay overlay() const {
    return {.target = target,
            .lowers = {layer},
            .over_host = true,
            .writable = true,
            .upper = "",
            .work = "",
            .report = true,
            .mkdirs = {}};
  }
  std::string target, layer;
};

// What was read ahead is of no use once the host has mounted something.
SANDBOX_TEST(TheMountTableFollowsTheNamespace) {
  if (!world.root) return;
  std::string prefix = world.make(world.host + "/prefix"), inner = world.make(prefix + "/a b");
  auto table = sys::MountTable::open();
  ASSERT_TRUE(table.ok());
  EXPECT_TRUE(table->below(prefix).empty());
  for (const std::string& point : {inner, prefix}) {
    ASSERT_EQ(::mount("t", point.c_str(), "tmpfs", 0, nullptr), 0);
  }
  ASSERT_EQ(::mkdir((prefix + "/b").c_str(), 0755), 0);
  ASSERT_EQ(::mount("t", (prefix + "/b").c_str(), "tmpfs", 0, nullptr), 0);
  EXPECT_TRUE(table->below(prefix).empty());
  ASSERT_TRUE(table->refresh().ok());
  EXPECT_EQ(table->below(prefix), (std::vector<std::string>{inner, prefix + "/b"}));
  ASSERT_EQ(::umount((prefix + "/b").c_str()), 0);
  ASSERT_TRUE(table->refresh().ok());
  EXPECT_EQ(table->below(prefix), std::vector<std::string>{inner});
}

SANDBOX_TEST(HostRootIsReadOnly) {
  Outcome outcome = run(shell("touch " + world.host + "/x || echo refused; ls -d " + world.host));
  EXPECT_TRUE(contains(outcome.output, "Read-only file system")) << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "refused\n" + world.host));
  EXPECT_FALSE(std::filesystem::exists(world.host + "/x"));
}

// Nothing is sealed or covered but what is asked for.
SANDBOX_TEST(SharedRootIsTheHosts) {
  Layered files(world);
  std::string hidden = world.make(world.dir + "/hidden");
  world.write(hidden + "/secret", "x\n");
  Spec spec = shell("echo a >" + world.dir + "/a; echo b >" + world.host + "/b; ls " + hidden +
                    "; cat " + files.target + "/added; echo c >" + files.target +
                    "/added;"
                    "readlink /proc/self/ns/ipc; ls /proc | grep -c '^[0-9]'");
  spec.root = Root::kShared;
  spec.overlays = {files.overlay()};
  spec.hidden = {hidden};
  Outcome outcome = run(spec);
  std::string ipc = std::filesystem::read_symlink("/proc/self/ns/ipc");
  EXPECT_TRUE(outcome.output.starts_with("layer\n" + ipc + "\n")) << outcome.output;
  EXPECT_LT(std::atoi(outcome.output.c_str() + 7 + ipc.size()), 6);
  EXPECT_EQ(world.read(world.dir + "/a") + world.read(world.host + "/b"), "a\nb\n");
  EXPECT_FALSE(std::filesystem::exists(files.target + "/added"));
  spec.root = Root::kHost;
  spec.hidden.clear();
  Outcome control = run(spec);
  EXPECT_FALSE(contains(control.output, ipc)) << control.output;
  EXPECT_TRUE(contains(control.output, "Read-only file system")) << control.output;
}

// In a container whose /proc is masked it must not be a way around that.
ROOT_TEST(SharedRootShowsNoMoreOfProcThanTheHostDoes) {
  Spec spec = shell(
      "grep -c ' /proc/keys ' /proc/self/mountinfo; test -w /proc/sys/kernel/domainname || echo "
      "ro");
  spec.root = Root::kShared;
  EXPECT_EQ(run(spec).output, "0\n");
  ASSERT_EQ(::mount("/proc/sys", "/proc/sys", nullptr, MS_BIND, nullptr), 0);
  EXPECT_EQ(run(spec).output, "1\nro\n");
}

SANDBOX_TEST(WritableDirectoriesWriteThrough) {
  std::string home = world.make(world.host + "/home");
  Spec spec = shell("echo mine >" + home + "/new; touch " + world.host + "/x");
  spec.writable = {home, world.host + "/not-there"};
  Outcome outcome = run(spec);
  EXPECT_EQ(world.read(home + "/new"), "mine\n");
  EXPECT_TRUE(contains(outcome.output, "Read-only"));
}

SANDBOX_TEST(TheWholeRootCanStayWritable) {
  Spec spec = shell("echo x >" + world.host + "/new; ls -A /tmp");
  spec.writable = {"/"};
  EXPECT_EQ(run(spec).output, "");
  EXPECT_EQ(world.read(world.host + "/new"), "x\n");
}

// In both ways of making an overlay. See also launcher/spawner_test.cc.
ROOT_TEST(AnotherUsersOverlays) {
  for (bool mount2 : {false, true}) {
    std::string host = world.make(world.host + "/shared" + (mount2 ? "2" : "1"));
    std::string store = world.make(world.dir + "/store" + (mount2 ? "2" : "1"));
    world.write(host + "/closed/key", "secret\n");
    world.write(host + "/open", "open\n");
    ::chmod((host + "/closed").c_str(), 0700);
    world.write(store + "/layer/closed/mine", "mine\n");
    world.write(store + "/owned/file", "file\n");
    Spec spec = shell("cat " + host + "/open " + host +
                      "/closed/key; cd /tmp/app; stat -c %u . file;"
                      " echo more >>file && mv file moved && cat moved");
    spec.use_mount2 = mount2;
    spec.user = spec.caller = User{kPlainUser, kPlainUser, {}};
    spec.store = store;
    Result<UniqueFd> map = make_id_map(kPlainUser, kPlainUser);
    ASSERT_TRUE(map.ok()) << map.error().message();
    spec.id_map = map->get();
    Overlay over{
        .target = host, .lowers = {store + "/layer"}, .upper = "", .work = "", .mkdirs = {}};
    over.over_host = over.writable = true;
    Overlay own{
        .target = "/tmp/app", .lowers = {store + "/owned"}, .upper = "", .work = "", .mkdirs = {}};
    own.writable = own.owned = true;
    spec.overlays = {over, own};
    Outcome outcome = run(spec);
    ASSERT_TRUE(outcome.started) << outcome.error.message();
    EXPECT_TRUE(contains(outcome.output, "open\n")) << outcome.output;
    EXPECT_TRUE(contains(outcome.output, "12345\n12345\nfile\nmore\n")) << outcome.output;
    EXPECT_FALSE(contains(outcome.output, "secret")) << outcome.output;
  }
}

// What a caller named was judged by its real path: a link that somebody puts into it since isn't
// followed.
// Attacks: J6
ROOT_TEST(WhatACallerBringsInIsWhatWasJudged) {
  world.write(world.host + "/secret/file", "secret\n");
  world.write(world.host + "/open/file", "open\n");
  std::filesystem::create_symlink(world.host + "/secret", world.host + "/link");
  auto seen = [&](const std::string& source, bool optional, bool caller) {
    Spec spec = shell("cat /tmp/it/file");
    spec.binds.push_back({.source = source, .target = "/tmp/it", .optional = optional});
    if (caller) spec.user = spec.caller = User{kPlainUser, kPlainUser, {}};
    Outcome outcome = run(spec);
    return outcome.started ? outcome.output : outcome.error.message();
  };
  EXPECT_EQ(seen(world.host + "/link", false, false), "secret\n") << "control: our own";
  EXPECT_EQ(seen(world.host + "/open", false, true), "open\n") << "control";
  EXPECT_FALSE(contains(seen(world.host + "/link", false, true), "secret\n"));
  EXPECT_FALSE(contains(seen(world.host + "/link", true, true), "secret\n"));
  std::string self = "/proc/self/root" + world.host + "/secret";
  EXPECT_EQ(seen(self, false, false), "secret\n") << "control: our own";
  EXPECT_FALSE(contains(seen(self, false, true), "secret\n"));
}

SANDBOX_TEST(TmpIsPrivate) {
  world.write(world.dir + "/secret", "secret\n");
  Outcome outcome =
      run(shell("ls -A /tmp /dev/shm; echo x >/tmp/leak && echo x >/dev/shm/leak &&"
                " echo x >/var/tmp/leak && stat -c %a /tmp"));
  EXPECT_EQ(outcome.output, "/dev/shm:\n\n/tmp:\n1777\n");
  EXPECT_FALSE(std::filesystem::exists("/tmp/leak"));
  EXPECT_FALSE(std::filesystem::exists("/var/tmp/leak"));
}

SANDBOX_TEST(VisibleDirectoriesComeBackReadOnly) {
  std::string dir = world.make(world.dir + "/deep/er");
  world.write(dir + "/file", "here\n");
  Spec spec = shell("cat " + dir + "/file; touch " + dir + "/x; ls " + world.dir);
  spec.visible = {dir};
  Outcome outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "here\n"));
  EXPECT_TRUE(contains(outcome.output, "Read-only"));
  EXPECT_TRUE(contains(outcome.output, "deep\n"));
}

SANDBOX_TEST(HiddenDirectoriesAreEmptyButForWhatIsVisible) {
  world.write(world.host + "/store/secret", "secret\n");
  world.write(world.host + "/store/shown/file", "shown\n");
  Spec spec = shell("cd " + world.host + "/store; ls -A; cat shown/file; touch x");
  spec.hidden = {world.host + "/store", world.host + "/not-there"};
  spec.visible = {world.host + "/store/shown"};
  spec.writable = {world.host};  // even in a directory that is writable
  Outcome outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "shown\nshown\n")) << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "Read-only"));
  EXPECT_FALSE(contains(outcome.output, "secret"));
}

SANDBOX_TEST(OverlayIsCopyOnWriteAndReported) {
  Layered files(world);
  for (bool mount2 : {false, true}) {
    Spec spec =
        shell("cat file added kept; echo changed >file; echo new >new; rm kept; cat file; ls");
    spec.cwd = files.target;
    spec.overlays = {files.overlay()};
    spec.use_mount2 = mount2;
    Outcome outcome = run(spec);
    ASSERT_TRUE(outcome.started) << outcome.error.message();
    EXPECT_EQ(outcome.output, "layer\nlayer\nhost\nchanged\nadded\nfile\nnew\n");
    EXPECT_EQ(world.read(files.target + "/file"), "host\n");
    EXPECT_EQ(world.read(files.target + "/kept"), "host\n");
    EXPECT_EQ(world.read(files.layer + "/file"), "layer\n");
    int upper = outcome.sandbox->upper_dir();
    ASSERT_GE(upper, 0);
    EXPECT_EQ(*sys::list_dir(upper), (std::vector<std::string>{"file", "kept", "new"}));
    EXPECT_EQ(*sys::read_file_at(upper, "new"), "new\n");
    struct stat whiteout;
    ASSERT_EQ(::fstatat(upper, "kept", &whiteout, 0), 0);
    EXPECT_TRUE(S_ISCHR(whiteout.st_mode) && whiteout.st_rdev == makedev(0, 0));
  }
}

SANDBOX_TEST(OverlayWithoutUpperIsReadOnly) {
  Layered files(world);
  for (bool mount2 : {false, true}) {
    for (bool over_host : {false, true}) {
      Spec spec = shell("cat added && ls | wc -l && ! touch x");
      spec.cwd = files.target;
      Overlay overlay = files.overlay();
      overlay.writable = overlay.report = false;
      overlay.over_host = over_host;  // without: one layer alone
      spec.overlays = {overlay};
      spec.use_mount2 = mount2;
      Outcome outcome = run(spec);
      EXPECT_EQ(outcome.code(), 0) << outcome.output << outcome.error.message();
      EXPECT_TRUE(contains(outcome.output, over_host ? "layer\n3\n" : "layer\n2\n"))
          << outcome.output;
      EXPECT_TRUE(contains(outcome.output, "Read-only"));
    }
  }
}

SANDBOX_TEST(OverlayBelowTmpAndWithinAnother) {
  // The working directory lies below /tmp, a virtualenv in it comes back as an overlay of its own.
  std::string target = world.make(world.dir + "/project");
  world.write(target + "/.venv/lib/base", "base\n");
  std::string files = world.make(world.dir + "/files"),
              packages = world.make(world.dir + "/packages");
  world.write(files + "/main.py", "main\n");
  world.write(packages + "/lib/pip", "pip\n");
  Spec spec = shell("cat main.py .venv/lib/base .venv/lib/pip; ls -A . .venv");
  spec.cwd = target;
  Overlay inner{.target = target + "/.venv",
                .lowers = {packages},
                .over_host = true,
                .writable = true,
                .upper = "",
                .work = "",
                .report = false,
                .mkdirs = {}};
  Overlay outer{.target = target,
                .lowers = {files},
                .over_host = false,
                .writable = true,
                .upper = "",
                .work = "",
                .report = true,
                .mkdirs = {".venv"}};
  spec.overlays = {inner, outer};
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.output, "main\nbase\npip\n.:\n.venv\nmain.py\n\n.venv:\nlib\n")
      << outcome.error.message();
  outer.writable = outer.report = false;  // mount points in a read-only stack
  spec.overlays = {inner, outer};
  EXPECT_EQ(run(spec).output, outcome.output);
}

ROOT_TEST(MountsBelowAnOverlayComeBack) {
  Layered files(world);
  std::string point = world.make(files.target + "/data");
  ASSERT_EQ(::mount("none", point.c_str(), "tmpfs", 0, nullptr), 0);
  world.write(point + "/big", "mounted\n");
  Spec spec = shell("cat added data/big; touch data/x; touch ok && ls ok");
  spec.cwd = files.target;
  spec.overlays = {files.overlay()};
  Outcome outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "layer\nmounted\n")) << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "'data/x': Read-only")) << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "\nok\n"));

  become_plain_user();  // the same without root: it works, or says why it can't
  Outcome rootless = run(spec);
  if (!rootless.started) {
    EXPECT_TRUE(contains(rootless.error.reason, "mounts below it")) << rootless.error.message();
    EXPECT_NE(rootless.error.cure, "");
  }
}

SANDBOX_TEST(ManyLayersAndStrangeNames) {
  std::string target = world.make(world.host + "/many");
  for (int count : {64, 400}) {
    for (bool mount2 : {false, true}) {
      Overlay overlay;
      overlay.target = target;
      for (int i = 0; i < count; ++i) {
        std::string name =
            world.dir + "/" + std::to_string(i) + ":a,b\\c" + std::string(i % 3 * 110, 'x');
        if (!std::filesystem::exists(name)) world.write(name + "/from" + std::to_string(i), "");
        overlay.lowers.push_back(name);
      }
      Spec spec = shell("ls " + target + " | wc -l");
      spec.overlays = {overlay};
      spec.use_mount2 = mount2;
      Outcome outcome = run(spec);
      EXPECT_EQ(outcome.output, std::to_string(count) + "\n") << outcome.error.message();
    }
  }
  Spec spec = shell("true");
  spec.overlays = {{.target = target,
                    .lowers = std::vector<std::string>(501, world.dir),
                    .upper = "",
                    .work = "",
                    .mkdirs = {}}};
  EXPECT_TRUE(contains(run(spec).error.reason, "at most 500"));
}

// Attacks: C9
SANDBOX_TEST(UpperHasALimit) {
  Layered files(world);
  Spec spec =
      shell("dd if=/dev/zero of=big bs=64k count=100; echo x >/tmp/still-works && echo works");
  spec.cwd = files.target;
  spec.overlays = {files.overlay()};
  spec.upper_bytes = 1 << 20;
  Outcome outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "No space left on device")) << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "works\n"));
  spec.upper_bytes = 64 << 20;
  EXPECT_FALSE(contains(run(spec).output, "No space left on device")) << "control: a larger one";
}

SANDBOX_TEST(CaptureGoesToTheGivenUpper) {
  Layered files(world);
  Spec spec = shell("echo built >lib; rm kept");
  spec.cwd = files.target;
  Overlay overlay = files.overlay();
  overlay.upper = world.make(world.dir + "/staging/upper");
  overlay.work = world.make(world.dir + "/staging/work");
  spec.overlays = {overlay};
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.code(), 0) << outcome.output << outcome.error.message();
  EXPECT_EQ(world.read(overlay.upper + "/lib"), "built\n");
  EXPECT_TRUE(std::filesystem::is_character_file(overlay.upper + "/kept"));
}

ROOT_TEST(UpperOnAnOverlaySaysSo) {
  Layered files(world);
  std::string merged = world.make(world.dir + "/merged");
  std::string options = "lowerdir=" + files.layer + ":" + files.target;
  for (const char* name : {"u", "w"}) world.make(files.layer + "/" + name);
  ASSERT_EQ(::mount("overlay", merged.c_str(), "overlay", 0, options.c_str()), 0);
  Spec spec = shell("true");
  Overlay overlay = files.overlay();
  overlay.upper = merged + "/u";
  overlay.work = merged + "/w";
  spec.overlays = {overlay};
  Outcome outcome = run(spec);
  EXPECT_FALSE(outcome.started);
  EXPECT_TRUE(contains(outcome.error.reason, "on an overlay")) << outcome.error.message();
  EXPECT_TRUE(contains(outcome.error.cure, "--store"));
}

SANDBOX_TEST(NoPathLeadsToUpperStoreOrWork) {
  Layered files(world);
  Spec spec = shell(
      "while read id parent dev root point opts rest; do"
      " case $rest in *tmpfs*) ls -A $point/o0 $point/u 2>/dev/null;; esac; done "
      "</proc/self/mountinfo;"
      " ls -A " +
      world.dir + " /proc/o0 /dev/o0 2>/dev/null; ls -d /proc/self && ls -A /proc/1/root/");
  spec.overlays = {files.overlay()};
  spec.hidden = {world.dir};
  Outcome outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "/proc/self\n"));
  EXPECT_FALSE(contains(outcome.output, "layer")) << outcome.output;
  EXPECT_FALSE(contains(outcome.output, "\nu\n")) << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "/proc/1/root/': Permission denied")) << outcome.output;
}

SANDBOX_TEST(MissingMountPointIsNamedAndNeverMade) {
  Layered files(world);
  Spec spec = shell("true");
  Overlay overlay = files.overlay();
  overlay.over_host = false;
  overlay.target = world.host + "/nowhere/else";
  spec.overlays = {overlay};
  spec.writable = {world.host};  // not even there
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.error.object, overlay.target);
  EXPECT_TRUE(contains(outcome.error.reason, "can't be made")) << outcome.error.message();
  EXPECT_FALSE(std::filesystem::exists(world.host + "/nowhere"));
}

SANDBOX_TEST(DevicesAreTheExpectedOnes) {
  Outcome outcome = run(
      shell("cd /dev; ls | tr '\\n' ' '; echo; head -c 3 zero | wc -c; echo x >null; cat null;"
            " head -c 3 urandom | wc -c; echo x >shm/x && cat shm/x; (echo y >full) 2>/dev/null || "
            "echo full;"
            " readlink fd ptmx; stat -c %t:%T null zero full random urandom tty | tr '\\n' ' '"));
  EXPECT_EQ(outcome.output,
            "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \n"
            "3\n3\nx\nfull\n/proc/self/fd\npts/ptmx\n1:3 1:5 1:7 1:8 1:9 5:0 ");
}

SANDBOX_TEST(TerminalsWorkAndHaveTheirNames) {
  int pty = ::posix_openpt(O_RDWR | O_NOCTTY);
  ASSERT_TRUE(pty >= 0 && ::unlockpt(pty) == 0);
  int terminal = ::open(::ptsname(pty), O_RDWR | O_NOCTTY);
  ASSERT_GE(terminal, 0);
  Spec spec = guest(world, "terminal");
  EXPECT_EQ(run(spec).output, "pty /dev/pts/0, stdin none\n");
  spec.stdin_fd = terminal;
  EXPECT_EQ(run(spec).output, "pty /dev/pts/0, stdin /dev/console\n");
}

SANDBOX_TEST(ProcIsItsOwnAndMasked) {
  Outcome outcome = run(
      shell("for p in /proc/[0-9]*; do [ ${p#/proc/} -lt 30 ] || echo of another; done;"
            " grep -c . /proc/1/status >/dev/null && readlink /proc/self >/dev/null && echo self;"
            " for f in kcore keys timer_list sched_debug sysrq-trigger kmsg latency_stats; do"
            "  if [ -e /proc/$f ]; then head -c 1 /proc/$f 2>/dev/null; (echo b >/proc/$f) "
            "2>/dev/null; fi; done;"
            " for d in acpi scsi; do [ -e /proc/$d ] && ls -A /proc/$d; done;"
            " for d in bus fs irq sys; do (echo x >/proc/$d/new) 2>/dev/null && echo made $d; done;"
            " (echo 1 >/proc/sys/vm/drop_caches) 2>/dev/null && echo wrote; echo 1000 "
            ">/proc/self/oom_score_adj"
            " && echo end"));
  EXPECT_EQ(outcome.output, "self\nend\n");
}

SANDBOX_TEST(AnEmptyRootHoldsOnlyWhatIsBound) {
  std::string staging = world.make(world.dir + "/staging");
  ::chmod(staging.c_str(), 0777);
  Spec spec = shell(
      "echo /*; id -u; touch /x; touch /usr/x; cat /etc/note; ls " + world.host +
      "; echo built >/staging/out; echo x >/tmp/x && echo tmp; ls /proc/1 >/dev/null && echo proc");
  world.write(world.dir + "/note", "note\n");
  spec.root = Root::kEmpty;
  for (const char* dir : {"/usr", "/bin", "/lib", "/lib64"}) {
    spec.binds.push_back({.source = dir, .target = dir, .writable = false, .optional = true});
  }
  spec.binds.push_back({.source = world.dir + "/note", .target = "/etc/note"});
  spec.binds.push_back({.source = staging, .target = "/staging", .writable = true});
  if (world.root) spec.user = User{54321, 54321, {}};
  spec.new_session = true;
  Outcome outcome = run(spec);
  ASSERT_TRUE(outcome.started) << outcome.error.message();
  EXPECT_TRUE(
      contains(outcome.output, "/bin /dev /etc /lib /lib64 /proc /staging /tmp /usr /var\n" +
                                   std::string(world.root ? "54321\n" : "12345\n")))
      << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "'/x': Read-only") ||
              contains(outcome.output, "'/x': Permission"));
  EXPECT_TRUE(contains(outcome.output, "'/usr/x': Read-only"));
  EXPECT_TRUE(contains(outcome.output, "note\n"));
  EXPECT_TRUE(contains(outcome.output, "'" + world.host + "': No such file"));
  EXPECT_TRUE(contains(outcome.output, "tmp\nproc\n"));
  EXPECT_EQ(world.read(staging + "/out"), "built\n");
}

}  // namespace
}  // namespace rtlaunch::isolation
