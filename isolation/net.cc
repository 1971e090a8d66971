#include "isolation/net.h"

#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace rtlaunch::isolation {
namespace {

constexpr int kBacklog = 128;

Result<UniqueFd> tcp_socket() {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return sys_error("socket", "tcp");
  return fd;
}

// With it 127.0.0.1 and ::1 are there.
Status raise_loopback() {
  UniqueFd fd = TRY(tcp_socket());
  struct ifreq request = {};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (::ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return sys_error("network", "lo");
  return {};
}

Result<UniqueFd> listen_inside() {
  UniqueFd fd = TRY(tcp_socket());
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kDoorPort);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return sys_error("network", "127.0.0.1:" + std::to_string(kDoorPort));
  }
  return fd;
}

struct Packet {
  char byte = 0;
  struct iovec part = {&byte, 1};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  struct msghdr header = {};

  Packet() {
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
};

Status send_listener(int socket, int listener) {
  Packet packet;
  struct cmsghdr* rights = CMSG_FIRSTHDR(&packet.header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof listener);
  std::memcpy(CMSG_DATA(rights), &listener, sizeof listener);
  while (::sendmsg(socket, &packet.header, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return sys_error("network", "its forwarder");
  }
  return {};
}

Status open_door(int listener_to) {
  if (listener_to < 0) return {};
  UniqueFd listener = TRY(listen_inside());
  return send_listener(listener_to, listener.get());
}

Status enter_own(const Spec& spec) {
  if (::unshare(CLONE_NEWNET) != 0) return sys_error("network", "a namespace of its own");
  TRY(raise_loopback());
  return open_door(spec.listener_to);
}

Status join(int network) {
  if (::setns(network, CLONE_NEWNET) == 0) return {};
  return sys_error("network", "the one that it was given");
}

}  // namespace

Status enter_network(const Spec& spec) {
  switch (spec.network) {
    case Network::kHost:
      return {};
    case Network::kNone:
      return enter_own(spec);
    case Network::kJoined:
      return join(spec.network_fd);
  }
  std::abort();
}

Result<UniqueFd> receive_listener(int socket) {
  Packet packet;
  ssize_t size;
  while ((size = ::recvmsg(socket, &packet.header, MSG_CMSG_CLOEXEC)) < 0) {
    if (errno != EINTR) return sys_error("network", "its door");
  }
  struct cmsghdr* rights = size > 0 ? CMSG_FIRSTHDR(&packet.header) : nullptr;
  UniqueFd listener;
  if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS) return listener;
  int fd;
  std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  listener.reset(fd);
  return listener;
}

}  // namespace rtlaunch::isolation
