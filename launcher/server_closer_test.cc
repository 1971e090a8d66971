#include "launcher/server_closer.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>

namespace rtlaunch {
namespace {

// Its last close(2) waits `seconds`: there is data that the other end doesn't take.
UniqueFd lingering(int seconds, UniqueFd& other) {
  UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* any = reinterpret_cast<struct sockaddr*>(&address);
  EXPECT_EQ(::bind(listener.get(), any, size), 0);
  EXPECT_EQ(::listen(listener.get(), 1), 0);
  EXPECT_EQ(::getsockname(listener.get(), any, &size), 0);
  UniqueFd ours(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(ours.get(), any, size), 0);
  other.reset(::accept(listener.get(), nullptr, nullptr));
  struct linger linger = {1, seconds};
  EXPECT_EQ(::setsockopt(ours.get(), SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
  std::string data(1 << 16, 'x');
  while (::send(ours.get(), data.data(), data.size(), MSG_DONTWAIT) > 0) {
  }
  return ours;
}

std::vector<UniqueFd> list_of(UniqueFd fd) {
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(fd));
  return fds;
}

TEST(Closer, WhatHangsHangsAlone) {
  Closer closer;
  UniqueFd other;
  auto began = std::chrono::steady_clock::now();
  closer.close(1000, list_of(lingering(3, other)));
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd ours(ends[0]);
  closer.close(1001, list_of(UniqueFd(ends[1])));
  struct pollfd hung_up = {ours.get(), 0, 0};
  EXPECT_EQ(::poll(&hung_up, 1, 1500), 1);  // another user's is closed meanwhile
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(2));
}

TEST(Closer, AUserWithTooManyHasNoRoom) {
  Closer closer;
  UniqueFd other;
  std::vector<UniqueFd> fds = list_of(lingering(2, other));
  for (size_t i = 0; i < Closer::kMostWaiting; ++i) {
    fds.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }
  EXPECT_TRUE(closer.has_room(1000));
  closer.close(1000, std::move(fds));
  EXPECT_FALSE(closer.has_room(1000));
  EXPECT_TRUE(closer.has_room(1001));
  for (int i = 0; i < 100 && !closer.has_room(1000); ++i) ::usleep(50'000);
  EXPECT_TRUE(closer.has_room(1000));
}

TEST(Closer, WhatCanNotHangIsClosedAtOnce) {
  Closer closer;
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd ours(ends[0]);
  closer.close(1000, list_of(UniqueFd(ends[1])));
  EXPECT_LT(::fcntl(ends[1], F_GETFD), 0);
}

}  // namespace
}  // namespace rtlaunch
