// What the spawner has rehearsed of a start that may come again (isolation/rehearsal.h): it is
// taken when the next is the same, and changes nothing of what that one gets.
#include <sys/mount.h>
#include <sys/resource.h>

#include "isolation/launch.h"
#include "isolation/understudy.h"
#include "launcher/spawner_testing.h"

namespace rtlaunch {
namespace {

using isolation::Spec;

constexpr int kLullMs = 100;  // long enough for the spawner to make some ahead

bool was_rehearsed(const Node::Outcome& outcome) {
  return std::any_of(outcome.steps.begin(), outcome.steps.end(),
                     [](const auto& step) { return step.name == isolation::kSameAgain; });
}

bool is_locked(const std::string& path) {
  UniqueFd fd = sys::open_at(AT_FDCWD, path, O_RDWR).value();
  return ::flock(fd.get(), LOCK_EX | LOCK_NB) != 0;
}

bool is_free_within(const std::string& path, int milliseconds) {
  for (int i = 0; i < milliseconds / 20 && is_locked(path); ++i) ::usleep(20000);
  return !is_locked(path);
}

class RehearsalTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    node_.emplace();
    std::filesystem::create_directories(source());
    write("one");
    layer_ = node().layer(1, "file", "of the layer\n");
  }
  Node& node() { return *node_; }
  std::string source() { return node().path("/home/source"); }
  void write(const std::string& text) { std::ofstream(source() + "/file") << text << "\n"; }

  // A layer that can be written to, and something of the host's.
  Spec spec(const std::string& script) {
    Spec spec = Node::shell(script);
    spec.binds.push_back({source(), "/tmp/source", false, false});
    isolation::Overlay overlay;
    overlay.target = node().path("/home");
    overlay.lowers = {node().layer_path(layer_)};
    overlay.writable = overlay.owned = true;
    spec.overlays.push_back(overlay);
    return spec;
  }
  Node::Outcome run(const std::string& script, const isolation::User& caller = kAlice) {
    return node().run(spec(script), caller, {layer_});
  }
  // Until one has been taken; the next one waits then.
  void rehearse(const std::string& script = "true") {
    bool taken = false;
    for (int i = 0; i < 20 && !taken; ++i) {
      taken = was_rehearsed(run(script));
      ::usleep(kLullMs * 1000);
    }
    ASSERT_TRUE(taken);
  }
  std::string lease() { return node().path("/store/leases/") + layer_.hex; }

  std::optional<Node> node_;
  store::Digest layer_;
};

TEST_F(RehearsalTest, TheSameAgainTakesWhatWasRehearsed) {
  rehearse();
  std::string home = node().path("/home");
  std::string script = "cat /tmp/source/file " + home + "/file; echo changed > " + home +
                       "/file; id -u; ls /tmp; ls " + node().path("/store") + " | wc -l";
  auto first = run("true");
  ::usleep(kLullMs * 1000);
  for (int i = 0; i < 3; ++i) {
    auto outcome = run(script);
    EXPECT_TRUE(was_rehearsed(outcome));
    EXPECT_EQ(outcome.output, "one\nof the layer\n12345\nsource\n0\n")
        << "nothing of the last one's";
    ::usleep(kLullMs * 1000);
  }
}

TEST_F(RehearsalTest, WhatTheHostHasInItsPlaceIsSeen) {
  rehearse();
  std::filesystem::rename(source(), source() + ".old");
  std::filesystem::create_directories(source());
  write("another");
  auto outcome = run("cat /tmp/source/file");
  EXPECT_EQ(outcome.output, "another\n");
  EXPECT_FALSE(was_rehearsed(outcome));
}

TEST_F(RehearsalTest, WhatIsClosedMeanwhileStaysClosed) {
  std::string parent = node().path("/home");
  rehearse();
  ASSERT_EQ(::chown(parent.c_str(), 54321, 54321), 0);
  ASSERT_EQ(::chmod(parent.c_str(), 0700), 0);
  auto outcome = run("cat /tmp/source/file");
  EXPECT_FALSE(outcome.started);
  EXPECT_EQ(outcome.error.code, EACCES) << outcome.error.message();
}

TEST_F(RehearsalTest, WhatTheHostMountsIsSeen) {
  ASSERT_EQ(::mount(source().c_str(), source().c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(::mount(nullptr, source().c_str(), nullptr, MS_SHARED, nullptr), 0);
  std::filesystem::create_directories(source() + "/deep");
  rehearse();
  ASSERT_EQ(::mount("ours", (source() + "/deep").c_str(), "tmpfs", 0, nullptr), 0);
  std::ofstream(source() + "/deep/mounted") << "x";
  auto outcome = run("ls /tmp/source/deep");
  EXPECT_EQ(::umount((source() + "/deep").c_str()), 0);
  EXPECT_EQ(::umount2(source().c_str(), MNT_DETACH), 0);
  EXPECT_EQ(outcome.output, "mounted\n");
  EXPECT_FALSE(was_rehearsed(outcome));
}

TEST_F(RehearsalTest, AnotherDocumentHasItsOwnMounts) {
  rehearse();
  Spec other = Node::shell("cat /tmp/other/file; ls /tmp; ls " + node().path("/home"));
  other.binds.push_back({source(), "/tmp/other", false, false});
  auto outcome = node().run(other, kAlice, {layer_});
  EXPECT_EQ(outcome.output, "one\nother\nsource\n");
  EXPECT_FALSE(was_rehearsed(outcome));
  EXPECT_TRUE(is_free_within(lease(), 1000)) << "that one named no layer";
}

TEST_F(RehearsalTest, AnotherCallerGetsNothingOfIt) {
  rehearse();
  isolation::User bob{54321, 54321, {54321}};
  auto outcome = run("id -u; id -G; stat -c %u " + node().path("/home/file"), bob);
  EXPECT_EQ(outcome.output, "54321\n54321\n54321\n");
  EXPECT_FALSE(was_rehearsed(outcome));
}

// A policy that has become tighter: the document says the same, and another shield holds it back.
TEST_F(RehearsalTest, AnotherShieldGetsNothingOfIt) {
  rehearse();
  Client client;
  SpawnRequest request = node().request(spec("cat /tmp/source/file"), &client, kAlice, {layer_});
  Shield tighter;
  tighter.mounts.emplace();
  request.shield = encode(tighter);
  ASSERT_TRUE(node().spawner().send(request).ok());
  auto told = node().reply(client.id);
  ASSERT_TRUE(told);
  EXPECT_EQ(told->kind, SpawnReply::Kind::kFailed);
}

TEST_F(RehearsalTest, ItsLeasesAreGivenUpWhenNobodyComes) {
  rehearse();
  EXPECT_TRUE(is_locked(lease()));
  EXPECT_TRUE(is_free_within(lease(), 4000));
  EXPECT_TRUE(run("true").started);
}

// A builder may be one that collects.
TEST_F(RehearsalTest, ItsLeasesAreGivenUpForABuilder) {
  rehearse();
  EXPECT_TRUE(is_locked(lease()));
  Client client;
  SpawnRequest request = node().request(Node::shell(""), &client);
  request.kind = SpawnRequest::Kind::kBuild;
  request.arguments = {"--version"};
  ASSERT_TRUE(node().spawner().send(request).ok());
  EXPECT_TRUE(is_free_within(lease(), 1000)) << "long before it would have been";
}

// Its document, which the caller can still change, now names a layer whose lease somebody else
// holds for himself.
TEST_F(RehearsalTest, OneThatHangsGetsNoRequest) {
  store::Digest stuck = node().layer(2, "file", "x\n");
  std::string path = node().path("/store/leases/") + stuck.hex;
  UniqueFd lock = sys::open_at(AT_FDCWD, path, O_RDWR | O_CREAT, 0600).value();
  ASSERT_EQ(::flock(lock.get(), LOCK_EX), 0);
  Spec hangs = spec("true");
  hangs.binds.push_back({node().layer_path(stuck), "/tmp/stuck", false, false});
  std::string document = isolation::encode(hangs);
  for (int i = 0; i < 2; ++i) {
    Client client;
    SpawnRequest request = node().request(spec("true"), &client, kAlice, {layer_, stuck});
    UniqueFd shared = sys::copy_above_stdio(request.document.get()).value();
    ASSERT_TRUE(node().spawner().send(request).ok());
    request = SpawnRequest();
    ASSERT_EQ(node().reply(client.id)->kind, SpawnReply::Kind::kStarted);
    ASSERT_EQ(::pwrite(shared.get(), document.data(), document.size(), 0),
              static_cast<ssize_t>(document.size()));
    client.wait();
  }
  ::usleep(kLullMs * 1000);
  Client client = node().start(spec("echo fine"), kAlice, {layer_, stuck});
  auto told = node().reply(client.id, 2000);
  ASSERT_TRUE(told) << "it went to one that hangs";
  EXPECT_EQ(drain(client.output.get()), "fine\n");
}

// --- its worker, which waits as well ---

std::string line_of(const std::string& text, const std::string& key) {
  size_t at = text.find("\n" + key);
  return at == std::string::npos ? "" : text.substr(at + 1, text.find('\n', at + 1) - at - 1);
}

// Processes of Alice's that are the spawner's grandchildren: workers that wait for their command.
std::vector<pid_t> waiting(int spawner) {
  std::string pid = line_of(read_text("/proc/self/fdinfo/" + std::to_string(spawner)), "Pid:");
  pid.erase(0, pid.find_first_of("0123456789"));
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::string name = entry.path().filename();
    std::string status = read_text("/proc/" + name + "/status");
    std::string parent = line_of(status, "PPid:").erase(0, 6);
    bool theirs = line_of(status, "Uid:").find("12345") != std::string::npos && !parent.empty();
    if (theirs && line_of(read_text("/proc/" + parent + "/status"), "PPid:") == "PPid:\t" + pid) {
      found.push_back(std::atoi(name.c_str()));
    }
  }
  return found;
}

constexpr char kWhatItIs[] =
    "grep -v -E '^(Pid|NSpid|NStgid|NSpgid|NSsid|Tgid|PPid|Ngid|Vm|Rss|Hugetlb|State|.*ctxt|Mems|"
    "Thp|THP|Threads|untag|x86|Cpus_allowed_list)' /proc/self/status; cat /proc/self/limits "
    "/proc/self/oom_score_adj; ls /proc/self/fd; pwd; umask; test $(cut -d' ' -f6 /proc/$$/stat) = "
    "$$ && echo leads its session; nice";

TEST_F(RehearsalTest, ItsWorkerIsAsAnyOther) {
  if (!isolation::kHasUnderstudies)
    GTEST_SKIP() << "a sanitizer takes two that run in turn for one";
  Shield ml;
  ml.bound.controls = isolation::Controls::of(isolation::FilterBase::kMl);
  Spec asks = spec(kWhatItIs);
  asks.cwd = "/usr";
  asks.umask = 027;
  auto run_under = [&] {
    Client client;
    SpawnRequest request = node().request(asks, &client, kAlice, {layer_});
    request.shield = encode(ml);
    EXPECT_TRUE(node().spawner().send(request).ok());
    request = SpawnRequest();
    EXPECT_TRUE(node().reply(client.id));
    return drain(client.output.get());
  };
  std::string first = run_under(), last;
  bool waited = false;
  for (int i = 0; i < 20 && !waited; ++i) {
    ::usleep(kLullMs * 1000);
    waited = !waiting(node().spawner().pidfd()).empty();
    last = run_under();
  }
  EXPECT_TRUE(waited);
  EXPECT_EQ(first, last);
  for (const char* line :
       {"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "leads its session"}) {
    EXPECT_NE(last.find(line), std::string::npos) << last;
  }
}

TEST_F(RehearsalTest, ACallersOtherLimitsAreItsOwn) {
  if (!isolation::kHasUnderstudies)
    GTEST_SKIP() << "a sanitizer takes two that run in turn for one";
  rehearse();
  ASSERT_FALSE(waiting(node().spawner().pidfd()).empty());
  Client client;
  SpawnRequest request = node().request(spec("ulimit -n"), &client, kAlice, {layer_});
  request.limits->resources[RLIMIT_NOFILE] = {123, 123};
  ASSERT_TRUE(node().spawner().send(request).ok());
  request = SpawnRequest();
  auto told = node().reply(client.id);
  ASSERT_TRUE(told);
  EXPECT_EQ(drain(client.output.get()), "123\n");
}

// It has pid 1's memory, and its user's number.
TEST_F(RehearsalTest, ItsWorkerIsClosedToItsUser) {
  if (!isolation::kHasUnderstudies)
    GTEST_SKIP() << "a sanitizer takes two that run in turn for one";
  rehearse();
  std::vector<pid_t> workers = waiting(node().spawner().pidfd());
  ASSERT_FALSE(workers.empty());
  for (pid_t worker : workers) {
    pid_t child = ::fork();
    if (child == 0) {
      if (!sys::set_ids(kAlice.uid, kAlice.gid, {})) ::_exit(2);
      std::string proc = "/proc/" + std::to_string(worker);
      bool open = ::open((proc + "/mem").c_str(), O_RDWR) >= 0 ||
                  ::open((proc + "/fd").c_str(), O_RDONLY) >= 0 ||
                  ::open((proc + "/cwd").c_str(), O_RDONLY) >= 0;
      ::_exit(open);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
}

TEST_F(RehearsalTest, AWorkerThatWasKilledMeanwhileIsMadeAnew) {
  if (!isolation::kHasUnderstudies)
    GTEST_SKIP() << "a sanitizer takes two that run in turn for one";
  rehearse();
  std::vector<pid_t> workers = waiting(node().spawner().pidfd());
  ASSERT_FALSE(workers.empty());
  for (pid_t worker : workers) ASSERT_EQ(::kill(worker, SIGKILL), 0);
  ::usleep(20000);
  auto outcome = run("id -u");
  EXPECT_TRUE(was_rehearsed(outcome));
  EXPECT_EQ(outcome.output, "12345\n");
  EXPECT_EQ(outcome.code(), 0);
}

TEST_F(RehearsalTest, ACommandThatIsNotThereIsTold) {
  rehearse();
  Spec missing = spec("");
  missing.argv = {"no-such-command"};
  auto outcome = node().run(missing, kAlice, {layer_});
  EXPECT_FALSE(outcome.started);
  EXPECT_EQ(outcome.error.exit_code, 127) << outcome.error.message();
  EXPECT_TRUE(run("true").started);
}

TEST_F(RehearsalTest, ItEndsWithTheSpawner) {
  rehearse();
  ASSERT_TRUE(sys::send_signal(node().spawner().pidfd(), SIGKILL).ok());
  node().drop_spawner();
  EXPECT_TRUE(is_free_within(lease(), 1000));
}

}  // namespace
}  // namespace rtlaunch
