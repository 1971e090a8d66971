#include "isolation/line.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "isolation/sys/message.h"

namespace rtlaunch::isolation {
namespace {

void put_little(uint32_t value, unsigned char* at) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<unsigned char>(value >> (8 * i));
}

uint32_t get_little(const unsigned char* at) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value |= uint32_t{at[i]} << (8 * i);
  return value;
}

Error failed(const Error& error) { return Error{"line", error.code, "", "", "", 125}; }
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
  std::vector<int> fds;
  if (fd >= 0) fds.push_back(fd);
  auto sent =
      sys::send_message(line, {reinterpret_cast<char*>(bytes), sizeof bytes}, fds, MSG_DONTWAIT);
  return sent ? Status() : Status(failed(sent.error()));
}

Result<std::optional<LineMessage>> receive_line(int line, UniqueFd* fd) {
  unsigned char bytes[16];
  Result<sys::Received> came = sys::receive_message(line, bytes, sizeof bytes, 1);
  // Once: the other side ended with something of ours unread; what it sent is here.
  while (!came && came.error().code == ECONNRESET) {
    came = sys::receive_message(line, bytes, sizeof bytes, 1);
  }
  if (!came) return failed(came.error());
  if (came->size == 0) return std::optional<LineMessage>();
  if (came->size != 12) return bad_message("a message of another length");
  LineMessage message{get_little(bytes), get_little(bytes + 4),
                      static_cast<int32_t>(get_little(bytes + 8))};
  if (message.version != LineMessage::kVersion) return bad_message("a message of another version");
  if (fd != nullptr && !came->fds.empty()) *fd = std::move(came->fds.front());
  return std::optional<LineMessage>(message);
}

}  // namespace rtlaunch::isolation
