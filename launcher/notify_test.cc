#include "launcher/notify.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace rtlaunch {
namespace {

TEST(Notify, SaysItInTheAbstractNamespaceToo) {
  std::string name = "@rtlaunch-notify-test-" + std::to_string(::getpid());
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data() + 1, name.size() - 1);
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<struct sockaddr*>(&address), size), 0);
  ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
  ::setenv("WATCHDOG_USEC", "2000000", 1);
  ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  Notify notify = Notify::from_environment();
  EXPECT_EQ(::getenv("NOTIFY_SOCKET"), nullptr);  // not for our children
  EXPECT_EQ(notify.watchdog_us(), 2'000'000);
  notify.ready();
  char buffer[100];
  ssize_t count = ::recv(socket.get(), buffer, sizeof buffer, 0);
  EXPECT_EQ(std::string(buffer, static_cast<size_t>(count)), "READY=1");
}

TEST(Notify, IsSilentWithoutAManager) {
  for (const char* place : {"", "relative", "@"}) {
    ::setenv("NOTIFY_SOCKET", place, 1);
    Notify notify = Notify::from_environment();
    notify.ready();
    notify.watchdog();
    EXPECT_EQ(notify.watchdog_us(), 0);
  }
}

TEST(Notify, TheWatchdogOfAnotherProcessIsNotOurs) {
  ::setenv("NOTIFY_SOCKET", "/nonexistent", 1);
  ::setenv("WATCHDOG_USEC", "2000000", 1);
  ::setenv("WATCHDOG_PID", std::to_string(::getpid() + 1).c_str(), 1);
  EXPECT_EQ(Notify::from_environment().watchdog_us(), 0);
}

TEST(InheritedSockets, OfAnotherProcessAreNotOurs) {
  ::setenv("LISTEN_PID", std::to_string(::getpid() + 1).c_str(), 1);
  ::setenv("LISTEN_FDS", "1", 1);
  EXPECT_TRUE(inherited_sockets().empty());
  EXPECT_EQ(::getenv("LISTEN_FDS"), nullptr);
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("LISTEN_FDS", "nonsense", 1);
  EXPECT_TRUE(inherited_sockets().empty());
}

}  // namespace
}  // namespace rtlaunch
