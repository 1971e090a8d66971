#include "isolation/sys/message.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace rtlaunch::sys {
namespace {

// Aligned as cmsg(3) wants it.
union Control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int) * kMostFdsInMessage)];
};

struct msghdr message_of(struct iovec* part) {
  struct msghdr message = {};
  message.msg_iov = part;
  message.msg_iovlen = 1;
  return message;
}

void attach(const std::vector<int>& fds, Control* control, struct msghdr* message) {
  if (fds.empty()) return;
  size_t size = sizeof(int) * fds.size();
  message->msg_control = control->bytes;
  message->msg_controllen = CMSG_SPACE(size);
  struct cmsghdr* rights = CMSG_FIRSTHDR(message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(size);
  std::memcpy(CMSG_DATA(rights), fds.data(), size);
}

std::vector<UniqueFd> take(struct msghdr* message) {
  std::vector<UniqueFd> fds;
  for (auto* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

Result<size_t> send_message(int socket, std::string_view bytes, const std::vector<int>& fds,
                            int flags) {
  if (fds.size() > kMostFdsInMessage) return Error{"send", E2BIG, "descriptors", "", "", 125};
  struct iovec part = {const_cast<char*>(bytes.data()), bytes.size()};
  struct msghdr message = message_of(&part);
  Control control = {};
  attach(fds, &control, &message);
  ssize_t sent;
  while ((sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | flags)) < 0) {
    if (errno != EINTR) return sys_error("send", "socket");
  }
  return static_cast<size_t>(sent);
}

Result<Received> receive_message(int socket, void* buffer, size_t size, size_t most_fds,
                                 int flags) {
  struct iovec part = {buffer, size};
  struct msghdr message = message_of(&part);
  Control control = {};
  message.msg_control = control.bytes;
  message.msg_controllen = CMSG_SPACE(sizeof(int) * std::min(most_fds, kMostFdsInMessage));
  ssize_t count;
  while ((count = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags)) < 0) {
    if (errno != EINTR) return sys_error("receive", "socket");
  }
  Received received;
  received.size = static_cast<size_t>(count);
  received.fds = take(&message);
  received.bytes_cut = (message.msg_flags & MSG_TRUNC) != 0;
  received.fds_cut = (message.msg_flags & MSG_CTRUNC) != 0;
  return received;
}

}  // namespace rtlaunch::sys
