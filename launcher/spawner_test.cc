// The spawner, from outside: whose life is tied to whose, whose rights count, and that nothing is
// left.
#include <sys/resource.h>

#include "isolation/cgroup.h"
#include "launcher/spawner_testing.h"

namespace rtlaunch {
namespace {

using isolation::LineMessage;
using isolation::Overlay;
using isolation::Spec;

class SpawnerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    node_.emplace();
  }
  Node& node() { return *node_; }
  std::optional<Node> node_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// --- a worker's life ---

TEST_F(SpawnerTest, StartsACommandAndTellsItsStatus) {
  Client client = node().start(Node::shell("echo $$; id -u; exit 7"));
  auto started = node().reply(client.id);
  ASSERT_TRUE(started);
  ASSERT_EQ(started->kind, SpawnReply::Kind::kStarted) << started->error.message();
  EXPECT_GT(started->pid, 0);
  EXPECT_TRUE(started->pidfd.valid());
  EXPECT_FALSE(started->steps.empty());
  EXPECT_EQ(client.next()->kind, LineMessage::kGoing);
  EXPECT_EQ(client.next()->kind, LineMessage::kStarted);
  EXPECT_EQ(drain(client.output.get()), "2\n12345\n");
  auto ended = client.next();
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->kind, LineMessage::kEnded);
  EXPECT_EQ(ended->value, W_EXITCODE(7, 0));
  EXPECT_FALSE(client.next()) << "pid 1 ends after it";
  std::string record = read_text(client.record);
  EXPECT_TRUE(contains(record, "{\"pid\":" + std::to_string(started->pid) + ",\"start_time\":"));
  EXPECT_TRUE(contains(record, "{\"status\":1792,\"ended\":")) << record;
}

TEST_F(SpawnerTest, TellsWhyACommandCantRun) {
  Spec spec = Node::shell("");
  spec.argv = {"no-such-command"};
  Client client = node().start(spec);
  auto told = node().reply(client.id);
  ASSERT_TRUE(told);
  EXPECT_EQ(told->kind, SpawnReply::Kind::kFailed);
  EXPECT_EQ(told->error.exit_code, 127);
  EXPECT_EQ(client.next()->kind, LineMessage::kGoing);
  EXPECT_FALSE(client.next()) << "the line ends without kStarted";
}

TEST_F(SpawnerTest, PassesSignalsFromTheLine) {
  Client client =
      node().start(Node::shell("trap 'echo got; exit 9' TERM; echo up; sleep 60 & wait"));
  EXPECT_EQ(read_line(client.output.get()), "up");
  ASSERT_TRUE(isolation::send_line(client.line.get(), LineMessage::kSignal, SIGTERM).ok());
  EXPECT_EQ(read_line(client.output.get()), "got");
  EXPECT_EQ(client.wait(), W_EXITCODE(9, 0));
}

TEST_F(SpawnerTest, AWorkerEndsWithItsLine) {
  Client client = node().start(Node::shell("echo up; sleep 600 & sleep 600"));
  EXPECT_EQ(read_line(client.output.get()), "up");
  client.line.reset();
  EXPECT_EQ(drain(client.output.get()), "") << "the end of file: every process is gone";
  EXPECT_TRUE(contains(read_text(client.record), "\"status\":9,"));
}

bool is_locked(const std::string& path) {
  UniqueFd fd = sys::open_at(AT_FDCWD, path, O_RDWR).value();
  return ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0;
}

// Its end closes one descriptor after the other.
bool is_free_soon(const std::string& path) {
  for (int i = 0; i < 250 && is_locked(path); ++i) ::usleep(20000);
  return !is_locked(path);
}

TEST_F(SpawnerTest, AWorkerOutlivesSpawnerAndDaemon) {
  Client client =
      node().start(Node::shell("echo up; read x </dev/null; sleep 1; echo done; exit 3"));
  ASSERT_EQ(node().reply(client.id)->kind, SpawnReply::Kind::kStarted);
  EXPECT_EQ(read_line(client.output.get()), "up");
  ASSERT_TRUE(sys::send_signal(node().spawner().pidfd(), SIGKILL).ok());
  node().drop_spawner();
  EXPECT_TRUE(is_locked(client.record)) << "pid 1 has it";
  EXPECT_EQ(drain(client.output.get()), "done\n");
  EXPECT_EQ(client.wait(), W_EXITCODE(3, 0));
  std::string record = read_text(client.record);
  EXPECT_TRUE(contains(record, "\"start_time\":") && contains(record, "\"status\":768,")) << record;
  EXPECT_TRUE(client.next() == std::nullopt);
  EXPECT_TRUE(is_free_soon(client.record));
}

// Whenever it dies: either the worker was told to go and is on record, or nothing of it is left.
TEST_F(SpawnerTest, NothingIsLeftOfAStartThatTheSpawnerDiedIn) {
  int went = 0;
  for (int delay = 0; delay < 3000; delay += 100) {
    Client client = node().start(Node::shell("exec sleep 600"));
    ::usleep(static_cast<useconds_t>(delay));
    ASSERT_TRUE(sys::send_signal(node().spawner().pidfd(), SIGKILL).ok());
    node().drop_spawner();
    if (auto message = client.next()) {
      ++went;
      EXPECT_EQ(message->kind, LineMessage::kGoing);
      EXPECT_TRUE(contains(read_text(client.record), "\"start_time\":"));
    }
    client.line.reset();
    EXPECT_EQ(drain(client.output.get()), "") << delay;
    EXPECT_TRUE(is_free_soon(client.record)) << delay;
  }
  EXPECT_LT(went, 30);
  auto spawners = [&] {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::string command = read_text(entry.path().string() + "/cmdline");
      count += command.find(node().path("/store")) != std::string::npos;
    }
    return count;
  };
  for (int i = 0; i < 100 && spawners() > 0; ++i) ::usleep(20000);
  EXPECT_EQ(spawners(), 0) << "nor of what was made ahead";
}

TEST_F(SpawnerTest, TwoWorkersCantHaveOneRecord) {
  Client client = node().start(Node::shell("echo up; sleep 600"));
  EXPECT_EQ(read_line(client.output.get()), "up");
  Client second;
  SpawnRequest request = node().request(Node::shell("true"), &second);
  request.record = sys::open_at(AT_FDCWD, client.record, O_RDWR | O_APPEND).value();
  ASSERT_TRUE(node().spawner().send(request).ok());
  EXPECT_EQ(node().reply(second.id)->error.code, EBUSY);
}

TEST_F(SpawnerTest, ARecordThatLostItsNameStartsNothing) {
  Client client;
  SpawnRequest request = node().request(Node::shell("echo ran"), &client);
  ASSERT_EQ(::unlink(client.record.c_str()), 0);
  ASSERT_TRUE(node().spawner().send(request).ok());
  auto told = node().reply(client.id);
  ASSERT_TRUE(told);
  EXPECT_EQ(told->kind, SpawnReply::Kind::kFailed);
  EXPECT_EQ(told->error.code, EAGAIN) << "the daemon says `again`";
  for (UniqueFd* fd : {&request.output, &request.error}) fd->reset();
  EXPECT_EQ(drain(client.output.get()), "");
}

TEST_F(SpawnerTest, AWorkerHasTheLimitsOfItsRequest) {
  Client client;
  SpawnRequest request = node().request(Node::shell("ulimit -n; ulimit -Hn; nice"), &client);
  request.limits = sys::limits_of(0).value();
  request.limits->resources[RLIMIT_NOFILE] = {123, 456};
  request.limits->nice = 5;
  ASSERT_TRUE(node().spawner().send(request).ok());
  for (UniqueFd* fd : {&request.output, &request.error}) fd->reset();
  EXPECT_EQ(drain(client.output.get()), "123\n456\n5\n");
}

// --- rights ---

TEST_F(SpawnerTest, AWorkerIsItsCallerAndNoMore) {
  auto outcome =
      node().run(Node::shell("id -u; id -g; id -G; grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs'"
                             " /proc/self/status; cut -d' ' -f6 /proc/self/stat"));
  EXPECT_EQ(
      outcome.output,
      "12345\n12345\n12345 20001 20002\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"
      "CapBnd:\t0000000000000000\nNoNewPrivs:\t1\n2\n")
      << "with a session of its own (2)";
  auto root = node().run(Node::shell("id -u; id -G"), {0, 0, {0, 4}});
  EXPECT_EQ(root.output, "0\n0 4\n");
}

Spec with_bind(const std::string& source, const std::string& script) {
  Spec spec = Node::shell(script);
  spec.binds.push_back({source, "/tmp/bound", false, false});
  return spec;
}

TEST_F(SpawnerTest, HostPathsAreOpenedWithTheCallersRights) {
  std::string closed = node().path("/home/bobs");
  std::filesystem::create_directories(closed + "/open");
  std::ofstream(closed + "/open/file") << "bob's\n";
  ASSERT_EQ(::chown(closed.c_str(), 54321, 54321), 0);
  ASSERT_EQ(::chmod(closed.c_str(), 0700), 0);
  const std::string script = "cat /tmp/bound/file";
  auto refused = node().run(with_bind(closed + "/open", script));
  EXPECT_FALSE(refused.started);
  EXPECT_EQ(refused.error.code, EACCES) << refused.error.message();
  EXPECT_EQ(node().run(with_bind(closed + "/open", script), {54321, 54321, {}}).output, "bob's\n");
  // By a group of the caller's.
  ASSERT_EQ(::chown(closed.c_str(), 54321, 20002), 0);
  ASSERT_EQ(::chmod(closed.c_str(), 0710), 0);
  EXPECT_EQ(node().run(with_bind(closed + "/open", script)).output, "bob's\n");
  EXPECT_FALSE(node().run(with_bind(closed + "/open", script), {12345, 12345, {12345}}).started);
}

// A layer that has a directory of the same name and is open must not open the host's.
TEST_F(SpawnerTest, AnOverlayOpensNoDirectoryThatWasClosed) {
  std::string shared = node().path("/home");
  std::filesystem::create_directories(shared + "/private");
  std::ofstream(shared + "/private/key") << "secret\n";
  ASSERT_EQ(::chmod((shared + "/private").c_str(), 0700), 0);
  store::Digest layer = node().layer(1, "private/mine", "mine\n");
  for (bool mount2 : {false, true}) {
    Spec spec = Node::shell("ls " + shared + "/private; cat " + shared + "/private/key");
    spec.use_mount2 = mount2;
    Overlay overlay{.target = shared,
                    .lowers = {node().layer_path(layer)},
                    .upper = "",
                    .work = "",
                    .mkdirs = {}};
    overlay.over_host = overlay.writable = true;
    spec.overlays = {overlay};
    auto outcome = node().run(spec, kAlice, {layer});
    EXPECT_TRUE(outcome.started) << outcome.error.message();
    EXPECT_FALSE(contains(outcome.output, "secret")) << outcome.output;
    auto root = node().run(spec, {0, 0, {}}, {layer});
    EXPECT_TRUE(contains(root.output, "key\nmine\nsecret")) << "control: " << root.output;
  }
}

TEST_F(SpawnerTest, OnlyEntitledLayersAreMounted) {
  store::Digest mine = node().layer(1, "file", "mine\n"), other = node().layer(2, "file", "his\n");
  auto reads = [&](const store::Digest& layer, std::vector<store::Digest> entitled) {
    return node().run(with_bind(node().layer_path(layer), "cat /tmp/bound/file"), kAlice, entitled);
  };
  EXPECT_EQ(reads(mine, {mine}).output, "mine\n");
  EXPECT_EQ(reads(other, {mine}).error.code, EACCES);
  EXPECT_EQ(reads(other, {}).error.code, EACCES);
  EXPECT_EQ(reads(other, {mine, other}).output, "his\n");
}

TEST_F(SpawnerTest, NothingElseOfStoreAndRuntimeIsOpened) {
  store::Digest layer = node().layer(1, "sub/file", "x\n");
  std::string tree = node().layer_path(layer), store = node().path("/store");
  for (const std::string& path : {store, store + "/records", tree + "/sub", tree + "/..",
                                  node().path("/run"), node().path("/run/workers")}) {
    for (const isolation::User& caller : {kAlice, isolation::User{0, 0, {}}}) {
      EXPECT_FALSE(node().run(with_bind(path, "true"), caller, {layer}).started) << path;
    }
  }
  for (int kind = 0; kind < 4; ++kind) {
    Spec spec = Node::shell("true");
    Overlay overlay{.target = tree, .lowers = {}, .upper = "", .work = "", .mkdirs = {}};
    overlay.over_host = overlay.writable = true;
    if (kind == 0) spec.writable = {tree};
    if (kind == 1) spec.visible = {store};
    if (kind == 2) spec.overlays = {overlay};
    if (kind == 3) spec.binds = {{tree, "/tmp/x", true, false}};
    EXPECT_EQ(node().run(spec, {0, 0, {}}, {layer}).error.code, EACCES) << kind;
  }
  auto hidden = node().run(
      Node::shell("ls -A " + store + " " + node().path("/run") + " | grep -v :"), {0, 0, {}});
  EXPECT_EQ(hidden.output, "\n") << "both are empty, for root as well";
}

// What covers the store has room for two things that may have no place on the host.
TEST_F(SpawnerTest, OfTheStoresPathOnlyThePlacesInItsCoverAreTargets) {
  store::Digest layer = node().layer(1, "file", "mine\n");
  auto at = [&](const std::string& target) {
    Spec spec = Node::shell("cat " + target + "/file; ls " + node().path("/store"));
    spec.binds = {{node().layer_path(layer), target}};
    return node().run(spec, kAlice, {layer});
  };
  EXPECT_EQ(at(node().path("/store/py_modules/0")).output, "mine\npy_modules\n");
  EXPECT_EQ(at(node().path("/store/working_dir")).output, "mine\nworking_dir\n");
  for (const char* other : {"/store", "/store/layers", "/store/working_dir/below", "/store/records",
                            "/run/working_dir", "/run/py_modules/0"}) {
    EXPECT_EQ(at(node().path(other)).error.code, EACCES) << other;
  }
}

std::string link_of(const std::string& path) { return std::filesystem::read_symlink(path); }

TEST_F(SpawnerTest, ASharedRootIsTheHostsButForProcesses) {
  Spec spec = Node::shell(
      "readlink /proc/self/ns/ipc; readlink /proc/self/ns/uts; readlink /proc/self/ns/pid;"
      "echo x >" +
      node().path("/home/written") + "; ls -A " + node().path("/store"));
  spec.root = isolation::Root::kShared;
  spec.same_pid = true;
  auto outcome = node().run(spec);
  ASSERT_TRUE(outcome.started) << outcome.error.message();
  std::string shared = link_of("/proc/self/ns/ipc") + "\n" + link_of("/proc/self/ns/uts") + "\n";
  EXPECT_TRUE(outcome.output.starts_with(shared + "pid:")) << outcome.output;
  EXPECT_FALSE(contains(outcome.output, link_of("/proc/self/ns/pid")));
  EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 3) << outcome.output;
  EXPECT_EQ(read_text(node().path("/home/written")), "x\n");
  spec.root = isolation::Root::kHost;
  spec.same_pid = false;
  auto control = node().run(spec);
  EXPECT_FALSE(control.output.starts_with(shared)) << control.output;
}

// What of the host's /sys is kept ahead of a start is the host's all the same: here it shares what
// it mounts there with the spawner, as it does under systemd.
TEST_F(SpawnerTest, OfSysOnlyWhatIsMaskedIsGone) {
  if (::access("/sys/firmware", F_OK) != 0 || ::access("/sys/block", F_OK) != 0) {
    GTEST_SKIP() << "a /sys without firmware or block";
  }
  ASSERT_EQ(::mount(nullptr, "/sys", nullptr, MS_SHARED, nullptr), 0);
  Shield shield;
  shield.bound.controls.sys_masks = isolation::Want::kRequire;
  auto look = [&](const std::string& script) {
    Client client;
    SpawnRequest request = node().request(Node::shell(script), &client);
    request.shield = encode(shield);
    EXPECT_TRUE(node().spawner().send(request).ok());
    request = SpawnRequest();
    return drain(client.output.get());
  };
  std::string script =
      "ls -A /sys/firmware; ls -d /sys/block/ours 2>/dev/null;"
      "grep ' / /sys ' /proc/self/mountinfo | tail -1 | cut -d ' ' -f 6";
  std::string sealed = "ro,nosuid,nodev";
  std::string once = look(script);
  EXPECT_TRUE(once.starts_with(sealed)) << once;
  ::usleep(50000);  // the next ones wait already
  ASSERT_EQ(::mount("ours", "/sys/block", "tmpfs", 0, nullptr), 0);
  ASSERT_EQ(::mkdir("/sys/block/ours", 0755), 0);
  std::string later = look(script);
  ASSERT_EQ(::umount("/sys/block"), 0);
  EXPECT_TRUE(later.starts_with("/sys/block/ours\n" + sealed)) << later;
}

// Neither a mount nor an error says what is in a directory that is closed to the caller.
TEST_F(SpawnerTest, WhatACallerHidesIsLookedForWithHisRights) {
  std::string closed = node().path("/home/closed");
  std::filesystem::create_directories(closed + "/folder");
  std::ofstream(closed + "/file") << "x";
  for (mode_t mode : {0700, 0755}) {
    ASSERT_EQ(::chmod(closed.c_str(), mode), 0);
    for (const char* name : {"/folder", "/file", "/nothing"}) {
      Spec spec = Node::shell("grep -c " + closed + " /proc/self/mountinfo");
      spec.hidden = {closed + name};
      auto outcome = node().run(spec);
      bool is_open = mode == 0755, refused = is_open && name == std::string("/file");
      EXPECT_EQ(outcome.started, !refused) << name << ": " << outcome.error.message();
      bool covered = is_open && name == std::string("/folder");
      EXPECT_EQ(outcome.output, refused ? "" : covered ? "1\n" : "0\n") << name;
    }
  }
}

TEST_F(SpawnerTest, ALayerThatIsGoneSaysPlanAgain) {
  store::Digest gone{store::sha256_hex("gone")};
  auto outcome = node().run(with_bind(node().layer_path(gone), "true"), kAlice, {gone});
  EXPECT_EQ(outcome.error.code, ESTALE) << outcome.error.message();
}

TEST_F(SpawnerTest, AWorkerHoldsTheLayersThatItNames) {
  store::Digest used = node().layer(1, "file", "x\n"), unused = node().layer(2, "file", "x\n");
  Client client = node().start(with_bind(node().layer_path(used), "echo up; sleep 600"), kAlice,
                               {used, unused});
  EXPECT_EQ(read_line(client.output.get()), "up");
  std::string leases = node().path("/store/leases/");
  EXPECT_TRUE(is_locked(leases + used.hex));
  EXPECT_FALSE(std::filesystem::exists(leases + unused.hex));
  ASSERT_EQ(node().reply(client.id)->kind, SpawnReply::Kind::kStarted);
  node().drop_spawner();
  EXPECT_TRUE(is_locked(leases + used.hex));
  client.line.reset();
  drain(client.output.get());
  EXPECT_TRUE(is_free_soon(leases + used.hex));
}

TEST_F(SpawnerTest, AnOwnedOverlayBelongsToTheCaller) {
  store::Digest layer = node().layer(1, "sub/file", "layer\n", 0600);
  for (bool owned : {true, false}) {
    Spec spec = Node::shell(
        "cd /tmp/app && stat -c %u:%g . sub sub/file; cat sub/file; echo more >>sub/file;"
        " rm -rf sub && mkdir sub && echo new >sub/new; cat sub/new");
    Overlay overlay{.target = "/tmp/app",
                    .lowers = {node().layer_path(layer)},
                    .upper = "",
                    .work = "",
                    .mkdirs = {}};
    overlay.writable = overlay.report = true;
    overlay.owned = owned;
    spec.overlays = {overlay};
    auto outcome = node().run(spec, kAlice, {layer});
    ASSERT_TRUE(outcome.started) << outcome.error.message();
    if (owned) {
      EXPECT_EQ(outcome.output, "12345:12345\n12345:12345\n12345:12345\nlayer\nnew\n");
    } else {
      EXPECT_TRUE(contains(outcome.output, "0:0\n0:0\n") && contains(outcome.output, "denied"));
    }
  }
  EXPECT_EQ(read_text(node().layer_path(layer) + "/sub/file"), "layer\n");
}

TEST_F(SpawnerTest, OnlyLayersCanBeOwned) {
  std::string host = node().path("/home/roots");
  std::filesystem::create_directories(host);
  std::ofstream(host + "/file") << "root's\n";
  ASSERT_EQ(::chmod((host + "/file").c_str(), 0600), 0);
  Overlay overlay{.target = "/tmp/app", .lowers = {host}, .upper = "", .work = "", .mkdirs = {}};
  overlay.owned = true;
  Spec spec = Node::shell("cat /tmp/app/file");
  spec.overlays = {overlay};
  EXPECT_FALSE(node().run(spec).started);
  spec.overlays[0].target = host;
  spec.overlays[0].lowers = {node().layer_path(node().layer(1, "x", "x"))};
  spec.overlays[0].over_host = true;
  EXPECT_FALSE(node().run(spec, kAlice, {{store::sha256_hex("layer 1")}}).started);
  spec.overlays.clear();
  spec.binds = {{host, "/tmp/app", false, false, true}};
  EXPECT_FALSE(node().run(spec).started);
}

TEST_F(SpawnerTest, TheClientGetsTheUpper) {
  store::Digest layer = node().layer(1, "file", "x\n");
  Spec spec = Node::shell("echo new >/tmp/app/new");
  Overlay overlay{.target = "/tmp/app",
                  .lowers = {node().layer_path(layer)},
                  .upper = "",
                  .work = "",
                  .mkdirs = {}};
  overlay.writable = overlay.report = overlay.owned = true;
  spec.overlays = {overlay};
  Client client = node().start(spec, kAlice, {layer});
  UniqueFd upper;
  ASSERT_TRUE(client.next());
  ASSERT_EQ(client.next(&upper)->kind, LineMessage::kStarted);
  ASSERT_TRUE(upper.valid());
  client.wait();
  EXPECT_EQ(sys::read_file_at(upper.get(), "new").value(), "new\n");
}

// --- others ---

TEST_F(SpawnerTest, EntersAWorker) {
  Client worker = node().start(Node::shell("echo mark >/tmp/mark; echo up; sleep 600"));
  EXPECT_EQ(read_line(worker.output.get()), "up");
  auto started = node().reply(worker.id);
  Client visitor;
  SpawnRequest request = node().request(
      Node::shell("cat /tmp/mark; id -u; grep -c . /proc/1/stat; grep CapEff /proc/self/status;"
                  "ls " +
                  node().path("/store") + "; exit 5"),
      &visitor);
  request.kind = SpawnRequest::Kind::kEnter;
  request.target = std::move(started->pidfd);
  ASSERT_TRUE(node().spawner().send(request).ok());
  request = SpawnRequest();
  auto entered = node().reply(visitor.id);
  ASSERT_EQ(entered->kind, SpawnReply::Kind::kStarted) << entered->error.message();
  EXPECT_EQ(drain(visitor.output.get()), "mark\n12345\n1\nCapEff:\t0000000000000000\n");
  EXPECT_EQ(visitor.wait(), W_EXITCODE(5, 0));
  auto ended = node().reply(visitor.id);
  EXPECT_EQ(ended->kind, SpawnReply::Kind::kEnded);
  EXPECT_EQ(ended->status, W_EXITCODE(5, 0));
}

TEST_F(SpawnerTest, AVisitEndsWithItsLine) {
  Client worker = node().start(Node::shell("echo up; sleep 600"));
  EXPECT_EQ(read_line(worker.output.get()), "up");
  auto started = node().reply(worker.id);
  Client visitor;
  SpawnRequest request = node().request(Node::shell("echo in; exec sleep 600"), &visitor);
  request.kind = SpawnRequest::Kind::kEnter;
  request.target = std::move(started->pidfd);
  ASSERT_TRUE(node().spawner().send(request).ok());
  request = SpawnRequest();
  EXPECT_EQ(read_line(visitor.output.get()), "in");
  visitor.line.reset();
  EXPECT_EQ(drain(visitor.output.get()), "");
  ASSERT_TRUE(node().reply(visitor.id));
  EXPECT_EQ(node().reply(visitor.id)->status, SIGKILL);
}

class BuilderTest : public SpawnerTest {
 protected:
  // In place of rtlaunch-build.
  void SetUp() override {
    SpawnerTest::SetUp();
    if (IsSkipped()) return;
    tools_ = node().path("/tools");
    ::mkdir(tools_.c_str(), 0755);
    node().config().tools = tools_;
  }
  Client build(const std::string& script, std::vector<std::string> arguments) {
    std::ofstream(tools_ + "/rtlaunch-build") << "#!/bin/sh\n" << script;
    ::chmod((tools_ + "/rtlaunch-build").c_str(), 0755);
    Client client;
    SpawnRequest request = node().request(Node::shell(""), &client);
    request.kind = SpawnRequest::Kind::kBuild;
    request.document = sys::memory_file("request\n").value();
    request.arguments = std::move(arguments);
    EXPECT_TRUE(node().spawner().send(request).ok());
    return client;
  }
  std::string tools_;
};

TEST_F(BuilderTest, RunsWithACleanEnvironment) {
  ::setenv("SECRET", "of the daemon", 1);
  Client client = build(
      "cat; echo \"$@\"; env | grep -v ^_ | cut -d= -f1 | sort | tr '\\n' ' ';"
      "ls -m /proc/$$/fd; id -u; cut -d' ' -f6 /proc/$$/stat; echo $$;"
      "exit 4",
      {"make", "pip"});
  auto started = node().reply(client.id);
  ASSERT_EQ(started->kind, SpawnReply::Kind::kStarted) << started->error.message();
  EXPECT_TRUE(started->pidfd.valid());
  std::string pid = std::to_string(started->pid);
  EXPECT_EQ(drain(client.output.get()),
            "request\nmake pip\nHOME LC_ALL PATH PWD 0, 1, 10, 2\n0\n" + pid + "\n" + pid + "\n");
  auto ended = node().reply(client.id);
  ASSERT_EQ(ended->kind, SpawnReply::Kind::kEnded);
  EXPECT_EQ(ended->status, W_EXITCODE(4, 0));
}

TEST_F(BuilderTest, EndsWithTheSpawner) {
  Client client = build("echo up; exec sleep 600", {});
  EXPECT_EQ(read_line(client.output.get()), "up");
  node().drop_spawner();
  EXPECT_EQ(drain(client.output.get()), "");
}

TEST_F(BuilderTest, SaysWhenItIsMissing) {
  node().config().tools = "/no/such/folder";
  Client client = build("", {});
  EXPECT_EQ(node().reply(client.id)->error.code, ENOENT);
}

TEST_F(SpawnerTest, AWorkerHasALeafOfItsOwn) {
  Client client = node().start(Node::shell("cat /proc/self/cgroup; sleep 600"));
  auto started = node().reply(client.id);
  if (started->cgroup.empty()) GTEST_SKIP() << "no cgroup2 that we may write to";
  EXPECT_TRUE(contains(read_text(client.record), started->cgroup));
  std::string inside;
  do {
    inside = read_line(client.output.get());
  } while (!inside.empty() && inside.rfind("0::", 0) != 0);
  EXPECT_EQ(inside, "0::" + started->cgroup);
  auto use = isolation::cgroup_use(started->cgroup);
  ASSERT_TRUE(use.ok()) << use.error().message();
  EXPECT_GT(use->cpu_microseconds, 0u);
  client.line.reset();
  drain(client.output.get());
  for (int i = 0; i < 250 && isolation::cgroup_use(started->cgroup).ok(); ++i) ::usleep(20000);
  EXPECT_FALSE(isolation::cgroup_use(started->cgroup).ok()) << "it is removed";
}

// The spawner that made it is killed: the next one removes it, once it is empty.
TEST_F(SpawnerTest, LeavesThatWereLeftAreRemoved) {
  Client client = node().start(Node::shell("echo up; sleep 600"));
  auto started = node().reply(client.id);
  if (started->cgroup.empty()) GTEST_SKIP() << "no cgroup2 that we may write to";
  ASSERT_TRUE(sys::send_signal(node().spawner().pidfd(), SIGKILL).ok());
  node().drop_spawner();
  EXPECT_EQ(node().run(Node::shell("echo next")).output, "next\n");
  EXPECT_TRUE(isolation::cgroup_use(started->cgroup).ok()) << "the worker lives in it";
  client.line.reset();
  for (int i = 0; i < 250 && isolation::cgroup_use(started->cgroup).ok(); ++i) ::usleep(20000);
  EXPECT_FALSE(isolation::cgroup_use(started->cgroup).ok());
}

// --- many, and bad ones ---

// Its layer's lease is held by somebody else, so it waits: as it would for a dead file system.
TEST_F(SpawnerTest, AHangingStartHoldsUpNobodyAndIsEnded) {
  node().config().start_seconds = 1;
  store::Digest layer = node().layer(1, "file", "x\n");
  UniqueFd lock =
      sys::open_at(AT_FDCWD, node().path("/store/leases/") + layer.hex, O_RDWR | O_CREAT, 0600)
          .value();
  ASSERT_EQ(::flock(lock.get(), LOCK_EX), 0);
  Client hanging = node().start(with_bind(node().layer_path(layer), "true"), kAlice, {layer});
  EXPECT_EQ(node().run(Node::shell("echo fine")).output, "fine\n");
  EXPECT_FALSE(readable(hanging.line.get(), 0));
  auto told = node().reply(hanging.id);
  ASSERT_TRUE(told);
  EXPECT_EQ(told->error.code, ETIMEDOUT) << told->error.message();
  EXPECT_FALSE(hanging.next()) << "nothing has run";
  lock.reset();
  EXPECT_TRUE(node().run(with_bind(node().layer_path(layer), "true"), kAlice, {layer}).started);
}

TEST_F(SpawnerTest, NonsenseIsRefusedAndHarmsNobody) {
  Client client;
  SpawnRequest request = node().request(Node::shell("true"), &client);
  request.document = sys::memory_file("nonsense").value();
  ASSERT_TRUE(node().spawner().send(request).ok());
  EXPECT_EQ(node().reply(client.id)->error.code, EBADMSG);
  request = node().request(Node::shell("true"), &client);
  request.line = sys::memory_file("no line").value();
  ASSERT_TRUE(node().spawner().send(request).ok());
  EXPECT_FALSE(node().reply(client.id)->error.step.empty());
  request = node().request(Node::shell("true"), &client);
  request.output.reset();
  ASSERT_TRUE(node().spawner().send(request).ok());
  EXPECT_EQ(node().reply(client.id)->error.code, EPROTO);
  EXPECT_EQ(node().run(Node::shell("echo fine")).output, "fine\n");
}

struct Footprint {
  size_t descriptors = 0, children = 0;
  bool operator==(const Footprint&) const = default;
};

Footprint footprint(Node& node) {
  std::string info = read_text("/proc/self/fdinfo/" + std::to_string(node.spawner().pidfd()));
  std::string pid = std::to_string(std::atoi(info.c_str() + info.find("Pid:") + 4));
  Footprint print;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + pid + "/fd")) {
    (void)entry;
    ++print.descriptors;
  }
  std::istringstream children(read_text("/proc/" + pid + "/task/" + pid + "/children"));
  for (std::string child; children >> child;) ++print.children;
  return print;
}

TEST_F(SpawnerTest, AThousandStartsLeaveNothing) {
  auto once = [&] {
    Client client = node().start(Node::shell("exit 0"));
    ASSERT_EQ(node().reply(client.id)->kind, SpawnReply::Kind::kStarted);
    ASSERT_EQ(client.wait(), 0);
    ::unlink(client.record.c_str());
  };
  for (int i = 0; i < 100; ++i) once();
  ::usleep(100000);
  Footprint before = footprint(node());
  for (int i = 0; i < 1000; ++i) once();
  for (int i = 0; i < 100 && footprint(node()) != before; ++i) ::usleep(20000);
  EXPECT_EQ(footprint(node()).descriptors, before.descriptors);
  EXPECT_EQ(footprint(node()).children, before.children) << "no zombie";
}

TEST_F(SpawnerTest, ABurstIsServed) {
  std::vector<Client> clients;
  for (int i = 0; i < 64; ++i) clients.push_back(node().start(Node::shell("exit 0")));
  for (Client& client : clients) {
    ASSERT_EQ(node().reply(client.id)->kind, SpawnReply::Kind::kStarted);
    EXPECT_EQ(client.wait(), 0);
  }
}

// --- how fast; not a test: run it with --gtest_also_run_disabled_tests --gtest_filter='*Speed*'
// ---

class DISABLED_Speed : public SpawnerTest {
 protected:
  // Two layers over a directory of the host, as packages are; two that the caller owns.
  Spec spec(const std::string& program) {
    if (layers_.empty()) {
      for (int i = 0; i < 4; ++i) layers_.push_back(node().layer(i, "f" + std::to_string(i), "x"));
      std::filesystem::create_directories(node().path("/home/prefix"));
      std::filesystem::copy_file(program, node().path("/home/prefix/true"));
    }
    auto path = [&](int i) { return node().layer_path(layers_[static_cast<size_t>(i)]); };
    Spec made;
    made.argv = {node().path("/home/prefix/true")};
    made.env = {"PATH=/usr/bin:/bin"};
    Overlay packages{.target = node().path("/home/prefix"),
                     .lowers = {path(0), path(1)},
                     .upper = "",
                     .work = "",
                     .mkdirs = {}};
    packages.over_host = packages.writable = true;
    Overlay work{
        .target = "/tmp/work", .lowers = {path(2), path(3)}, .upper = "", .work = "", .mkdirs = {}};
    work.writable = work.report = work.owned = true;
    made.overlays = {packages, work};
    made.cwd = "/tmp/work";
    made.writable = {node().path("/home")};
    return made;
  }
  std::string program() { return binaries() + "/../guests/true"; }
  std::vector<store::Digest> layers_;
};

int64_t now_us() {
  struct timespec time;
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * int64_t{1000000} + time.tv_nsec / 1000;
}

TEST_F(DISABLED_Speed, OneAfterTheOther) {
  Spec wanted = spec(program());
  std::vector<int64_t> times;
  std::map<std::string, std::vector<int64_t>> steps;
  std::vector<std::string> order;
  int count = std::getenv("STARTS") ? std::atoi(std::getenv("STARTS")) : 1000;
  for (int i = 0; i < count; ++i) {
    Client client;
    SpawnRequest request = node().request(wanted, &client, kAlice, layers_);
    int64_t began = now_us();
    ASSERT_TRUE(node().spawner().send(request).ok());
    request = SpawnRequest();
    while (auto message = client.next()) {
      if (message->kind == LineMessage::kStarted) break;
    }
    times.push_back(now_us() - began);
    auto told = node().reply(client.id);
    ASSERT_EQ(told->kind, SpawnReply::Kind::kStarted) << told->error.message();
    for (const auto& step : told->steps) {
      if (steps[step.name].empty()) order.push_back(step.name);
      steps[step.name].push_back(step.microseconds);
    }
    client.wait();
    ::unlink(client.record.c_str());
    ::usleep(1000);  // its teardown is not ours
  }
  auto at = [](std::vector<int64_t>& list, size_t percent) {
    std::sort(list.begin(), list.end());
    return list[list.size() * percent / 100];
  };
  for (const std::string& name : order) {
    std::printf("  %-20s p5 %5ld us  p50 %5ld us  p99 %5ld us\n", name.c_str(), at(steps[name], 5),
                at(steps[name], 50), at(steps[name], 99));
  }
  std::printf("request to exec: p5 %ld us, p50 %ld us, p99 %ld us\n", at(times, 5), at(times, 50),
              at(times, 99));
}

TEST_F(DISABLED_Speed, Bursts) {
  Spec wanted = spec(program());
  for (int round = 0; round < 5; ++round) {
    int64_t began = now_us();
    std::vector<Client> clients;
    for (int i = 0; i < 64; ++i) clients.push_back(node().start(wanted, kAlice, layers_));
    for (Client& client : clients) ASSERT_EQ(client.wait(), 0);
    int64_t took = now_us() - began;
    std::printf("64 at once: %.0f starts a second, to their end\n", 64e6 / double(took));
    for (Client& client : clients) node().reply(client.id);
  }
}

}  // namespace
}  // namespace rtlaunch
