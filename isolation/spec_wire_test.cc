// What is accepted encodes to the same bytes again, whatever was done to them; and the line.
#include "isolation/spec_wire.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>

#include "isolation/line.h"
#include "isolation/wire.h"

namespace rtlaunch::isolation {
namespace {

Spec full() {
  Spec spec;
  spec.argv = {"python", "-c", ""};
  spec.env = {"A=b", "EMPTY="};
  spec.cwd = "/tmp/x";
  spec.hostname = "worker";
  spec.pid1_shown_as = {"raylet", ""};
  spec.root = Root::kShared;
  spec.same_pid = true;
  spec.new_session = true;
  spec.network = Network::kEgress;
  spec.job = "01000000";
  spec.destinations = {{"10.0.0.0/8", 443, 444, Destination::Protocol::kTcp}, {"::1"}};
  spec.umask = 027;
  spec.writable = {"/home/me"};
  spec.hidden = {"/var/lib/rtlaunch"};
  spec.visible = {"/tmp/seen", ""};
  spec.upper_bytes = uint64_t{5} << 33;
  spec.tmp_bytes = 7;
  spec.shm_bytes = 8;
  Overlay overlay;
  overlay.target = "/usr";
  overlay.lowers = {"/a", "/b"};
  overlay.over_host = overlay.report = true;
  overlay.mkdirs = {"sub/dir"};
  Overlay owned;
  owned.target = "/tmp/app";
  owned.writable = owned.owned = true;
  spec.overlays = {overlay, owned};
  Controls& controls = spec.controls;
  controls = Controls::of(FilterBase::kStrict);
  controls.seccomp.rules.allow = {"ptrace"};
  controls.seccomp.rules.deny = {"kill", ""};
  controls.seccomp.rules.guards = kGuardTerminal;
  controls.signals = Want::kPrefer;
  controls.files = {Want::kRequire, {"/"}, {"/tmp", "/dev"}};
  controls.ports = {Want::kPrefer, {443, 65535}, {8080}};
  controls.memory_bytes = {Want::kRequire, uint64_t{3} << 33};
  controls.io_weight = {Want::kPrefer, 10};
  controls.resources.push_back({7, 1, ~uint64_t{0}});
  controls.devices = {Want::kPrefer, {"/dev/fuse"}};
  spec.binds = {{"/from", "/to", true, false, false}, {"/x", "/y", false, true, true}};
  return spec;
}

TEST(SpecWire, CarriesAllThatACallerMayChoose) {
  Result<Spec> read = decode(encode(full()));
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->argv, full().argv);
  EXPECT_EQ(read->env, full().env);
  EXPECT_EQ(read->cwd, "/tmp/x");
  EXPECT_EQ(read->root, Root::kShared);
  EXPECT_TRUE(read->same_pid);
  EXPECT_TRUE(read->new_session);
  EXPECT_EQ(read->network, Network::kEgress);
  EXPECT_EQ(read->destinations, full().destinations);
  EXPECT_EQ(read->umask, 027u);
  EXPECT_EQ(read->upper_bytes, uint64_t{5} << 33);
  ASSERT_EQ(read->overlays.size(), 2u);
  EXPECT_EQ(read->overlays[0].lowers, full().overlays[0].lowers);
  EXPECT_EQ(read->overlays[0].mkdirs, full().overlays[0].mkdirs);
  EXPECT_TRUE(read->overlays[0].over_host && read->overlays[0].report && read->overlays[1].owned);
  EXPECT_FALSE(read->overlays[0].writable || read->overlays[0].owned);
  ASSERT_EQ(read->binds.size(), 2u);
  EXPECT_TRUE(read->binds[0].writable && read->binds[1].optional && read->binds[1].owned);
  EXPECT_EQ(read->controls.seccomp.rules, full().controls.seccomp.rules);
  EXPECT_EQ(read->controls.files.write, full().controls.files.write);
  EXPECT_EQ(read->controls.ports.connect, (std::vector<uint32_t>{443, 65535}));
  EXPECT_EQ(read->controls.memory_bytes.value, uint64_t{3} << 33);
  EXPECT_EQ(read->controls.hide_pid, Want::kRequire);
  ASSERT_EQ(read->controls.resources.size(), 2u);
  EXPECT_EQ(read->controls.resources[1].hard, ~uint64_t{0});
  EXPECT_EQ(read->controls.devices.paths, (std::vector<std::string>{"/dev/fuse"}));
  EXPECT_EQ(encode(*read), encode(full()));
}

TEST(SpecWire, LeavesOutWhatACallerMayNot) {
  Spec spec = full();
  spec.user = User{0, 0, {}};
  spec.caller = User{0, 0, {}};
  spec.keep_caps = true;
  spec.leases = {0};
  spec.controls.seccomp.program = "12345678";
  spec.overlays[0].upper = spec.overlays[0].work = "/somewhere";
  Result<Spec> read = decode(encode(spec));
  ASSERT_TRUE(read.ok());
  EXPECT_FALSE(read->user || read->caller || read->keep_caps);
  EXPECT_TRUE(read->leases.empty() && read->controls.seccomp.program.empty() &&
              read->overlays[0].upper.empty());
}

TEST(SpecWire, RefusesEveryPieceOfADocument) {
  std::string bytes = encode(full());
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode(bytes.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(decode(bytes + '\0').ok());
  EXPECT_FALSE(decode(std::string(kMostSpecBytes + 1, 'x')).ok());
}

std::string mutated(std::string bytes, std::mt19937_64& random) {
  for (size_t changes = 1 + random() % 4; changes > 0; --changes) {
    size_t at = random() % bytes.size();
    switch (random() % 4) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes.erase(at, random() % 8);
        break;
      case 2:
        bytes.insert(at, std::string(random() % 8, static_cast<char>(random())));
        break;
      default:  // a length that promises much
        bytes.replace(at, std::min<size_t>(4, bytes.size() - at), "\xff\xff\xff\x7f", 4);
    }
    if (bytes.empty()) bytes = "x";
  }
  return bytes;
}

TEST(SpecWire, WhatIsAcceptedHasOneSpelling) {
  std::mt19937_64 random(20261123);
  const std::string valid = encode(full());
  int accepted = 0;
  for (int i = 0; i < 200000; ++i) {
    std::string bytes = mutated(valid, random);
    Result<Spec> read = decode(bytes);
    if (!read) continue;
    ++accepted;
    ASSERT_EQ(encode(*read), bytes);
  }
  EXPECT_GT(accepted, 1000) << "the test sees the inside as well";
}

TEST(Wire, ListsCantPromiseMoreThanIsThere) {
  Writer out;
  out.number(1u << 30);
  std::string bytes = out.take();
  Reader in(bytes);
  EXPECT_TRUE(in.texts().empty());
  EXPECT_FALSE(in.ok());
}

TEST(Line, CarriesMessagesAndADescriptor) {
  auto [caller, pid1] = std::move(make_line().value());
  ASSERT_TRUE(check_line(pid1.get()).ok());
  ASSERT_TRUE(send_line(pid1.get(), LineMessage::kStarted, 0, STDIN_FILENO).ok());
  ASSERT_TRUE(send_line(pid1.get(), LineMessage::kEnded, -7).ok());
  UniqueFd fd;
  auto first = receive_line(caller.get(), &fd);
  ASSERT_TRUE(first.ok() && first->has_value());
  EXPECT_EQ((*first)->kind, LineMessage::kStarted);
  EXPECT_TRUE(fd.valid());
  EXPECT_EQ((*receive_line(caller.get(), nullptr))->value, -7);
  // It ends with something of ours unread: what it said is not lost.
  ASSERT_TRUE(send_line(caller.get(), LineMessage::kSignal, 15).ok());
  ASSERT_TRUE(send_line(pid1.get(), LineMessage::kEnded, 3).ok());
  pid1.reset();
  EXPECT_EQ((*receive_line(caller.get(), nullptr))->value, 3);
  auto end = receive_line(caller.get(), nullptr);
  EXPECT_TRUE(end.ok() && !end->has_value());
}

TEST(Line, IsAUnixSeqpacketWithWholeMessages) {
  int fds[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
  UniqueFd a(fds[0]), b(fds[1]);
  EXPECT_FALSE(check_line(a.get()).ok());
  EXPECT_FALSE(check_line(STDERR_FILENO).ok());
  auto [caller, pid1] = std::move(make_line().value());
  ASSERT_EQ(::send(caller.get(), "0123456789abcdef", 16, 0), 16);
  EXPECT_FALSE(receive_line(pid1.get(), nullptr).ok());
  ASSERT_EQ(::send(caller.get(), "\2\0\0\0\4\0\0\0\7\0\0\0", 12, 0), 12);
  EXPECT_EQ(receive_line(pid1.get(), nullptr).error().code, EPROTO) << "of another version";
}

}  // namespace
}  // namespace rtlaunch::isolation
