#include "launcher/server_spawner.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch {
namespace {

constexpr auto kLongEnough = seconds(5);  // a spawner that lived so long is no loop
constexpr auto kFirstBackOff = milliseconds(20);
constexpr auto kMostBackOff = seconds(5);
constexpr rlim_t kUsualDescriptors = 65536;  // it holds one a worker
constexpr auto kEver = std::chrono::hours(24 * 365);

Error again(const std::string& reason) { return Error{"spawner", EAGAIN, "", reason, "try again"}; }

Error no_room() { return again("it has too much to do"); }

// What became of a request that could not be sent.
Error unsent(Error error) {
  if (error.code == EAGAIN) return no_room();
  if (error.code == EPIPE || error.code == ECONNRESET) return again("it has just died");
  return error;
}

// Our very many descriptors are no business of the workers, which inherit the spawner's limits.
void lower_limits(int pidfd) {
  auto text = sys::read_file("/proc/self/fdinfo/" + std::to_string(pidfd), 4096);
  size_t at = text ? text->find("Pid:") : std::string::npos;
  pid_t pid = at == std::string::npos ? 0 : std::atoi(text->c_str() + at + 4);
  struct rlimit limit = {};
  if (pid <= 0 || ::prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(kUsualDescriptors, limit.rlim_max);
  (void)::prlimit(pid, RLIMIT_NOFILE, &limit, nullptr);
}

UniqueFd copy_of(int fd) { return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

// What a client has sent; a builder's are our own.
std::vector<UniqueFd> clients_descriptors(SpawnRequest& request) {
  std::vector<UniqueFd> fds;
  if (request.kind == SpawnRequest::Kind::kBuild) return fds;
  for (UniqueFd* fd :
       {&request.document, &request.input, &request.output, &request.error, &request.line}) {
    fds.push_back(std::move(*fd));
  }
  return fds;
}

}  // namespace

awaitable<Result<SpawnReply>> Asked::next(Clock::duration most) {
  auto until = Clock::now() + most;
  while (replies_.empty()) {
    auto left = until - Clock::now();
    if (left <= Clock::duration::zero()) {
      co_return Error{"spawner", ETIMEDOUT, "", "gave no answer in time", "try again"};
    }
    co_await bell_.wait(left);
  }
  Result<SpawnReply> reply = std::move(replies_.front());
  replies_.pop_front();
  co_return reply;
}

void Asked::give(Result<SpawnReply> reply) {
  replies_.push_back(std::move(reply));
  bell_.ring();
}

Spawners::Spawners(asio::io_context& io, SpawnerConfig config, Journal& journal, Metrics& metrics,
                   Closer& closer)
    : io_(io), config_(std::move(config)), journal_(journal), metrics_(metrics), closer_(closer) {}

Status Spawners::start() {
  spawner_ = TRY(Spawner::run(config_));
  lower_limits(spawner_->pidfd());
  started_ = heard_ = Clock::now();
  ++generation_;
  replies_ = std::make_shared<Watched>(io_, copy_of(spawner_->fd()));
  room_ = std::make_shared<Watched>(io_, copy_of(spawner_->fd()));
  spawn(io_, serve(generation_));
  return {};
}

void Spawners::stop() {
  stopping_ = true;
  if (!spawner_) return;
  fail_all("rtlaunchd is being restarted");
  spawner_.reset();  // it hears the end of its connection, and ends
}

// Each has a copy in the packet by now, or never will.
void Spawners::let_go(SpawnRequest& request) {
  closer_.close(request.caller.uid, clients_descriptors(request));
}

// Once whoever asked has been told.
awaitable<void> Spawners::let_go_soon(std::shared_ptr<Asked> asked) {
  co_await let_others_run(io_);
  give_up(*asked);
}

Result<std::shared_ptr<Asked>> Spawners::ask(SpawnRequest request) {
  request.id = ++last_id_;
  auto asked = std::make_shared<Asked>(io_);
  asked->starts_ = request.kind == SpawnRequest::Kind::kStart;
  Status sent = queue_.empty() ? try_send(request) : Status(no_room());
  bool full = !sent.ok() && sent.error().code == EAGAIN && spawner_;
  if (full && queue_.size() < kMostQueued) {
    queue_.push_back(std::move(request));
    if (queue_.size() == 1) spawn(io_, send_queued(generation_));
  } else if (sent.ok()) {
    asked->uid_ = request.caller.uid;
    asked->held_ = clients_descriptors(request);
  } else {
    let_go(request);
    return sent.error();
  }
  asked_[last_id_] = asked;
  return asked;
}

Status Spawners::try_send(const SpawnRequest& request) {
  if (!spawner_) return again("it is being restarted");
  Status sent = spawner_->send(request);
  if (sent.ok()) return sent;
  return unsent(std::move(sent.error()));
}

awaitable<void> Spawners::send_queued(uint64_t generation) {
  auto room = room_;
  while (generation == generation_ && spawner_ && !queue_.empty()) {
    co_await room->wait(Watched::kWrite, seconds(1));
    if (generation != generation_ || !spawner_ || queue_.empty()) co_return;
    Status sent = spawner_->send(queue_.front());
    if (!sent.ok() && sent.error().code == EAGAIN) continue;
    let_go(queue_.front());
    if (!sent.ok()) {
      auto asked = asked_.find(queue_.front().id);
      if (asked != asked_.end()) {
        asked->second->give(unsent(std::move(sent.error())));
        asked_.erase(asked);
      }
    }
    queue_.pop_front();
  }
}

awaitable<void> Spawners::serve(uint64_t generation) {
  auto replies = replies_;
  while (generation == generation_ && spawner_) {
    co_await replies->wait(Watched::kRead, kEver);
    if (generation != generation_ || !spawner_) co_return;
    if (!take_replies()) co_return;
  }
}

// False when it is gone.
bool Spawners::take_replies() {
  while (spawner_) {
    auto reply = spawner_->receive();
    if (!reply) {
      died(reply.error().message());
      return false;
    }
    if (!*reply) return true;
    take(std::move(**reply));
  }
  return false;
}

void Spawners::take(SpawnReply reply) {
  heard_ = Clock::now();
  auto asked = asked_.find(reply.id);
  if (asked == asked_.end()) return;  // whoever asked has given up
  std::shared_ptr<Asked> kept = asked->second;
  if (reply.kind != SpawnReply::Kind::kStarted || kept->starts_) asked_.erase(asked);
  kept->give(std::move(reply));
  if (!kept->held_.empty()) spawn(io_, let_go_soon(std::move(kept)));
}

void Spawners::fail_all(const std::string& why) {
  replies_->close();
  room_->close();
  for (SpawnRequest& request : queue_) let_go(request);
  queue_.clear();
  for (auto& [id, asked] : asked_) {
    give_up(*asked);
    asked->give(again(why));
  }
  asked_.clear();
}

void Spawners::died(const std::string& why) {
  (void)sys::send_signal(spawner_->pidfd(), SIGKILL).ok();  // it may be alive and talk nonsense
  spawn(io_, reap(std::make_shared<Spawner>(std::move(*spawner_))));
  spawner_.reset();
  fail_all("it died: " + why);
  metrics_.count("rtlaunch_spawner_restarts_total");
  journal_.say(Level::kError, "spawner_died", {.more = {{"reason", why}}});
  bool lived = Clock::now() - started_ > kLongEnough;
  back_off_ = lived ? Clock::duration::zero()
                    : std::min<Clock::duration>(
                          std::max<Clock::duration>(2 * back_off_, kFirstBackOff), kMostBackOff);
  spawn(io_, start_again());
}

// It may hang in the kernel for as long as it likes: nobody waits for it but this.
awaitable<void> Spawners::reap(std::shared_ptr<Spawner> dead) {
  Watched pidfd(io_, copy_of(dead->pidfd()));
  while (!co_await pidfd.wait(Watched::kRead, kEver)) {
  }
}

void Spawners::check_hangs(Clock::time_point asked) {
  if (spawner_ && heard_ < asked) died("it hangs");
}

awaitable<void> Spawners::start_again() {
  if (back_off_ > Clock::duration::zero()) co_await sleep_for(io_, back_off_);
  while (!stopping_ && !spawner_) {
    Status started = start();
    if (started.ok()) co_return;
    journal_.say(Level::kError, "spawner_failed", facts_of(started.error()));
    co_await sleep_for(io_, kMostBackOff);
  }
}

}  // namespace rtlaunch
