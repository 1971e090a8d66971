#include "launcher/notify.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>

namespace rtlaunch {
namespace {

constexpr int kFirstSocket = 3;
constexpr int64_t kMostSockets = 16;

std::string take_variable(const char* name) {
  const char* value = ::getenv(name);
  std::string text = value != nullptr ? value : "";
  ::unsetenv(name);
  return text;
}

std::optional<int64_t> number_in(const std::string& text) {
  int64_t number = 0;
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  bool whole = code == std::errc() && end == text.data() + text.size();
  return whole && number >= 0 ? std::optional<int64_t>(number) : std::nullopt;
}

bool is_for_us(const std::string& pid) { return number_in(pid) == int64_t{::getpid()}; }

}  // namespace

Notify Notify::from_environment() {
  Notify notify;
  notify.address_ = take_variable("NOTIFY_SOCKET");
  std::string interval = take_variable("WATCHDOG_USEC"), pid = take_variable("WATCHDOG_PID");
  bool path = notify.address_.starts_with('/') || notify.address_.starts_with('@');
  if (!path || notify.address_.size() >= sizeof(sockaddr_un::sun_path)) return notify;
  if (notify.address_[0] == '@') notify.address_[0] = '\0';  // the abstract namespace, unix(7)
  notify.socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (pid.empty() || is_for_us(pid)) notify.watchdog_us_ = number_in(interval).value_or(0);
  return notify;
}

void Notify::send(const std::string& message) {
  if (!socket_.valid()) return;
  struct sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  std::memcpy(to.sun_path, address_.data(), address_.size());
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  (void)::sendto(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL,
                 reinterpret_cast<struct sockaddr*>(&to), size);
}

void Notify::reloading() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  send("RELOADING=1\nMONOTONIC_USEC=" +
       std::to_string(int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000));
}

std::vector<UniqueFd> inherited_sockets() {
  std::string pid = take_variable("LISTEN_PID"), count = take_variable("LISTEN_FDS");
  ::unsetenv("LISTEN_FDNAMES");
  std::vector<UniqueFd> sockets;
  int64_t most = std::min(number_in(count).value_or(0), kMostSockets);
  if (!is_for_us(pid)) return sockets;
  for (int fd = kFirstSocket; fd < kFirstSocket + most; ++fd) {
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) sockets.emplace_back(fd);
  }
  return sockets;
}

}  // namespace rtlaunch
