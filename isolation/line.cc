#include "isolation/line.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace rtlaunch::isolation {
namespace {

union Control {
  char bytes[CMSG_SPACE(sizeof(int))];
  struct cmsghdr align;
};

void put_little(uint32_t value, unsigned char* at) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<unsigned char>(value >> (8 * i));
}

uint32_t get_little(const unsigned char* at) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value |= uint32_t{at[i]} << (8 * i);
  return value;
}

void attach(int fd, Control* control, struct msghdr* header) {
  header->msg_control = control->bytes;
  header->msg_controllen = sizeof control->bytes;
  struct cmsghdr* rights = CMSG_FIRSTHDR(header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
}

UniqueFd attached(struct msghdr* header) {
  struct cmsghdr* rights = CMSG_FIRSTHDR(header);
  if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS) return {};
  int fd;
  std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
  return UniqueFd(fd);
}

Error bad_message(const char* reason) { return Error{"line", EPROTO, "", reason, "", 125}; }

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> make_line() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return sys_error("socketpair", "line");
  }
  return std::pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

Status check_line(int line) {
  int type = 0, domain = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(line, SOL_SOCKET, SO_TYPE, &type, &size) != 0 ||
      ::getsockopt(line, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) {
    return sys_error("line", "");
  }
  if (type != SOCK_SEQPACKET || domain != AF_UNIX) return bad_message("it is no unix seqpacket");
  return {};
}

Status send_line(int line, LineMessage::Kind kind, int value, int fd) {
  unsigned char bytes[12];
  put_little(LineMessage::kVersion, bytes);
  put_little(kind, bytes + 4);
  put_little(static_cast<uint32_t>(value), bytes + 8);
  struct iovec part = {bytes, sizeof bytes};
  struct msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Control control = {};
  if (fd >= 0) attach(fd, &control, &header);
  while (::sendmsg(line, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno != EINTR) return sys_error("line", "");
  }
  return {};
}

Result<std::optional<LineMessage>> receive_line(int line, UniqueFd* fd) {
  unsigned char bytes[16];
  struct iovec part = {bytes, sizeof bytes};
  struct msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Control control = {};
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof control.bytes;
  ssize_t size;
  while ((size = ::recvmsg(line, &header, MSG_CMSG_CLOEXEC)) < 0) {
    // ECONNRESET, once: the other side ended with something of ours unread; what it sent is here.
    if (errno != EINTR && errno != ECONNRESET) return sys_error("line", "");
  }
  UniqueFd received = attached(&header);
  if (size == 0) return std::optional<LineMessage>();
  if (size != 12) return bad_message("a message of another length");
  LineMessage message{get_little(bytes), get_little(bytes + 4),
                      static_cast<int32_t>(get_little(bytes + 8))};
  if (message.version != LineMessage::kVersion) return bad_message("a message of another version");
  if (fd != nullptr && received.valid()) *fd = std::move(received);
  return std::optional<LineMessage>(message);
}

}  // namespace rtlaunch::isolation
