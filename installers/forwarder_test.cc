// What a build can say to its forwarder. The test stands inside, as pid 1 of a sandbox would: it
// hands out a listening socket, and talks to it with as few manners as it likes.
#include "installers/forwarder.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

namespace rtlaunch::installers {
namespace {

struct Listener {
  Listener() : fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    struct sockaddr_in address = {};
    socklen_t size = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
    auto* general = reinterpret_cast<struct sockaddr*>(&address);
    if (::bind(fd.get(), general, size) != 0 || ::listen(fd.get(), 64) != 0 ||
        ::getsockname(fd.get(), general, &size) != 0) {
      std::abort();
    }
    port = ::ntohs(address.sin_port);
  }
  UniqueFd accept(int timeout_ms) const {
    struct pollfd polled = {fd.get(), POLLIN, 0};
    if (::poll(&polled, 1, timeout_ms) <= 0) return {};
    return UniqueFd(::accept(fd.get(), nullptr, nullptr));
  }
  UniqueFd fd;
  uint16_t port;
};

UniqueFd dial(uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  address.sin_port = ::htons(port);
  if (::connect(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) != 0)
    std::abort();
  return fd;
}

void say(int fd, const std::string& text) {
  (void)!::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
}

// Until there is `part` in it, or the end, or nothing for a while.
std::string hear(int fd, const std::string& part = "", int timeout_ms = 10'000) {
  std::string text;
  char buffer[4096];
  while (part.empty() || text.find(part) == std::string::npos) {
    struct pollfd polled = {fd, POLLIN, 0};
    if (::poll(&polled, 1, timeout_ms) <= 0) break;
    ssize_t size = ::recv(fd, buffer, sizeof buffer, 0);
    if (size <= 0) break;
    text.append(buffer, size_t(size));
  }
  return text;
}

class Inside : public testing::Test {
 protected:
  void SetUp() override {
    WayOut way_out;
    way_out.named = {{"127.0.0.1", server_.port}};
    auto started = Forwarder::start(way_out);
    ASSERT_TRUE(started.ok()) << started.error().message();
    forwarder_.emplace(std::move(started.value()));
    hand_out();
  }
  void hand_out() {
    alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    char byte = 0;
    struct iovec part = {&byte, 1};
    struct msghdr header = {};
    header.msg_iov = &part, header.msg_iovlen = 1;
    header.msg_control = control, header.msg_controllen = sizeof control;
    struct cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET, rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    int fd = door_.fd.get();
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    ASSERT_EQ(::sendmsg(forwarder_->listener_to(), &header, 0), 1);
  }
  std::string place() const { return "127.0.0.1:" + std::to_string(server_.port); }
  // What comes back for it; nothing may arrive at the server.
  std::string refusal(const std::string& text) {
    UniqueFd guest = dial(door_.port);
    say(guest.get(), text);
    std::string answer = hear(guest.get());
    EXPECT_FALSE(server_.accept(0).valid()) << text;
    return answer.substr(0, answer.find("\r\n"));
  }

  Listener server_, door_;
  std::optional<Forwarder> forwarder_;
};

TEST_F(Inside, ATunnelCarriesBytesBothWays) {
  UniqueFd guest = dial(door_.port);
  say(guest.get(), "CONNECT " + place() + " HTTP/1.1\r\nHost: x\r\n\r\nearly ");
  UniqueFd server = server_.accept(10'000);
  ASSERT_TRUE(server.valid());
  EXPECT_EQ(hear(guest.get(), "\r\n\r\n"), "HTTP/1.1 200 Connection established\r\n\r\n");
  say(guest.get(), "bytes");
  EXPECT_EQ(hear(server.get(), "bytes"), "early bytes");
  std::string much(3 << 20, 'x');
  std::thread sender([&] { say(server.get(), much), ::shutdown(server.get(), SHUT_WR); });
  EXPECT_EQ(hear(guest.get()), much);
  sender.join();
  say(guest.get(), "still");  // the other half is open
  EXPECT_EQ(hear(server.get(), "still"), "still");
  guest.reset();
  EXPECT_EQ(hear(server.get()), "");
}

// As frames of HTTP/2: the second must not wait until the first is acknowledged, which takes 40 ms
// once the kernel has seen a few of them.
TEST_F(Inside, SmallFramesAreNotHeldBack) {
  using std::chrono::steady_clock;
  UniqueFd guest = dial(door_.port);
  say(guest.get(), "CONNECT " + place() + " HTTP/1.1\r\nHost: x\r\n\r\n");
  UniqueFd server = server_.accept(10'000);
  ASSERT_TRUE(server.valid());
  ASSERT_NE(hear(guest.get(), "\r\n\r\n"), "");
  int on = 1;
  ASSERT_EQ(::setsockopt(server.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
  std::vector<steady_clock::duration> rounds;
  for (int round = 0; round < 41; ++round) {
    auto began = steady_clock::now();
    say(guest.get(), "question");
    ASSERT_EQ(hear(server.get(), "question"), "question");
    say(server.get(), "head");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    say(server.get(), "body");
    ASSERT_EQ(hear(guest.get(), "body"), "headbody");
    rounds.push_back(steady_clock::now() - began);
  }
  std::nth_element(rounds.begin(), rounds.begin() + 20, rounds.end());
  EXPECT_LT(rounds[20], std::chrono::milliseconds(30));
}

TEST_F(Inside, PlainHttpIsAskedAnew) {
  UniqueFd guest = dial(door_.port);
  std::string url = "http://" + place() + "/a/../b?c";
  say(guest.get(), "GET " + url +
                       " HTTP/1.1\r\nHost: evil.example\r\nProxy-Authorization: Basic x\r\n"
                       "Connection: X-Hop\r\nX-Own: y\r\nAccept: z\r\n\r\n"
                       "GET http://second.example/ HTTP/1.1\r\n\r\n");
  UniqueFd server = server_.accept(10'000);
  ASSERT_TRUE(server.valid());
  std::string asked = hear(server.get(), "\r\n\r\n");
  EXPECT_TRUE(asked.starts_with("GET /a/../b?c HTTP/1.1\r\nHost: " + place() + "\r\n")) << asked;
  EXPECT_NE(asked.find("X-Own: y\r\n"), std::string::npos);
  EXPECT_NE(asked.find("Accept: z\r\n"), std::string::npos);
  for (const char* gone : {"evil", "Proxy-", "second", "X-Hop"})
    EXPECT_EQ(asked.find(gone), std::string::npos) << asked;
  say(server.get(),
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
  std::string answer = hear(guest.get());
  EXPECT_EQ(answer, "HTTP/1.1 200 OK\r\nX-A: b\r\nConnection: close\r\n\r\nabc");
  EXPECT_EQ(hear(server.get(), "", 200).find("second"), std::string::npos);
}

TEST_F(Inside, OtherPlacesAreRefusedAndRemembered) {
  for (const std::string& other :
       {"127.0.0.1:" + std::to_string(server_.port + 1),
        std::string("localhost:") + std::to_string(server_.port), std::string("evil.example:443"),
        std::string("169.254.169.254:80"), std::string("[::1]:443")}) {
    EXPECT_EQ(refusal("CONNECT " + other + " HTTP/1.1\r\nUser-Agent: a\tb\r\n\r\n"),
              "HTTP/1.1 403 Forbidden");
    EXPECT_EQ(refusal("GET http://" + other + "/ HTTP/1.1\r\n\r\n"), "HTTP/1.1 403 Forbidden");
    std::vector<Mishap> mishaps = forwarder_->mishaps();
    ASSERT_EQ(mishaps.size(), 2u) << other;
    EXPECT_TRUE(mishaps[0].refused);
    EXPECT_EQ(mishaps[0].place, other);
    EXPECT_EQ(mishaps[0].agent, "a b");
  }
}

TEST_F(Inside, WhatHasTwoReadingsIsRefused) {
  const std::string get = "GET http://" + place() + "/ HTTP/1.1\r\n", end = "\r\n\r\n";
  for (const std::string& odd : {"GET http://" + place() + "\\@evil.example/ HTTP/1.1" + end,
                                 "GET http://" + place() + "@evil.example/ HTTP/1.1" + end,
                                 "GET  http://" + place() + "/ HTTP/1.1" + end,
                                 "GET http://" + place() + "/ x HTTP/1.1" + end,
                                 "GET https://" + place() + "/ HTTP/1.1" + end,
                                 "GET file:///etc/passwd HTTP/1.1" + end,
                                 "GET /relative HTTP/1.1" + end,
                                 "CONNECT http://" + place() + "/ HTTP/1.1" + end,
                                 "CONNECT " + place() + "/ HTTP/1.1" + end,
                                 "CONNECT x@" + place() + " HTTP/1.1" + end,
                                 "GET http://" + place() + "/ HTTP/2.0" + end,
                                 get + "A : b" + end,
                                 get + " folded: x" + end,
                                 get + "A: b\nC: d" + end,
                                 get + "A: b\rC: d" + end,
                                 get + std::string("A: \0b", 5) + end,
                                 std::string("\r\n\r\n"),
                                 "PUT http://" + place() + "/ HTTP/1.1" + end,
                                 get + "Transfer-Encoding: chunked" + end,
                                 get + "Content-Length: 1, 1" + end,
                                 get + "Content-Length: -1" + end,
                                 get + "Content-Length: 99999999999999999999" + end}) {
    std::string answer = refusal(odd);
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 4")) << odd << ": " << answer;
  }
}

TEST_F(Inside, NoiseEndsNothing) {
  std::mt19937 random(7);
  const std::string words[] = {"CONNECT ",
                               "GET http://",
                               "127.0.0.1:80",
                               " HTTP/1.1",
                               "\r\n",
                               "\r\n\r\n",
                               "Content-Length: ",
                               "9",
                               ":",
                               "@",
                               "[",
                               "]",
                               std::string(1, '\0'),
                               "\xff"};
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (unsigned n = random() % 12; n > 0; --n) text += words[random() % std::size(words)];
    UniqueFd guest = dial(door_.port);
    say(guest.get(), text);
  }
  EXPECT_EQ(refusal("CONNECT evil.example:443 HTTP/1.1\r\n\r\n"), "HTTP/1.1 403 Forbidden");
}

TEST_F(Inside, TheNextSandboxHasADoorOfItsOwn) {
  door_ = Listener();
  hand_out();
  EXPECT_EQ(refusal("CONNECT evil.example:443 HTTP/1.1\r\n\r\n"), "HTTP/1.1 403 Forbidden");
}

TEST_F(Inside, ItEndsWithItsOwner) {
  UniqueFd guest = dial(door_.port);
  say(guest.get(), "CONNECT " + place() + " HTTP/1.1\r\n\r\n");
  UniqueFd server = server_.accept(10'000);
  ASSERT_TRUE(server.valid());
  Forwarder moved = std::move(*forwarder_);
  forwarder_.reset();
  say(guest.get(), "x");
  EXPECT_EQ(hear(server.get(), "x"), "x");
  moved = Forwarder(std::move(moved));  // and onto itself
  { Forwarder ended = std::move(moved); }
  EXPECT_EQ(hear(server.get()), "");
}

}  // namespace
}  // namespace rtlaunch::installers
