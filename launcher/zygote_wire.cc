#include "launcher/zygote_wire.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "isolation/sys/files.h"
#include "isolation/wire.h"

namespace rtlaunch {
namespace {

constexpr char kVersion[] = "rtlaunch zygote 1";
constexpr size_t kMostFds = 253;  // SCM_MAX_FD
constexpr size_t kFixed = 7;

union Control {
  char bytes[CMSG_SPACE(sizeof(int) * kMostFds)];
  struct cmsghdr align;
};

std::vector<int> fds_of(const ZygoteRequest& request) {
  std::vector<int> fds = {request.mounts.get(), request.processes.get(), request.document.get(),
                          request.input,        request.output,          request.error,
                          request.line.get()};
  if (request.record >= 0) fds.push_back(request.record);
  fds.insert(fds.end(), request.leases.begin(), request.leases.end());
  return fds;
}

std::vector<UniqueFd> received(struct msghdr* header) {
  std::vector<UniqueFd> fds;
  struct cmsghdr* rights = CMSG_FIRSTHDR(header);
  if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS) return fds;
  size_t count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  for (size_t i = 0; i < count; ++i) {
    int fd;
    std::memcpy(&fd, CMSG_DATA(rights) + i * sizeof fd, sizeof fd);
    fds.emplace_back(fd);
  }
  return fds;
}

Error refused(const char* reason) { return make_error("zygote", "request", reason); }

Result<ZygoteRequest> decode(std::string_view bytes, std::vector<UniqueFd> fds) {
  isolation::Reader in(bytes);
  ZygoteRequest request;
  bool known = in.text() == kVersion;
  request.bare = in.flag();
  size_t recorded = in.flag() ? 1 : 0;
  request.blocked = in.long_number();
  if (!known || !in.done()) return refused("it is of another version");
  if (fds.size() < kFixed + recorded) return refused("a descriptor is missing");
  request.mounts = std::move(fds[0]);
  request.processes = std::move(fds[1]);
  request.document = std::move(fds[2]);
  request.input = fds[3].release();
  request.output = fds[4].release();
  request.error = fds[5].release();
  request.line = std::move(fds[6]);
  if (recorded) request.record = fds[kFixed].release();
  for (size_t i = kFixed + recorded; i < fds.size(); ++i) {
    request.leases.push_back(fds[i].release());
  }
  return request;
}

}  // namespace

Status send_zygote_request(int socket, const ZygoteRequest& request) {
  isolation::Writer out;
  out.text(kVersion).flag(request.bare).flag(request.record >= 0).long_number(request.blocked);
  std::string bytes = out.take();
  std::vector<int> fds = fds_of(request);
  if (fds.size() > kMostFds) return refused("it has more layers than a packet has descriptors");
  struct iovec part = {bytes.data(), bytes.size()};
  struct msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Control control = {};
  header.msg_control = control.bytes;
  header.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
  struct cmsghdr* rights = CMSG_FIRSTHDR(&header);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
  std::memcpy(CMSG_DATA(rights), fds.data(), sizeof(int) * fds.size());
  if (::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return {};
  return sys_error("zygote", "send");
}

Result<ZygoteRequest> receive_zygote_request(int socket) {
  char bytes[256];
  struct iovec part = {bytes, sizeof bytes};
  struct msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Control control = {};
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof control.bytes;
  ssize_t size = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  if (size < 0) return sys_error("zygote", "receive");
  std::vector<UniqueFd> fds = received(&header);
  if (header.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) return refused("it is too long");
  return decode({bytes, static_cast<size_t>(size)}, std::move(fds));
}

std::string started_answer(const ZygoteAnswer& answer) {
  std::string text = "+" + std::to_string(answer.pid1);
  for (const isolation::Applied& one : answer.applied) {
    text += std::string("\n") + (one.applied ? '+' : '-') + isolation::control_name(one.control);
    if (!one.applied) text += " " + one.why;
  }
  return text;
}

ZygoteAnswer parse_answer(std::string_view text) {
  ZygoteAnswer answer;
  if (!text.starts_with("+")) return answer;
  answer.pid1 = std::atoi(std::string(text.substr(1)).c_str());
  for (size_t at; (at = text.find('\n')) != text.npos;) {
    text.remove_prefix(at + 1);
    std::string_view line = text.substr(0, text.find('\n'));
    size_t space = std::min(line.find(' '), line.size());
    auto control = isolation::control_named(line.substr(std::min<size_t>(1, space), space - 1));
    std::string why(line.substr(std::min(space + 1, line.size())));
    if (control) answer.applied.push_back({*control, line.starts_with("+"), std::move(why)});
  }
  return answer;
}

Result<UniqueFd> own_namespace(const char* name) {
  return sys::open_at(AT_FDCWD, std::string("/proc/self/ns/") + name, O_RDONLY);
}

}  // namespace rtlaunch
