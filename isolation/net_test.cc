// What a network of its own keeps apart, each beside a control run in which it isn't.
#include "isolation/net.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "isolation/sandbox_testing.h"

namespace rtlaunch::isolation {
namespace {

Spec python(const std::string& script, Network network) {
  Spec spec = shell("");
  spec.argv = {"python3", "-c", "import socket, sys\n" + script};
  spec.network = network;
  return spec;
}

// A server of the host's, on 127.0.0.1 and the port in its name.
struct Server {
  Server() : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    struct sockaddr_in address = {};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
    auto* general = reinterpret_cast<struct sockaddr*>(&address);
    if (::bind(fd.get(), general, size) != 0 || ::listen(fd.get(), 8) != 0 ||
        ::getsockname(fd.get(), general, &size) != 0) {
      std::abort();
    }
    port = ::ntohs(address.sin_port);
  }
  UniqueFd fd;
  uint16_t port;
};

SANDBOX_TEST(AServerOfTheHostIsOutOfReach) {
  Server server;
  std::string dial = "socket.create_connection(('127.0.0.1', " + std::to_string(server.port) + "))";
  EXPECT_EQ(run(python(dial, Network::kHost)).code(), 0);
  Outcome refused = run(python(dial, Network::kNone));
  ASSERT_TRUE(refused.started) << refused.error.message();
  EXPECT_NE(refused.output.find("ConnectionRefusedError"), std::string::npos) << refused.output;
}

SANDBOX_TEST(AnAbstractSocketOfTheHostIsOutOfReach) {
  UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  std::string name = "rtlaunch-net-test-" + std::to_string(::getpid());
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, name.size());
  auto size = static_cast<socklen_t>(offsetof(struct sockaddr_un, sun_path) + 1 + name.size());
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<struct sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(server.get(), 8), 0);
  std::string dial = "socket.socket(socket.AF_UNIX).connect('\\0" + name + "')";
  EXPECT_EQ(run(python(dial, Network::kHost)).code(), 0);
  EXPECT_EQ(run(python(dial, Network::kNone)).code(), 1);
}

SANDBOX_TEST(ThereIsNothingButLoopback) {
  std::string look = "print(*(name for _, name in socket.if_nameindex()))";
  EXPECT_EQ(run(python(look, Network::kNone)).output, "lo\n");
  std::string far = "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 9))";
  Outcome lost = run(python(far, Network::kNone));
  EXPECT_NE(lost.output.find("Network is unreachable"), std::string::npos) << lost.output;
}

SANDBOX_TEST(WhatIsInsideReachesItself) {
  Outcome outcome = run(python(R"(
for family, host in (socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1'):
    server = socket.create_server((host, 0), family=family)
    socket.create_connection(server.getsockname()[:2])
    print(host))",
                               Network::kNone));
  EXPECT_EQ(outcome.output, "127.0.0.1\n::1\n");
}

SANDBOX_TEST(ThroughTheDoorOneTalksWithWhoStandsOutside) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd ours(pair[0]), theirs(pair[1]);
  pid_t forwarder = ::fork();
  if (forwarder == 0) {
    Result<UniqueFd> listener = receive_listener(ours.get());
    int guest = listener ? ::accept(listener->get(), nullptr, nullptr) : -1;
    ::_exit(::write(guest, "from outside", 12) == 12 ? 0 : 1);
  }
  std::string port = std::to_string(kDoorPort);
  Spec spec = python("print(socket.create_connection(('127.0.0.1', " + port + ")).recv(99))",
                     Network::kNone);
  spec.listener_to = theirs.get();
  EXPECT_EQ(run(spec).output, "b'from outside'\n");
  int status = -1;
  ::waitpid(forwarder, &status, 0);
  EXPECT_EQ(status, 0);
}

SANDBOX_TEST(TheSocketOfTheDoorStaysOutside) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd ours(pair[0]), theirs(pair[1]);
  Spec spec = python("import os; print(len(os.listdir('/proc/self/fd')))", Network::kNone);
  spec.listener_to = theirs.get();
  EXPECT_EQ(run(spec).output, "4\n");  // 0, 1, 2 and the folder itself
}

ROOT_TEST(AGivenNetworkIsJoined) {
  UniqueFd own(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
  UniqueFd given(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  std::string name = std::filesystem::read_symlink("/proc/self/ns/net");
  ASSERT_EQ(::setns(own.get(), CLONE_NEWNET), 0);
  Spec spec = shell("readlink /proc/self/ns/net");
  spec.network = Network::kJoined;
  spec.network_fd = given.get();
  EXPECT_EQ(run(spec).output, name + "\n");
  spec.network = Network::kHost;
  EXPECT_NE(run(spec).output, name + "\n");
}

}  // namespace
}  // namespace rtlaunch::isolation
