// The controls of a sandbox, each with a run without it in which the attack works; what a host
// lacks is told, or stops the launch when it was required.
#include "isolation/controls.h"

#include <linux/keyctl.h>
#include <netinet/in.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>

#include "isolation/cgroup.h"
#include "isolation/sandbox_testing.h"
#include "isolation/sys/landlock.h"

namespace rtlaunch::isolation {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// What the report says of one control; nothing when it isn't in it.
std::optional<Applied> found(const Outcome& outcome, Control control) {
  if (!outcome.sandbox) return std::nullopt;
  for (const Applied& one : outcome.sandbox->applied()) {
    if (one.control == control) return one;
  }
  return std::nullopt;
}

bool applied(const Outcome& outcome, Control control) {
  auto one = found(outcome, control);
  return one && one->applied;
}

Spec filtered(Spec spec, FilterBase base = FilterBase::kMl) {
  spec.controls.seccomp.want = Want::kRequire;
  spec.controls.seccomp.rules.base = base;
  return spec;
}

// --- system calls ---

std::vector<std::string> calls(std::vector<std::pair<long, const char*>> list) {
  std::vector<std::string> texts;
  for (const auto& [number, arguments] : list) texts.push_back(std::to_string(number) + arguments);
  return texts;
}

// No namespaces, by any of the ways.
// Attacks: E6
SANDBOX_TEST(MakesNoNamespaces) {
  std::vector<std::string> ways;
  for (const char* flag : {"0x20000", "0x2000000", "0x4000000", "0x8000000", "0x10000000",
                           "0x20000000", "0x40000000", "0x80"}) {
    ways.push_back(std::to_string(SYS_unshare) + "," + flag);
  }
  ways.push_back(std::to_string(SYS_clone) + ",0x10000011");
  ways.push_back(std::to_string(SYS_clone) + ",0x10020011");
  ways.push_back(std::to_string(SYS_clone3) + ",p,88");
  ways.push_back(std::to_string(SYS_setns) + ",0,0");
  for (FilterBase base : {FilterBase::kStrict, FilterBase::kMl, FilterBase::kRay}) {
    Outcome outcome = run(filtered(guest(world, "call", ways), base));
    EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
  }
  std::string own = std::to_string(SYS_unshare) + ",0x10000000";
  EXPECT_EQ(run(guest(world, "call", {own})).code(), 0) << "control: a user namespace of its own";
}

// What of the kernel is out of reach in the default profile.
// Attacks: D10, D11, G
SANDBOX_TEST(DoesNotReachTheKernelsOddCorners) {
  auto families = calls({{SYS_socket, ",38,5"},  // AF_ALG
                         {SYS_socket, ",40,1"},  // vsock
                         {SYS_socket, ",17,3"},  // packet
                         {SYS_socket, ",21,5"},  // RDS
                         {SYS_socket, ",30,5"},  // TIPC
                         {SYS_socketpair, ",30,5,0,p"},
                         {SYS_socket, ",16,3,9"},   // netlink audit (D10)
                         {SYS_socket, ",16,3,12"},  // netlink netfilter
                         {SYS_socket, ",0x100000026,5"}});
  auto rest = calls({{425, ",8,p"},  // io_uring_setup
                     {SYS_bpf, ",0,p,72"},
                     {SYS_perf_event_open, ",p,0,-1,-1,0"},
                     {SYS_keyctl, ",0,-3,0"},
                     {SYS_userfaultfd, ",1"},
                     {430, ",p,0"},       // fsopen
                     {428, ",-100,p,0"},  // open_tree
                     {SYS_open_by_handle_at, ",-100,p,0"},
                     {SYS_init_module, ",p,1,p"},
                     {SYS_kcmp, ",1,1,0"},
                     {SYS_mount, ",p,p,p"},
                     {SYS_personality, ",0x40000"}});
  for (const auto* list : {&families, &rest}) {
    Outcome outcome = run(filtered(guest(world, "call", *list)));
    EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
  }
  for (const char* call : {"16,3,9", "38,5"}) {
    Spec spec = guest(world, "call", {std::to_string(SYS_socket) + "," + call});
    if (run(spec).code() == 0) return;
  }
  ADD_FAILURE() << "control: none of the families exists without the filter";
}

// Attacks: E5
SANDBOX_TEST(ForeignArchitecturesAreKilled) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "there is one architecture only";
#endif
  for (const char* kind : {"i386", "x32"}) {
    EXPECT_EQ(run(guest(world, "foreign_call", {kind})).code(), 0) << "control: it lives on";
    Outcome outcome = run(filtered(guest(world, "foreign_call", {kind}), FilterBase::kRay));
    EXPECT_EQ(outcome.code(), 128 + SIGSYS) << kind << outcome.output << outcome.error.message();
  }
}

// The terminal that launcher and worker share.
// Attacks: D1, D3
SANDBOX_TEST(TypesNothingIntoItsTerminal) {
  int terminal, other;
  ASSERT_EQ(::openpty(&other, &terminal, nullptr, nullptr, nullptr), 0);
  if (world.root) {
    Spec control = guest(world, "type_ahead");
    control.stdin_fd = terminal;
    EXPECT_EQ(run(control).code(), 2) << "control: it gets as far as the terminal";
  }
  Spec spec = filtered(guest(world, "type_ahead"));
  spec.stdin_fd = terminal;
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
}

// --- keys, cores, clocks, processes ---

// What its launcher's session holds is not the worker's.
// Attacks: D9
SANDBOX_TEST(SeesNoKeysOfItsLauncher) {
  if (::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) < 0) {
    GTEST_SKIP() << "keyctl: " << std::strerror(errno);
  }
  ASSERT_GT(::syscall(SYS_add_key, "user", "canary", "alive", 5, KEY_SPEC_SESSION_KEYRING), 0);
  EXPECT_EQ(run(guest(world, "key")).code(), 0) << "control";
  Spec spec = guest(world, "key");
  spec.controls.keyring = Want::kRequire;
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
  EXPECT_TRUE(applied(outcome, Control::kKeyring));
}

// Attacks: E12
SANDBOX_TEST(LeavesNoCores) {
  struct rlimit limit = {1 << 20, 1 << 20};
  ASSERT_EQ(::setrlimit(RLIMIT_CORE, &limit), 0);
  EXPECT_EQ(run(shell("ulimit -Hc")).output, "2048\n") << "control";
  Spec spec = shell("ulimit -Hc; ulimit -Sn; ulimit -Hn");
  spec.controls.resources_want = Want::kRequire;
  spec.controls.resources = {{RLIMIT_CORE, 0, 0}, {RLIMIT_NOFILE, 100, ~uint64_t{0}}};
  struct rlimit files;
  ::getrlimit(RLIMIT_NOFILE, &files);
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.output, "0\n100\n" + std::to_string(files.rlim_max) + "\n") << "never raised";
  spec.controls.resources = {{99, 0, 0}};
  EXPECT_EQ(run(spec).error.object, "resources");
}

SANDBOX_TEST(ClocksBeginWithTheWorker) {
  Spec spec = shell("cut -d. -f1 /proc/uptime");
  int outside = std::atoi(run(spec).output.c_str());
  spec.controls.time_namespace = Want::kRequire;
  Outcome outcome = run(spec);
  ASSERT_TRUE(applied(outcome, Control::kTimeNamespace)) << outcome.error.message();
  EXPECT_LT(std::atoi(outcome.output.c_str()), 5);
  EXPECT_GE(outside, 5) << "control (this machine has just been started?)";
}

// A shell's programs are vfork'ed; so would be threads.
SANDBOX_TEST(WithClocksOfItsOwnItStillForks) {
  Spec spec = shell("true | true; /bin/echo still");
  spec.controls.time_namespace = Want::kRequire;
  EXPECT_EQ(run(spec).output, "still\n");
}

// --- a user namespace ---

std::string user_namespace_of_ours() {
  return std::filesystem::read_symlink("/proc/self/ns/user").string() + "\n";
}

Spec in_its_own(Spec spec) {
  spec.controls.user_namespace = Want::kRequire;
  spec.keep_caps = true;  // means nothing in there
  return spec;
}

SANDBOX_TEST(HasAUserNamespaceOfItsOwn) {
  Spec spec = shell("readlink /proc/self/ns/user");
  if (world.root) {
    EXPECT_EQ(run(spec).output, user_namespace_of_ours()) << "control";
  }
  Outcome outcome = run(in_its_own(spec));
  EXPECT_TRUE(contains(outcome.output, "user:[")) << outcome.output << outcome.error.message();
  EXPECT_NE(outcome.output, user_namespace_of_ours());
  EXPECT_TRUE(applied(outcome, Control::kUserNamespace));
}

// Its owner has all capabilities in it: who runs in it has none, and can't have them back.
// Attacks: E1
SANDBOX_TEST(RegainsNothingInAUserNamespaceOfItsOwn) {
  if (world.root) {
    EXPECT_EQ(unguarded("regain"), 0) << "control";
  }
  EXPECT_EQ(run(in_its_own(guest(world, "regain"))).code(), 1);
  Outcome outcome = run(in_its_own(
      shell("grep Cap /proc/self/status | cut -f2 | sort -u; touch /tmp/it && chown 1:1 /tmp/it; "
            "echo 0 0 1 > /proc/self/uid_map; hostname it; mount -t tmpfs none /tmp")));
  EXPECT_EQ(outcome.output.substr(0, 17), "0000000000000000\n") << outcome.output;
  for (const char* word : {"chown: changing", "I/O error", "hostname: ", "mount: /tmp: "})
    EXPECT_TRUE(contains(outcome.output, word)) << outcome.output;
}

ROOT_TEST(WhatItKeepsIsKeptWithoutAUserNamespaceOfItsOwn) {
  Spec spec = shell("touch /tmp/it && chown 1:1 /tmp/it && cat /etc/shadow >/dev/null && id -u");
  spec.keep_caps = true;
  EXPECT_EQ(run(spec).output, "0\n") << "control of the test above";
}

// Attacks: E6
SANDBOX_TEST(MakesNoNamespacesInAUserNamespaceOfItsOwn) {
  std::string own = std::to_string(SYS_unshare) + ",0x10000000";
  Spec spec = in_its_own(guest(world, "call", {own, std::to_string(SYS_setns) + ",0,0"}));
  EXPECT_EQ(run(filtered(spec, FilterBase::kMl)).code(), 1);
  EXPECT_EQ(run(in_its_own(guest(world, "call", {own}))).code(), 0) << "control";
}

ROOT_TEST(InAUserNamespaceOfItsOwnItIsWhoItShallBe) {
  Spec spec = in_its_own(shell("id -u; id -g; id -G; cd " + world.host + "; echo its > made"));
  std::filesystem::permissions(world.host, std::filesystem::perms::all);
  spec.writable = {world.host};
  spec.user = User{kPlainUser, kPlainUser + 1, {kPlainUser + 2, 4000000000u}};
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.output, "12345\n12346\n12346 12347 4000000000\n") << outcome.error.message();
  struct stat made = {};
  ::stat((world.host + "/made").c_str(), &made);
  EXPECT_EQ(made.st_uid, kPlainUser);
  EXPECT_EQ(made.st_gid, kPlainUser + 1);
  spec.user->groups.clear();
  for (gid_t group = 0; group < 2000; ++group) spec.user->groups.push_back(2 * group + 100000);
  EXPECT_EQ(run(spec).error.object, "user_namespace") << "more than the kernel takes";
}

SANDBOX_TEST(HidesProcessesThatCantBeTraced) {
  Spec spec = shell("ls -d /proc/1 /proc/self/status");
  EXPECT_EQ(run(spec).output, "/proc/1\n/proc/self/status\n") << "control";
  spec.controls.hide_pid = Want::kRequire;
  if (world.root) spec.user = User{kPlainUser, kPlainUser, {}};
  Outcome outcome = run(spec);
  EXPECT_FALSE(contains(outcome.output, "/proc/1\n")) << outcome.output << outcome.error.message();
  EXPECT_TRUE(contains(outcome.output, "/proc/self/status\n"));
  EXPECT_TRUE(applied(outcome, Control::kHidePid));
}

SANDBOX_TEST(ShowsNothingOfTheMachinesInnerLife) {
  Spec spec = shell(
      "ls /sys/kernel/debug /sys/firmware /sys/kernel/security 2>/dev/null | wc -w; "
      "ls /sys/devices/system/cpu | grep -c cpu0");
  spec.controls.sys_masks = Want::kRequire;
  Outcome outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "\n1\n")) << outcome.output << outcome.error.message();
  EXPECT_TRUE(applied(outcome, Control::kSysMasks));
  std::string mounts = "grep -c ' /sys/firmware ' /proc/self/mountinfo";
  if (::access("/sys/firmware", F_OK) != 0) return;
  Spec masked = shell(mounts);
  masked.controls.sys_masks = Want::kRequire;
  EXPECT_EQ(run(masked).output, "1\n");
  EXPECT_EQ(run(shell(mounts)).output, "0\n") << "control";
}

// --- devices ---

// Only by grant, only what is a device, no link on the way.
// Attacks: I
ROOT_TEST(DevicesComeByGrant) {
  ASSERT_EQ(::mount("none", "/dev", "tmpfs", 0, "mode=755"), 0);
  for (auto [name, minor] : {std::pair("null", 3),
                             {"zero", 5},
                             {"full", 7},
                             {"random", 8},
                             {"urandom", 9},
                             {"mem", 1}}) {
    ASSERT_EQ(::mknod((std::string("/dev/") + name).c_str(), S_IFCHR | 0666,
                      makedev(1, static_cast<unsigned>(minor))),
              0);
  }
  world.make("/dev/gpu");
  ASSERT_EQ(::mknod("/dev/gpu/0", S_IFCHR | 0666, makedev(5, 2)), 0);  // pretends
  std::filesystem::create_symlink("/dev/gpu/0", "/dev/link");
  world.write("/dev/file", "");
  Spec spec = shell("ls /dev/gpu; test -c /dev/gpu/0 && echo device");
  EXPECT_FALSE(contains(run(spec).output, "device")) << "control: not without a grant";
  spec.controls.devices = {Want::kRequire, {"/dev/gpu/0"}};
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.output, "0\ndevice\n") << outcome.error.message();
  EXPECT_TRUE(applied(outcome, Control::kDevices));
  for (const char* other : {"/dev/link", "/dev/file", "/dev/mem", "/dev/gone", "/dev/../dev/null",
                            "/etc/passwd", "gpu/0", "/dev/", ""}) {
    spec.controls.devices.paths = {other};
    outcome = run(spec);
    EXPECT_FALSE(outcome.started) << other;
    EXPECT_EQ(outcome.error.object, "devices") << other;
  }
  spec.controls.devices = {Want::kPrefer, {"/dev/gone", "/dev/gpu/0"}};
  EXPECT_TRUE(applied(run(spec), Control::kDevices)) << "what isn't there is passed over";
  spec.root = Root::kShared;
  EXPECT_FALSE(applied(run(spec), Control::kDevices)) << "the host's /dev";
}

// --- Landlock ---

std::string lacks_landlock(int abi) {
  int have = sys::landlock_abi();
  if (have >= abi) return "";
  return "this kernel has Landlock " + std::to_string(have) + ", not " + std::to_string(abi);
}

SANDBOX_TEST(FilesOutsideOfTheRulesAreClosed) {
  std::string open = world.write(world.host + "/open/file", "open\n");
  std::string closed = world.write(world.host + "/closed/file", "closed\n");
  Spec spec = shell("cat " + open + " " + closed + "; echo x > /tmp/new && cat /tmp/new");
  EXPECT_EQ(run(spec).output, "open\nclosed\nx\n") << "control";
  spec.controls.files = {Want::kRequire,
                         {"/usr", "/lib", "/lib64", "/bin", "/etc", world.host + "/open", "/gone"},
                         {"/tmp", "/dev", "/proc"}};
  Outcome outcome = run(spec);
  if (std::string lacking = lacks_landlock(1); !lacking.empty()) {
    EXPECT_EQ(outcome.error.object, "landlock_files");
    GTEST_SKIP() << lacking;
  }
  EXPECT_TRUE(contains(outcome.output, "open\n")) << outcome.error.message();
  EXPECT_FALSE(contains(outcome.output, "closed\n")) << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "Permission denied")) << outcome.output;
  EXPECT_TRUE(contains(outcome.output, "x\n")) << outcome.output;
  EXPECT_TRUE(applied(outcome, Control::kLandlockFiles));
}

std::string connect_to(int port) {
  return "exec 3<>/dev/tcp/127.0.0.1/" + std::to_string(port) + " && echo connected";
}

SANDBOX_TEST(PortsOutsideOfTheRulesAreClosed) {
  UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  uint32_t port = ntohs(address.sin_port);
  Spec spec = shell("");
  spec.argv = {"/bin/bash", "-c", connect_to(static_cast<int>(port))};
  EXPECT_EQ(run(spec).output, "connected\n") << "control";
  spec.controls.ports = {Want::kRequire, {port}, {}};
  Outcome outcome = run(spec);
  if (std::string lacking = lacks_landlock(4); !lacking.empty()) {
    EXPECT_EQ(outcome.error.object, "landlock_ports");
    GTEST_SKIP() << lacking;
  }
  EXPECT_EQ(outcome.output, "connected\n") << outcome.error.message();
  spec.controls.ports.connect = {port == 443 ? 80u : 443u};
  outcome = run(spec);
  EXPECT_TRUE(contains(outcome.output, "Permission denied")) << outcome.output;
  EXPECT_TRUE(applied(outcome, Control::kLandlockPorts));
}

// Attacks: D4
SANDBOX_TEST(AbstractSocketsOfOthersAreOutOfReach) {
  std::string name = "rtlaunch-test-" + sys::random_name();
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_un address = {AF_UNIX, ""};
  name.copy(address.sun_path + 1, name.size());
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  Spec spec = guest(world, "abstract", {name});
  EXPECT_EQ(run(spec).code(), 0) << "control";
  spec.controls.scopes = Want::kRequire;
  Outcome outcome = run(spec);
  if (std::string lacking = lacks_landlock(6); !lacking.empty()) {
    EXPECT_EQ(outcome.error.object, "landlock_scopes");
    spec.controls.scopes = Want::kPrefer;
    EXPECT_NE(found(run(spec), Control::kLandlockScopes)->why, "");
    GTEST_SKIP() << lacking;
  }
  EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
  EXPECT_TRUE(applied(outcome, Control::kLandlockScopes));
}

// --- cgroups ---

std::string lacks_controllers() {
  std::string root = cgroup_hierarchy();
  std::string offered = World::read(root + "/cgroup.controllers");
  for (const char* name : {"memory", "pids", "cpu"}) {
    if (!contains(offered, name)) return std::string("no ") + name + " controller in cgroup2";
  }
  return "";
}

// What this host can't limit: told, or no start.
SANDBOX_TEST(LimitsThatCantBeHadAreTold) {
  if (world.root && lacks_controllers().empty()) GTEST_SKIP() << "this host has them all";
  Spec spec = shell("true");
  spec.controls.memory_bytes = {Want::kPrefer, 512 << 20};
  Outcome outcome = run(spec);
  ASSERT_TRUE(outcome.started) << outcome.error.message();
  auto report = found(outcome, Control::kMemory);
  ASSERT_TRUE(report && !report->applied);
  EXPECT_NE(report->why, "");
  spec.controls.memory_bytes.want = Want::kRequire;
  outcome = run(spec);
  EXPECT_FALSE(outcome.started);
  EXPECT_EQ(outcome.error.step, "control");
  EXPECT_EQ(outcome.error.object, "memory");
  EXPECT_EQ(outcome.error.exit_code, 125);
}

// The sandbox dies, and says of what.
// Attacks: F5
ROOT_TEST(AMemoryBombIsTold) {
  if (std::string lacking = lacks_controllers(); !lacking.empty()) GTEST_SKIP() << lacking;
  Spec spec = guest(world, "bomb", {"memory"});
  EXPECT_EQ(run(spec).code(), 0) << "control";
  spec.controls.memory_bytes = {Want::kRequire, 128 << 20};
  spec.controls.swap_bytes = {Want::kPrefer, 0};
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.code(), 128 + SIGKILL) << outcome.output << outcome.error.message();
  EXPECT_EQ(outcome.sandbox->met(), "out of memory (limit 128M)");
  EXPECT_TRUE(applied(outcome, Control::kMemory));
}

// Attacks: F5
ROOT_TEST(AForkBombIsTold) {
  if (std::string lacking = lacks_controllers(); !lacking.empty()) GTEST_SKIP() << lacking;
  for (const char* kind : {"processes", "threads"}) {
    Spec spec = guest(world, "bomb", {kind});
    EXPECT_EQ(run(spec).code(), 0) << "control";
    spec.controls.pids = {Want::kRequire, 50};
    Outcome outcome = run(spec);
    EXPECT_EQ(outcome.code(), 1) << outcome.output << outcome.error.message();
    EXPECT_EQ(outcome.sandbox->met(), "no more processes (limit 50)");
  }
}

ROOT_TEST(SharesAreSet) {
  if (std::string lacking = lacks_controllers(); !lacking.empty()) GTEST_SKIP() << lacking;
  Spec spec =
      shell("d=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); cat $d/cpu.max $d/cpu.weight");
  spec.controls.cpu_millis = {Want::kRequire, 500};
  spec.controls.cpu_weight = {Want::kRequire, 42};
  Outcome outcome = run(spec);
  EXPECT_EQ(outcome.output, "50000 100000\n42\n") << outcome.error.message();
}

// --- the report, and the defaults ---

SANDBOX_TEST(TellsWhatWasApplied) {
  Spec spec = shell("true");
  spec.controls = Controls::of(FilterBase::kMl);
  Outcome outcome = run(spec);
  ASSERT_TRUE(outcome.started) << outcome.error.message();
  for (Control control : {Control::kCapabilities, Control::kNoNewPrivs, Control::kSeccomp,
                          Control::kResources, Control::kSysMasks}) {
    EXPECT_TRUE(applied(outcome, control)) << control_name(control);
  }
  ASSERT_TRUE(found(outcome, Control::kLandlockScopes));
  EXPECT_FALSE(found(outcome, Control::kMemory)) << "nobody wanted it";
}

// Not a test: what the controls of profile ml add to a command, for tools/bench. COST_COMMAND: its
// words; COST_ROUNDS: how often, with and without in turn. Prints both medians in microseconds, of
// the time it took and of the CPU's, which a busy machine changes less.
struct Cost {
  int64_t time, cpu;
};

int64_t cpu_of_children() {
  struct rusage used = {};
  ::getrusage(RUSAGE_CHILDREN, &used);
  return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * int64_t{1000000} + used.ru_utime.tv_usec +
         used.ru_stime.tv_usec;
}

Cost cost_of(const Spec& spec) {
  int64_t cpu = cpu_of_children();
  auto began = std::chrono::steady_clock::now();
  Result<Sandbox> sandbox = start(spec);
  if (!sandbox || sandbox->wait().value() != 0) std::abort();
  auto took = std::chrono::steady_clock::now() - began;
  return {std::chrono::duration_cast<std::chrono::microseconds>(took).count(),
          cpu_of_children() - cpu};
}

int64_t median(const std::vector<Cost>& costs, int64_t Cost::*which) {
  std::vector<int64_t> values;
  for (const Cost& cost : costs) values.push_back(cost.*which);
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

ROOT_TEST(DISABLED_Cost) {
  const char* rounds = std::getenv("COST_ROUNDS");
  std::istringstream words(std::getenv("COST_COMMAND"));
  Spec without = shell("");
  without.argv.clear();
  for (std::string word; words >> word;) without.argv.push_back(word);
  if (const char* path = std::getenv("PYTHONPATH")) {
    without.env.push_back(std::string("PYTHONPATH=") + path);
    without.visible = {path};
  }
  Spec with = without;
  with.controls = Controls::of(FilterBase::kMl);
  ::alarm(0);
  std::vector<Cost> costs[2];
  for (int i = 0; i < std::atoi(rounds); ++i) {
    costs[0].push_back(cost_of(with));
    costs[1].push_back(cost_of(without));
  }
  std::printf("cost %ld %ld cpu %ld %ld\n", median(costs[0], &Cost::time),
              median(costs[1], &Cost::time), median(costs[0], &Cost::cpu),
              median(costs[1], &Cost::cpu));
}

TEST(Controls, HaveNames) {
  for (uint32_t i = 0; i < static_cast<uint32_t>(Control::kCount); ++i) {
    auto control = static_cast<Control>(i);
    EXPECT_EQ(control_named(control_name(control)), control);
  }
  EXPECT_FALSE(control_named("seccom"));
}

TEST(Controls, LetAllowedVariablesThrough) {
  std::vector<std::string> env = {"PATH=/bin", "LC_ALL=C", "LD_PRELOAD=/x.so", "SECRET=1", "LCX=2"};
  EXPECT_EQ(keep_allowed(env, {"PATH", "LC_*"}),
            (std::vector<std::string>{"PATH=/bin", "LC_ALL=C"}));
  EXPECT_EQ(keep_allowed(env, {"*"}).size(), 4u) << "LD_* never";
  EXPECT_TRUE(keep_allowed(env, {}).empty());
}

}  // namespace
}  // namespace rtlaunch::isolation
