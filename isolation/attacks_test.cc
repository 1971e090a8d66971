// More attacks, small ones, each with a control run in which it works without the defence.
#include <mqueue.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "isolation/cgroup.h"
#include "isolation/sandbox_testing.h"

namespace rtlaunch::isolation {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A way back to a host directory by a descriptor that the launcher happens to have.
// Attacks: B2
SANDBOX_TEST(DescriptorsOfTheLauncherAreNoWayOut) {
  std::string secret = world.write(world.host + "/secret/file", "secret\n");
  UniqueFd dir(::open((world.host + "/secret").c_str(), O_RDONLY | O_DIRECTORY));  // no CLOEXEC
  std::string way = "/proc/self/fd/" + std::to_string(dir.get());
  EXPECT_EQ(World::read(way + "/file"), "secret\n") << "control: here it leads there";
  Spec spec = shell("cat file");
  spec.hidden = {world.host + "/secret"};
  for (const std::string& cwd : {way, way + "/.", "/proc/1/fd/" + std::to_string(dir.get())}) {
    spec.cwd = cwd;
    Outcome outcome = run(spec);
    EXPECT_FALSE(contains(outcome.output, "secret")) << cwd;
    EXPECT_EQ(outcome.error.step, "chdir") << outcome.error.message();
  }
  spec.cwd = "/";
  spec.argv = {way + "/file"};
  EXPECT_EQ(run(spec).error.exit_code, 127);
}

// Attacks: D5
SANDBOX_TEST(SocketsInHiddenDirectoriesAreNotThere) {
  std::string path = world.make(world.host + "/run") + "/sock";
  struct sockaddr_un address = {AF_UNIX, ""};
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  Spec spec = shell("test -S " + path + " && echo there; true");
  EXPECT_EQ(run(spec).output, "there\n") << "control";
  spec.hidden = {world.host + "/run"};
  EXPECT_EQ(run(spec).output, "");
}

// Attacks: D8
SANDBOX_TEST(SharedMemoryAndQueuesAreItsOwn) {
  int segment = ::shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0666);
  ASSERT_GE(segment, 0);
  std::string name = "rtlaunch-test-" + sys::random_name();
  world.write("/dev/shm/" + name, "others'\n");
  ::mq_unlink(("/" + name).c_str());
  mqd_t queue = ::mq_open(("/" + name).c_str(), O_CREAT | O_RDWR, 0666, nullptr);
  Spec spec =
      shell("tail -n +2 /proc/sysvipc/shm | awk '$2 == " + std::to_string(segment) +
            "' | wc -l; ls /dev/shm/" + name + " /dev/mqueue 2>/dev/null | grep -c " + name);
  Spec control = spec;
  control.root = Root::kShared;
  EXPECT_TRUE(run(control).output.starts_with("1\n")) << "control: with the host's ipc";
  EXPECT_EQ(run(spec).output, "0\n0\n");
  if (queue >= 0) ::mq_unlink(("/" + name).c_str());
  ::unlink(("/dev/shm/" + name).c_str());
  ::shmctl(segment, IPC_RMID, nullptr);
}

// A FIFO where something is mounted from: nobody opens it.
// Attacks: C10
SANDBOX_TEST(ASourceThatBlocksHoldsUpNobody) {
  std::string fifo = world.dir + "/fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0666), 0);
  pid_t pid = ::fork();
  if (pid == 0) {
    ::alarm(1);
    ::_exit(::open(fifo.c_str(), O_RDONLY) >= 0 ? 0 : 1);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status)) << "control: to open it is to wait";
  Spec spec = shell("test -p /tmp/fifo && echo fifo");
  spec.binds.push_back({.source = fifo, .target = "/tmp/fifo"});
  EXPECT_EQ(run(spec).output, "fifo\n");
}

// Removing what a worker left behind meets links, mounts and odd names.
// Attacks: A10
ROOT_TEST(RemovalStaysInItsTree) {
  std::string canary = world.make(world.host + "/canary");
  world.write(canary + "/alive", "alive\n");
  std::string tree = world.make(world.dir + "/tree");
  std::filesystem::create_symlink(canary, tree + "/link");
  std::filesystem::create_symlink("../../.." + canary, tree + "/relative");
  for (const char* name : {"/...", "/..x", "/-rf", "/a\nb", "/ "}) world.make(tree + name);
  std::string point = world.make(tree + "/deep/mount");
  ASSERT_EQ(::mount(canary.c_str(), point.c_str(), nullptr, MS_BIND, nullptr), 0);
  Status removed = sys::remove_tree_at(AT_FDCWD, tree);
  EXPECT_EQ(removed.error().code, EXDEV);
  EXPECT_EQ(World::read(canary + "/alive"), "alive\n");
  ASSERT_EQ(::umount2(point.c_str(), MNT_DETACH), 0);
  EXPECT_TRUE(sys::remove_tree_at(AT_FDCWD, tree).ok());
  EXPECT_EQ(World::read(canary + "/alive"), "alive\n");
  // Control: a removal that follows a mount.
  world.make(point);
  ASSERT_EQ(::mount(canary.c_str(), point.c_str(), nullptr, MS_BIND, nullptr), 0);
  std::error_code ignored;
  std::filesystem::remove_all(tree, ignored);
  EXPECT_EQ(World::read(canary + "/alive"), "") << "control";
}

// -1 means "as before" to setresuid(2), and before it was root.
// Attacks: E2
ROOT_TEST(NobodyIsRootByANumberThatMeansNothing) {
  ASSERT_EQ(::setresuid(static_cast<uid_t>(-1), 0, 0), 0) << "control: the kernel takes it";
  for (uid_t uid : {static_cast<uid_t>(-1)}) {
    Spec spec = shell("id -u");
    spec.user = User{uid, 1000, {}};
    EXPECT_FALSE(run(spec).started);
    spec.user = User{1000, static_cast<gid_t>(uid), {}};
    EXPECT_FALSE(run(spec).started);
  }
  Spec spec = shell("id -u");
  spec.user = User{1000, 1000, {}};
  EXPECT_EQ(run(spec).output, "1000\n");
}

// Words go to the command as they are: no shell, no options.
// Attacks: E9
SANDBOX_TEST(WordsAreWords) {
  Spec spec;
  spec.argv = {"/usr/bin/printf", "%s\\n", "--", "-n", "$(id)", "a\nb", "; touch /tmp/x", "\xff"};
  spec.env = {"--=x", "A=--version", "B=$(id)\n`id`"};
  EXPECT_EQ(run(spec).output, "--\n-n\n$(id)\na\nb\n; touch /tmp/x\n\xff\n");
  EXPECT_EQ(run(shell("printf '%s\\n' $(echo a b)")).output, "a\nb\n") << "control: a shell's own";
}

// Names that mean something to tar, and to old overlays, mean nothing here. Only the device does.
// Attacks: C2
ROOT_TEST(NamesOfWhiteoutsHideNothing) {
  std::string base = world.make(world.dir + "/base"), layer = world.make(world.dir + "/layer");
  for (const char* name : {"a", "b", "d/c"}) world.write(base + "/" + name, "base\n");
  for (const char* name : {".wh.a", ".wh..wh..opq", "d/.wh..wh..opq", "d/.wh.c"}) {
    world.write(layer + "/" + name, "");
  }
  Spec spec = shell("cd /tmp/app; cat a b d/c");
  spec.overlays.emplace_back();
  spec.overlays[0].target = "/tmp/app", spec.overlays[0].lowers = {layer, base};
  for (bool mount2 : {false, true}) {
    spec.use_mount2 = mount2;
    EXPECT_EQ(run(spec).output, "base\nbase\nbase\n");
  }
  ASSERT_EQ(::mknod((layer + "/a").c_str(), S_IFCHR, 0), 0);
  EXPECT_TRUE(contains(run(spec).output, "a: No such file")) << "control: what does hide";
}

// Ways to what lies below without a copy of it being made first.
// Attacks: C6
ROOT_TEST(LayersAreNotChangedFromAbove) {
  std::string base = world.write(world.dir + "/base/file", "as it was\n");
  const std::string attack =
      "ln file link; printf x >> link; chattr +d file; chmod 777 file; touch -d @0 file; "
      "python3 -c 'import fcntl, os\nfd = os.open(\"file\", os.O_RDONLY)\n"
      "try: fcntl.ioctl(fd, 0x40086602, (0x40).to_bytes(8, \"little\"))\n"  // FS_IOC_SETFLAGS
      "except OSError: pass\n"
      "os.open(\"/proc/self/fd/%d\" % fd, os.O_RDWR)'; printf y >> file; true";
  struct stat before, after;
  ASSERT_EQ(::stat(base.c_str(), &before), 0);
  Spec spec = shell("cd /tmp/app; " + attack + "; cat file");
  spec.keep_caps = true;
  spec.overlays.emplace_back();
  spec.overlays[0].target = "/tmp/app", spec.overlays[0].lowers = {world.dir + "/base"};
  spec.overlays[0].writable = true;
  Outcome outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "as it was\nxy")) << outcome.output;
  ASSERT_EQ(::stat(base.c_str(), &after), 0);
  EXPECT_EQ(World::read(base), "as it was\n");
  EXPECT_EQ(before.st_mode, after.st_mode);
  EXPECT_EQ(before.st_nlink, after.st_nlink);
  EXPECT_EQ(before.st_mtime, after.st_mtime);
  std::string open = world.write(world.dir + "/open/file", "as it was\n");
  (void)!std::system(("cd " + world.dir + "/open; (" + attack + ") >/dev/null 2>&1").c_str());
  EXPECT_NE(World::read(open), "as it was\n") << "control: the same in the directory itself";
}

// A user whose number is at an edge is that user inside, and nobody more. The last number is none.
// Attacks: E4
ROOT_TEST(EdgesOfIdMapsLeadToNobodyElse) {
  std::string secret = world.write(world.host + "/roots", "secret\n");
  ASSERT_EQ(::chmod(secret.c_str(), 0600), 0);
  const std::string look = "id -u; cat " + secret +
                           "; python3 -c 'import os\n"
                           "for uid in 0, 1, 65534, 2**32 - 2:\n  try:\n    if uid != os.getuid(): "
                           "os.setuid(uid); print(\"became\", uid)\n"
                           "  except OSError: pass'; cat /proc/self/uid_map";
  EXPECT_TRUE(contains(run(shell(look)).output, "secret")) << "control: root may read it";
  for (uid_t uid : {uid_t{1}, uid_t{65534}, uid_t{65535}, uid_t{0x7fffffff}, uid_t{0xfffffffe}}) {
    pid_t pid = ::fork();
    if (pid == 0) {
      if (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
          ::setresuid(uid, uid, uid) != 0)
        ::_exit(2);
      ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
      Outcome outcome = run(shell(look));
      std::string want = std::to_string(uid) + "\n";
      bool good = outcome.started && outcome.output.starts_with(want) &&
                  !contains(outcome.output, "secret\n") && !contains(outcome.output, "became");
      // One line: the number itself, once.
      std::istringstream map(
          outcome.output.substr(outcome.output.rfind('\n', outcome.output.size() - 2) + 1));
      uint64_t inside = 0, outside = 0, count = 0;
      map >> inside >> outside >> count;
      good = good && inside == uid && outside == uid && count == 1;
      if (!good)
        std::fprintf(stderr, "%u: %s%s\n", uid, outcome.error.message().c_str(),
                     outcome.output.c_str());
      ::_exit(good ? 0 : 1);
    }
    int status = -1;
    ::waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0) << uid;
  }
}

// Who is limited himself gives nobody more: what he makes lies below him.
// Attacks: F4
ROOT_TEST(LeavesOfALimitedLauncherStayBelowIt) {
  std::string root = cgroup_hierarchy();
  std::string own = root + "/rtlaunch-limited-" + sys::random_name();
  if (root.empty() || ::mkdir(own.c_str(), 0755) != 0)
    GTEST_SKIP() << "no cgroup2 to be limited in";
  std::string before = own_cgroup(), name = own.substr(root.size());
  pid_t pid = ::fork();
  if (pid == 0) {
    std::ofstream(own + "/cgroup.procs") << ::getpid();
    auto cgroups = Cgroups::open("", "rtlaunch");
    Result<Leaf> leaf = cgroups ? cgroups->make() : Result<Leaf>(Error{"none", 0, "", "", "", 125});
    bool below = leaf.ok() && leaf->path.starts_with(name + "/");
    bool elsewhere = Cgroups::open(name + "/..", "").has_value();
    if (cgroups) cgroups->leave();
    ::_exit(own_cgroup() == name && below && !elsewhere ? 0 : 1);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(own_cgroup(), before) << "control: outside of it we are elsewhere";
  std::filesystem::path folder(own);
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.is_directory()) ::rmdir(entry.path().c_str());
  }
  ::rmdir(own.c_str());
}

// Attacks: F3
ROOT_TEST(CgroupsHaveNoNamesThatLeadUp) {
  std::string root = cgroup_hierarchy();
  if (root.empty()) GTEST_SKIP() << "no cgroup2 here";
  EXPECT_TRUE(::access((root + "/..").c_str(), F_OK) == 0) << "control: the path would lead there";
  for (const char* folder : {"/../rtlaunch-evil", "/x/../../rtlaunch-evil", "/.."}) {
    EXPECT_FALSE(Cgroups::open(folder, "").has_value()) << folder;
  }
  EXPECT_FALSE(std::filesystem::exists(root + "/../rtlaunch-evil"));
}

}  // namespace
}  // namespace rtlaunch::isolation
