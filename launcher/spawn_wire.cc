#include "launcher/spawn_wire.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <iterator>

#include "isolation/sys/message.h"
#include "isolation/wire.h"

namespace rtlaunch {
namespace {

using isolation::Reader;
using isolation::Writer;

constexpr size_t kMostFds = 8, kRequestHead = 8 + 4 + 1;

Error nonsense(const char* what) { return Error{"spawner", EPROTO, what, "", "", 125}; }

// The descriptors of a request, in the order they are sent.
constexpr UniqueFd SpawnRequest::*kFds[] = {
    &SpawnRequest::document, &SpawnRequest::input,  &SpawnRequest::output, &SpawnRequest::error,
    &SpawnRequest::line,     &SpawnRequest::record, &SpawnRequest::hold,   &SpawnRequest::target};

void write_user(const isolation::User& user, Writer* out) {
  out->number(user.uid).number(user.gid).number(static_cast<uint32_t>(user.groups.size()));
  for (gid_t group : user.groups) out->number(group);
}

isolation::User read_user(Reader* in) {
  isolation::User user{in->number(), in->number(), {}};
  size_t count = in->count(4);
  for (size_t i = 0; i < count; ++i) user.groups.push_back(in->number());
  // -1 means "leave as it is" to setresuid(2).
  if (user.uid == static_cast<uid_t>(-1) || user.gid == static_cast<gid_t>(-1)) in->fail();
  return user;
}

// The kernel's masks are whole words (sched_setaffinity(2)).
void write_mask(const std::string& mask, Writer* out) {
  out->number(static_cast<uint32_t>(mask.size() / 8));
  for (size_t at = 0; at + 8 <= mask.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, mask.data() + at, sizeof word);
    out->long_number(word);
  }
}

std::string read_mask(Reader* in) {
  std::string mask;
  for (size_t left = in->count(8); left > 0 && in->ok(); --left) {
    uint64_t word = in->long_number();
    mask.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  return mask;
}

void write_limits(const std::optional<sys::Limits>& limits, Writer* out) {
  out->flag(limits.has_value());
  if (!limits) return;
  out->number(static_cast<uint32_t>(limits->resources.size()));
  for (const auto& [soft, hard] : limits->resources) out->long_number(soft).long_number(hard);
  write_mask(limits->cpus, out);
  out->number(limits->policy).number(limits->priority).number(limits->io);
  out->number(static_cast<uint32_t>(limits->nice)).flag(limits->reset_on_fork);
  out->number(static_cast<uint32_t>(limits->oom_score));
}

std::optional<sys::Limits> read_limits(Reader* in) {
  if (!in->flag()) return std::nullopt;
  sys::Limits limits;
  for (size_t left = in->count(16); left > 0 && in->ok(); --left) {
    uint64_t soft = in->long_number();
    limits.resources.push_back({soft, in->long_number()});
  }
  limits.cpus = read_mask(in);
  limits.policy = in->number();
  limits.priority = in->number();
  limits.io = in->number();
  limits.nice = static_cast<int32_t>(in->number());
  limits.reset_on_fork = in->flag();
  limits.oom_score = static_cast<int32_t>(in->number());
  return limits;
}

void read_entitled(Reader* in, std::vector<store::Digest>* entitled) {
  for (std::string& hex : in->texts()) {
    if (!store::is_hex64(hex)) in->fail();
    entitled->push_back({std::move(hex)});
  }
}

// Which are there, by bit, then they in order.
bool take_fds(uint32_t present, std::vector<UniqueFd> fds, SpawnRequest* request) {
  size_t next = 0;
  for (size_t i = 0; i < std::size(kFds); ++i) {
    if ((present >> i & 1) == 0) continue;
    if (next == fds.size()) return false;
    request->*kFds[i] = std::move(fds[next++]);
  }
  return next == fds.size() && present >> std::size(kFds) == 0;
}

void write_error(const Error& error, Writer* out) {
  out->text(error.step).number(static_cast<uint32_t>(error.code)).text(error.object);
  out->text(error.reason).text(error.cure).number(static_cast<uint32_t>(error.exit_code));
}

isolation::Applied read_applied(Reader* in) {
  uint32_t control = in->number();
  if (control >= static_cast<uint32_t>(isolation::Control::kCount)) in->fail();
  bool applied = in->flag();
  return {static_cast<isolation::Control>(in->ok() ? control : 0), applied, in->text()};
}

Error read_error(Reader* in) {
  Error error;
  error.step = in->text();
  error.code = static_cast<int>(in->number());
  error.object = in->text();
  error.reason = in->text();
  error.cure = in->text();
  error.exit_code = static_cast<int>(in->number());
  return error;
}

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> make_spawner_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return sys_error("socketpair", "spawner");
  }
  std::pair<UniqueFd, UniqueFd> pair{UniqueFd(fds[0]), UniqueFd(fds[1])};
  int size = 2 * kMostPacket;
  for (int fd : fds) {
    if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) == 0) continue;
    (void)::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);  // as much as we may
  }
  return pair;
}

Status send_packet(int socket, std::string_view bytes, const std::vector<int>& fds) {
  auto sent = sys::send_message(socket, bytes, fds, MSG_DONTWAIT);
  if (sent) return {};
  int code = sent.error().code == ECONNRESET ? EPIPE : sent.error().code;
  return Error{"spawner", code, "send", "", "", 125};
}

Result<std::optional<Packet>> receive_packet(int socket) {
  ssize_t size = ::recv(socket, nullptr, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return std::optional<Packet>();
  if (size < 0 && errno != ECONNRESET) return sys_error("spawner", "receive");
  if (size <= 0) return Error{"spawner", EPIPE, "", "it is gone", "", 125};
  Packet packet;
  packet.bytes.resize(static_cast<size_t>(size));
  auto came = sys::receive_message(socket, packet.bytes.data(), packet.bytes.size(), kMostFds,
                                   MSG_DONTWAIT);
  if (!came) return Error{"spawner", came.error().code, "receive", "", "", 125};
  packet.fds = std::move(came->fds);
  if (came->fds_cut || came->size != packet.bytes.size()) return nonsense("a part was lost");
  return std::optional<Packet>(std::move(packet));
}

Result<std::optional<RequestHead>> peek_request(int socket) {
  char bytes[kRequestHead];
  ssize_t size = ::recv(socket, bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return std::optional<RequestHead>();
  if (size < 0 && errno != ECONNRESET) return sys_error("spawner", "receive");
  if (size <= 0) return Error{"spawner", EPIPE, "", "it is gone", "", 125};
  Reader in(std::string_view(bytes, static_cast<size_t>(size)));
  RequestHead head;
  head.id = in.long_number();
  head.kind = static_cast<SpawnRequest::Kind>(in.number());
  head.may_hang = in.flag() && in.ok();
  return std::optional<RequestHead>(head);
}

void drop_request(int socket) { (void)::recv(socket, nullptr, 0, MSG_DONTWAIT); }

std::string encode_request(const SpawnRequest& request, std::vector<int>* fds) {
  Writer out;
  out.long_number(request.id).number(static_cast<uint32_t>(request.kind));
  out.flag(request.may_hang);  // up to here: RequestHead
  write_user(request.caller, &out);
  out.number(request.owner);
  out.number(static_cast<uint32_t>(request.entitled.size()));
  for (const store::Digest& digest : request.entitled) out.text(digest.hex);
  out.texts(request.arguments).text(request.shield).flag(request.idle);
  out.flag(request.way_out);
  write_limits(request.limits, &out);
  uint32_t present = 0;
  for (size_t i = 0; i < std::size(kFds); ++i) {
    const UniqueFd& fd = request.*kFds[i];
    if (!fd.valid()) continue;
    present |= 1u << i;
    fds->push_back(fd.get());
  }
  out.number(present);
  return out.take();
}

Result<SpawnRequest> decode_request(Packet packet) {
  Reader in(packet.bytes);
  SpawnRequest request;
  request.id = in.long_number();
  uint32_t kind = in.number();
  if (kind > static_cast<uint32_t>(SpawnRequest::Kind::kBuild)) in.fail();
  request.kind = static_cast<SpawnRequest::Kind>(kind);
  request.may_hang = in.flag();
  request.caller = read_user(&in);
  request.owner = in.number();
  read_entitled(&in, &request.entitled);
  request.arguments = in.texts();
  request.shield = in.text();
  request.idle = in.flag();
  request.way_out = in.flag();
  request.limits = read_limits(&in);
  uint32_t present = in.number();
  if (!in.done() || !take_fds(present, std::move(packet.fds), &request)) {
    return nonsense("a request that makes no sense");
  }
  return request;
}

std::string encode_reply(const SpawnReply& reply) {
  Writer out;
  out.long_number(reply.id).number(static_cast<uint32_t>(reply.kind));
  out.number(static_cast<uint32_t>(reply.pid)).number(static_cast<uint32_t>(reply.status));
  out.text(reply.cgroup).number(static_cast<uint32_t>(reply.steps.size()));
  for (const isolation::Sandbox::Step& step : reply.steps) {
    out.text(step.name).long_number(static_cast<uint64_t>(step.microseconds));
  }
  out.number(static_cast<uint32_t>(reply.applied.size()));
  for (const isolation::Applied& one : reply.applied) {
    out.number(static_cast<uint32_t>(one.control)).flag(one.applied).text(one.why);
  }
  write_error(reply.error, &out);
  return out.take();
}

Result<SpawnReply> decode_reply(Packet packet) {
  Reader in(packet.bytes);
  SpawnReply reply;
  reply.id = in.long_number();
  uint32_t kind = in.number();
  if (kind > static_cast<uint32_t>(SpawnReply::Kind::kEnded)) in.fail();
  reply.kind = static_cast<SpawnReply::Kind>(kind);
  reply.pid = static_cast<pid_t>(in.number());
  reply.status = static_cast<int>(in.number());
  reply.cgroup = in.text();
  size_t steps = in.count(12);
  for (size_t i = 0; i < steps; ++i) {
    std::string name = in.text();
    reply.steps.push_back({std::move(name), static_cast<int64_t>(in.long_number())});
  }
  for (size_t left = in.count(4 + 1 + 4); left > 0 && in.ok(); --left) {
    reply.applied.push_back(read_applied(&in));
  }
  reply.error = read_error(&in);
  if (!in.done() || packet.fds.size() > 1) return nonsense("a reply that makes no sense");
  if (!packet.fds.empty()) reply.pidfd = std::move(packet.fds.front());
  return reply;
}

}  // namespace rtlaunch
