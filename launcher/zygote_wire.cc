#include "launcher/zygote_wire.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cstdlib>

#include "isolation/sys/files.h"
#include "isolation/sys/message.h"
#include "isolation/wire.h"

namespace rtlaunch {
namespace {

constexpr char kVersion[] = "rtlaunch zygote 1";
constexpr size_t kFixed = 7;

std::vector<int> fds_of(const ZygoteRequest& request) {
  std::vector<int> fds = {request.mounts.get(), request.processes.get(), request.document.get(),
                          request.input,        request.output,          request.error,
                          request.line.get()};
  if (request.record >= 0) fds.push_back(request.record);
  fds.insert(fds.end(), request.leases.begin(), request.leases.end());
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
  if (fds.size() > sys::kMostFdsInMessage)
    return refused("it has more layers than a packet has descriptors");
  auto sent = sys::send_message(socket, bytes, fds, MSG_DONTWAIT);
  if (sent) return {};
  return Error{"zygote", sent.error().code, "send", "", "", 125};
}

Result<ZygoteRequest> receive_zygote_request(int socket) {
  char bytes[256];
  auto came = sys::receive_message(socket, bytes, sizeof bytes, sys::kMostFdsInMessage);
  if (!came) return Error{"zygote", came.error().code, "receive", "", "", 125};
  if (came->bytes_cut || came->fds_cut) return refused("it is too long");
  return decode({bytes, came->size}, std::move(came->fds));
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
