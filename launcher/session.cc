#include "launcher/session.h"

#include <sys/socket.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "launcher/session_ops.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;

constexpr auto kToGreet = seconds(5), kToFinishFrame = seconds(10), kToTakeAnswer = seconds(30);
constexpr auto kIdle = std::chrono::minutes(5);
constexpr auto kEver = std::chrono::hours(24 * 365);
constexpr auto kJustNow = milliseconds(20);
constexpr size_t kGreeting = 4096;  // the longest frame of who hasn't said hello

Error gone() { return Error{"protocol", EPIPE, "", "the client has gone", ""}; }
Error slow() { return Error{"protocol", ETIMEDOUT, "", "nothing came in time", "connect again"}; }

Error stray_descriptors() {
  return Error{"protocol", EINVAL, "descriptors", "more came than the request has",
               "see launcher/protocol.h of this version"};
}

}  // namespace

struct Session::Watch {
  explicit Watch(std::function<void()> call) : gone(std::move(call)) {}
  std::function<void()> gone;
  bool over = false;
  std::shared_ptr<Watched> process;
};

Session::Session(Server& server, UniqueFd socket, Peer peer, uint64_t number)
    : server_(server),
      socket_(server.io(), std::move(socket)),
      peer_(std::move(peer)),
      number_(number),
      connection_(server.connections(), peer_.user.uid),
      bytes_(server.bytes(), peer_.user.uid),
      descriptors_(server.descriptors(), peer_.user.uid),
      frames_(kGreeting) {
  (void)connection_.resize(1);
}

std::string Session::request_id() const {
  return std::to_string(number_) + "." + std::to_string(requests_);
}

awaitable<void> serve(std::shared_ptr<Session> session) {
  bool more = co_await session->greet();
  while (more) more = co_await session->serve_one();
  session->close();
}

awaitable<bool> Session::greet() {
  auto incoming = co_await receive(kToGreet);
  if (!incoming) {
    if (incoming.error().code != EPIPE)
      (void)co_await send(protocol::error_answer(incoming.error(), false));
    co_return false;
  }
  const protocol::Request& hello = incoming->request;
  if (hello.op != protocol::Op::kHello) {
    Error error{"protocol", EPROTO, protocol::name_of(hello.op), "came before hello", "say hello"};
    (void)co_await send(protocol::error_answer(error, false));
    co_return false;
  }
  if (hello.version != protocol::kVersion) {
    (void)co_await send(wrong_version(hello.version));
    co_return false;
  }
  frames_.allow(protocol::kMaxFrame);
  std::string answer = hello_answer(server_);
  if (!frames_.has_frame()) {
    bool sent = co_await send(std::move(answer));
    look_at_limits();
    co_return sent;
  }
  outbox_ = protocol::framed(answer);  // goes with the next: one packet, one wake-up of the client
  co_return true;
}

// While the client is at its first request, which may be a start.
void Session::look_at_limits() {
  auto limits = limits_of_client();
  if (!limits) return;
  limits_ = std::move(*limits);
  looked_ = Clock::now();
}

Result<sys::Limits> Session::limits_of_client() {
  bool just_now = limits_ && Clock::now() - looked_ < kJustNow;
  return limits_of_peer(socket_.fd(), peer_, just_now ? &*limits_ : nullptr);
}

awaitable<bool> Session::serve_one() {
  auto incoming = co_await receive(kIdle);
  if (!incoming) {
    const Error& error = incoming.error();
    if (error.code == EPIPE) co_return false;
    server_.metrics().count("rtlaunch_failures_total", {{"class", "protocol"}});
    server_.journal().say(Level::kDebug, "refused",
                          facts_of(error, {.request = request_id(), .uid = peer_.user.uid}));
    bool told = co_await send(protocol::error_answer(error, error.code == EAGAIN));
    // A request that is wrong in itself leaves the stream whole; all else doesn't.
    co_return told&& error.code == EINVAL&& fds_.empty();
  }
  std::string answer = co_await carry_out(*this, std::move(*incoming));
  co_return co_await send(std::move(answer));
}

awaitable<Result<Incoming>> Session::receive(Clock::duration idle) {
  auto until = Clock::now() + idle;
  bool begun = false;
  while (true) {
    auto taken = take_frame();
    if (!taken) co_return taken.error();
    if (*taken) co_return std::move(**taken);
    if (!begun && frames_.in_frame()) {
      begun = true;
      until = Clock::now() + std::min<Clock::duration>(idle, kToFinishFrame);
    }
    auto left = until - Clock::now();
    if (left <= Clock::duration::zero()) co_return slow();
    if (!co_await socket_.wait(Watched::kRead, left)) continue;
    auto read = read_some();
    if (!read) co_return read.error();
    if (!*read) co_return gone();
  }
}

// False at the end.
Result<bool> Session::read_some() {
  static char buffer[64 << 10];  // one thread, and nothing waits while it is in use
  if (!socket_.valid()) return false;
  auto count = protocol::receive_with_fds(socket_.fd(), buffer, sizeof buffer, &fds_);
  if (!count && count.error().code == EAGAIN) return true;
  if (!count) {
    drop_descriptors();
    return count.error();
  }
  if (*count == 0) return false;
  frames_.feed(std::string_view(buffer, *count));
  bool fits = bytes_.resize(frames_.held()) && descriptors_.resize(fds_.size());
  if (fits) return true;
  return Error{"protocol", EAGAIN, "", "too much is under way for this user", "try again"};
}

Result<std::optional<Incoming>> Session::take_frame() {
  auto text = TRY(frames_.next());
  (void)bytes_.resize(frames_.held());
  if (!text) return std::optional<Incoming>();
  ++requests_;
  Incoming incoming(server_.closer(), peer_.user.uid);
  incoming.request = TRY(protocol::parse_request(*text));
  size_t wanted = protocol::fds_of(incoming.request.op);
  if (fds_.size() < wanted) {
    return Error{
        "protocol", EBADMSG, "descriptors",
        std::to_string(wanted) + " belong to the request, " + std::to_string(fds_.size()) + " came",
        "see launcher/protocol.h of this version"};
  }
  if (fds_.size() > wanted && !frames_.in_frame()) {
    drop_descriptors();
    return stray_descriptors();
  }
  for (size_t i = 0; i < wanted; ++i) incoming.fds.push_back(std::move(fds_[i]));
  fds_.erase(fds_.begin(), fds_.begin() + static_cast<long>(wanted));
  (void)descriptors_.resize(fds_.size());
  return std::optional<Incoming>(std::move(incoming));
}

void Session::drop_descriptors() {
  server_.closer().close(peer_.user.uid, std::move(fds_));
  fds_.clear();
  (void)descriptors_.resize(0);
}

bool Session::flush() {
  while (!outbox_.empty() && socket_.valid()) {
    auto sent = protocol::send_with_fds(socket_.fd(), outbox_, {});
    if (!sent && sent.error().code == EAGAIN) return false;
    if (!sent) {
      socket_.close();
      return false;
    }
    outbox_.erase(0, *sent);
  }
  return outbox_.empty();
}

void Session::offer(const std::string& json) {
  if (!flush()) {
    server_.metrics().count("rtlaunch_events_dropped_total");
    return;
  }
  outbox_ = protocol::framed(json);
  (void)flush();
}

awaitable<bool> Session::send(std::string json) {
  outbox_ += protocol::framed(json);
  auto until = Clock::now() + kToTakeAnswer;
  while (socket_.valid() && !flush()) {
    auto left = until - Clock::now();
    if (left <= Clock::duration::zero()) socket_.close();
    (void)co_await socket_.wait(Watched::kWrite, left);
  }
  outbox_.shrink_to_fit();
  co_return socket_.valid();
}

// Waits for what shouldn't come while a request is under way: bytes, or the end of file.
awaitable<void> Session::watch_socket(std::shared_ptr<Session> self, std::shared_ptr<Watch> watch) {
  bool ready = false;
  while (!watch->over && !ready && self->socket_.valid()) {
    ready = co_await self->socket_.wait(Watched::kRead, kEver);
  }
  if (!watch->over) watch->gone();
}

// A client may die and leave copies of its socket to others, who would not know what to do with it.
awaitable<void> Session::watch_process(std::shared_ptr<Watch> watch) {
  auto process = watch->process;
  bool dead = false;
  while (!watch->over && !dead && process->valid()) {
    dead = co_await process->wait(Watched::kRead, kEver);
  }
  if (!watch->over) watch->gone();
}

void Session::watch_client(std::function<void()> gone_away) {
  watch_ = std::make_shared<Watch>(std::move(gone_away));
  spawn(server_.io(), watch_socket(shared_from_this(), watch_));
  UniqueFd pidfd = pidfd_of_peer(socket_.fd());
  if (!pidfd.valid()) return;
  watch_->process = std::make_shared<Watched>(server_.io(), std::move(pidfd));
  spawn(server_.io(), watch_process(watch_));
}

void Session::stop_watching() {
  if (!watch_) return;
  watch_->over = true;
  if (watch_->process) watch_->process->close();
  socket_.wake();
  watch_.reset();
}

}  // namespace rtlaunch
