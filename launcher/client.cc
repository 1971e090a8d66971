#include "launcher/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "launcher/report.h"

namespace rtlaunch {
namespace {

using Json = config::Json;

constexpr int64_t kPatience = 10'000'000;  // for a daemon that comes back, microseconds
constexpr int64_t kAbsence = 1'000'000;    // for a socket that isn't there
constexpr int kAnswerMs = 10'000;
constexpr int kFirstWaitMs = 5, kLongestWaitMs = 200;

constexpr std::string_view kHello = R"({"op":"hello","version":1,"client":"rtlaunch 0.1.0"})";

Error daemon_error(int code, const std::string& socket, std::string reason, std::string cure) {
  return Error{"rtlaunchd", code, socket, std::move(reason), std::move(cure), 125};
}

Error connect_error(int code, const std::string& socket) {
  if (code == EACCES || code == EPERM) {
    return daemon_error(code, socket, "this socket is not open to you",
                        "ask the admin for access, or run without a daemon: --embedded");
  }
  return daemon_error(code, socket, "no daemon answers at this socket",
                      "start rtlaunchd, name its socket with --socket, or run without: --embedded");
}

Error hung_up(const std::string& socket) {
  return daemon_error(ECONNRESET, socket, "the daemon hung up", "try again");
}

Error nonsense(const std::string& socket) {
  return daemon_error(EPROTO, socket, "answered something that is no answer",
                      "install rtlaunch and rtlaunchd of one version");
}

}  // namespace

Result<Client> Client::connect(const std::string& socket, Signals& signals, bool patiently) {
  Client client(socket, signals);
  while (true) {
    Status opened = client.open();
    if (opened) break;
    bool may_come = opened.error().code == ECONNREFUSED || opened.error().code == ENOENT;
    if (!patiently || !may_come) return opened.error();
    TRY(client.wait_a_little(opened.error()));
  }
  client.succeeded();
  return client;
}

Status Client::open() {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof address.sun_path) {
    return daemon_error(ENAMETOOLONG, path_, "too long for a socket's name",
                        "choose a shorter one with --socket");
  }
  std::memcpy(address.sun_path, path_.data(), path_.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return sys_error("socket", path_);
  if (::connect(socket.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) != 0) {
    return connect_error(errno, path_);
  }
  socket_ = std::move(socket);
  frames_ = protocol::FrameReader(protocol::kMaxFrame);
  said_hello_ = greeted_ = false;
  return {};
}

void Client::assume(const std::string& store, const std::string& plugins) {
  if (greeted_) return;
  store_ = store;
  plugins_ = plugins;
}

void Client::hang_up() {
  socket_.reset();
  owed_ = false;
}

Status Client::send_all(std::string_view bytes, const std::vector<int>& fds) {
  for (size_t done = 0; done < bytes.size();) {
    auto sent = protocol::send_with_fds(socket_.get(), bytes.substr(done),
                                        done == 0 ? fds : std::vector<int>());
    if (!sent) return hang_up(), hung_up(path_);
    done += *sent;
  }
  return {};
}

Status Client::greet() {
  if (broken() || std::exchange(said_hello_, true)) return {};
  return send_all(protocol::framed(kHello), {});
}

// Descriptors go with the first byte of their frame, so hello is then a packet of its own.
Status Client::send(const Json& request, const std::vector<int>& fds) {
  if (owed_) hang_up();
  if (broken()) TRY(open());
  owed_ = true;
  if (!fds.empty()) TRY(greet());
  std::string hello = std::exchange(said_hello_, true) ? "" : protocol::framed(kHello);
  std::string frame =
      protocol::framed(request.dump(-1, ' ', false, Json::error_handler_t::replace));
  return send_all(hello + frame, fds);
}

Status Client::take_hello(const Json& frame) {
  greeted_ = true;
  if (auto refusal = refusal_of(frame)) return refusal->error;
  store_ = frame.value("store", "");
  plugins_ = frame.value("plugins", "");
  return {};
}

// Blocking sockets: MSG_DONTWAIT here is what makes the difference.
Result<std::optional<Json>> Client::take() {
  while (true) {
    auto text = frames_.next();
    if (!text) return hang_up(), nonsense(path_);
    if (*text) {
      Json frame = Json::parse(**text, nullptr, false);
      if (!frame.is_object()) return hang_up(), nonsense(path_);
      if (greeted_) {
        if (!frame.contains("event")) owed_ = false;
        return std::optional<Json>(std::move(frame));
      }
      Status hello = take_hello(frame);
      if (!hello) return hang_up(), hello.error();
      continue;
    }
    char buffer[16384];
    ssize_t count = ::recv(socket_.get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return std::optional<Json>();
    if (count <= 0) return hang_up(), hung_up(path_);
    frames_.feed({buffer, static_cast<size_t>(count)});
  }
}

std::optional<protocol::Refusal> Client::refusal_of(const Json& frame) {
  if (frame.value("ok", false)) return std::nullopt;
  protocol::Refusal refusal;
  Json error = frame.value("error", Json::object());
  refusal.error = {error.value("step", "rtlaunchd"), error.value("errno", 0),
                   error.value("object", ""),        error.value("reason", "it failed"),
                   error.value("cure", ""),          error.value("exit_code", 125)};
  refusal.again = error.value("again", false);
  return refusal;
}

Status Client::check_signals() {
  while (auto caught = signals_->next()) {
    int number = caught->number;
    if (number != SIGINT && number != SIGTERM && number != SIGHUP) continue;
    Error error =
        make_error("rtlaunch", "", "interrupted by signal " + std::to_string(number), "run again");
    error.exit_code = 128 + number;
    return error;
  }
  return {};
}

// With -1, just waits. False when the time is up.
Result<bool> Client::wait_for_fd(int fd, int timeout_ms) {
  struct pollfd polls[2] = {{fd, POLLIN, 0}, {signals_->fd(), POLLIN, 0}};
  int ready = ::poll(polls, 2, timeout_ms);
  if (ready < 0 && errno != EINTR) return sys_error("poll", "rtlaunchd");
  if (ready > 0 && polls[1].revents != 0) TRY(check_signals());
  return ready != 0;
}

Status Client::wait_readable(bool for_ever) {
  bool ready = TRY(wait_for_fd(socket_.get(), for_ever ? -1 : kAnswerMs));
  if (ready) return {};
  hang_up();
  return daemon_error(ETIMEDOUT, path_, "the daemon doesn't answer",
                      "see its log; run without it: --embedded");
}

Result<Json> Client::next() {
  while (true) {
    std::optional<Json> frame = TRY(take());
    if (frame) return std::move(*frame);
    TRY(wait_readable(false));
  }
}

Result<Json> Client::ask_once(const Json& request, const std::vector<int>& fds,
                              const OnEvent& event, bool for_ever) {
  again_ = true;  // until the daemon itself has said something
  TRY(send(request, fds));
  while (true) {
    std::optional<Json> frame = TRY(take());
    if (!frame) {
      Status waited = wait_readable(for_ever);
      again_ = waited.ok();
      TRY(std::move(waited));
    } else if (frame->contains("event")) {
      if (event) event(*frame);
    } else if (auto refusal = refusal_of(*frame)) {
      again_ = refusal->again;
      return refusal->error;
    } else {
      return std::move(*frame);
    }
  }
}

Result<Json> Client::ask(const Json& request, const std::vector<int>& fds, const OnEvent& event,
                         bool for_ever) {
  while (true) {
    auto answer = ask_once(request, fds, event, for_ever);
    if (answer) {
      succeeded();
      return answer;
    }
    if (!again_ || answer.error().code == EPROTO) return answer.error();
    TRY(wait_a_little(answer.error()));
  }
}

Status Client::wait_a_little(const Error& last) {
  int64_t now = now_microseconds();
  if (tries_++ == 0) tries_since_ = now;
  int64_t patience = last.code == ENOENT ? kAbsence : kPatience;
  if (now - tries_since_ >= patience) {
    Error error = last;
    if (last.code != ENOENT) error.cure = "try again; if it stays, see the daemon's log";
    return error;
  }
  int wait = std::min(kLongestWaitMs, kFirstWaitMs << std::min(tries_, 6));
  TRY(wait_for_fd(-1, wait));
  return {};
}

}  // namespace rtlaunch
