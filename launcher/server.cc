#include "launcher/server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "launcher/metrics_page.h"
#include "launcher/ray_node.h"
#include "launcher/session.h"

namespace rtlaunch {
namespace {

constexpr auto kEver = std::chrono::hours(24 * 365);
constexpr auto kLook = seconds(2);  // how often folders are looked after
constexpr auto kLastWords = milliseconds(200);
constexpr auto kNoDescriptors = milliseconds(100);
constexpr size_t kWantedDescriptors = 131072, kOwnDescriptors = 1024;
constexpr int kAtOnce = 64;  // connections taken before others have their turn
constexpr int kLooksForLost = 60;

bool is_out_of_room(int code) {
  return code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM;
}

}  // namespace

Server::Server(asio::io_context& io, DaemonOptions options, Journal& journal, std::string tools)
    : io_(io),
      options_(std::move(options)),
      tools_(std::move(tools)),
      journal_(journal),
      spawners_(
          io,
          {tools_ + "/rtlaunch-spawner", tools_, options_.store, options_.runtime, options_.cgroup},
          journal_, metrics_, closer_),
      news_(io),
      connections_(kConnectionsEach, kConnections),
      starts_(kStartsEach, kStarts),
      bytes_(kBytesEach, kBytes),
      descriptors_(kDescriptorsEach, kDescriptors),
      followers_(kFollowersEach, kFollowers),
      lookers_(kLookersEach, kLookers) {}

Server::~Server() = default;

Status Server::open() {
  TRY(make_runtime(options_.runtime));
  lock_ = TRY(lock_runtime(options_.runtime));
  TRY(check_cgroup(options_.cgroup));
  TRY(journal_.keep_in(options_.runtime + "/log"));
  size_t descriptors = raise_descriptor_limit(kWantedDescriptors);
  journal_.say(Level::kDebug, "limits", {.more = {{"descriptors", int64_t(descriptors)}}});
  policy_ = TRY(PolicyInForce::load(options_.policy, journal_));
  store_ = TRY(store::Store::open(options_.store, true));
  workers_ = TRY(Workers::open(options_.runtime));
  builds_.emplace(io_, options_.store, options_.plugins, Builds::Limits(), spawners_, journal_,
                  metrics_);
  housekeeping_.emplace(io_, options_.store, options_.plugins, Housekeeping::Rules(), spawners_,
                        *builds_, journal_, metrics_);
  TRY(adopt());
  TRY(tell_nodes());
  TRY(take_socket());
  page_ = TRY(MetricsPage::open(io_, options_.metrics, [this] {
    update_gauges();
    return metrics_.text();
  }));
  return spawners_.start();
}

// The service manager's socket stays when we go; one of our own is bound anew.
Status Server::take_socket() {
  std::vector<UniqueFd> given = inherited_sockets();
  given_ = !given.empty();
  UniqueFd socket = given_ ? std::move(given[0]) : TRY(listen_at(options_.socket));
  ::fcntl(socket.get(), F_SETFL, O_NONBLOCK);
  listener_ = std::make_shared<Watched>(io_, std::move(socket));
  return {};
}

// Before there is a socket: who finds one without it takes us for an older daemon.
Status Server::tell_nodes() {
  told_ = false;
  std::string path = told_beside(options_.socket);
  size_t slash = path.rfind('/');
  auto folder = sys::open_at(AT_FDCWD, path.substr(0, slash + 1), O_RDONLY | O_DIRECTORY);
  if (!folder) {
    folder.error().step = "--socket";
    folder.error().cure = "choose a path in a folder that is there, with --socket";
    return folder.error();
  }
  std::string name = path.substr(slash + 1);
  TRY(sys::replace_file_at(folder->get(), name, policy_->every_worker_text()));
  if (::fchmodat(folder->get(), name.c_str(), 0644, 0) != 0) return sys_error("chmod", path);
  told_ = true;
  return {};
}

bool Server::has_told() const {
  struct stat info = {};
  return told_ && ::lstat(told_beside(options_.socket).c_str(), &info) == 0;
}

void Server::start(Notify notify) {
  notify_ = std::move(notify);
  journal_.on_entry([this] { news_.ring(); });
  metrics_.set("rtlaunch_started_seconds", static_cast<double>(wall_microseconds() / 1'000'000));
  spawn(io_, accept());
  spawn(io_, look_after());
  housekeeping_->start();
  journal_.say(Level::kInfo, "ready",
               {.more = {{"pid", int64_t{::getpid()}},
                         {"store", options_.store},
                         {"socket", options_.socket},
                         {"metrics", page_ ? page_->address() : "off"},
                         {"workers", int64_t(workers_->all_running().size())}}});
  notify_.ready();
}

// --- clients
// ---------------------------------------------------------------------------------------

awaitable<void> Server::accept() {
  auto listener = listener_;
  while (listener->valid()) {
    if (!co_await listener->wait(Watched::kRead, kEver)) continue;
    for (int i = 0; i < kAtOnce && listener->valid(); ++i) {
      UniqueFd socket(::accept4(listener->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (socket.valid()) {
        welcome(std::move(socket));
        continue;
      }
      if (is_out_of_room(errno)) co_await sleep_for(io_, kNoDescriptors);
      break;
    }
    co_await let_others_run(io_);
    if (listener != listener_) co_return;  // bound anew
  }
}

void Server::welcome(UniqueFd socket) {
  auto peer = peer_of(socket.get());
  if (!peer) return;
  if (!connections_.has(peer->user.uid)) {
    Error error{"connect", EAGAIN, "", "too many connections are open already", "try again"};
    std::string frame = protocol::framed(protocol::error_answer(error, true));
    (void)protocol::send_with_fds(socket.get(), frame, {}).ok();
    metrics_.count("rtlaunch_connections_total", {{"result", "refused"}});
    return;
  }
  metrics_.count("rtlaunch_connections_total", {{"result", "served"}});
  spawn(io_, serve(std::make_shared<Session>(*this, std::move(socket), std::move(*peer),
                                             ++last_connection_)));
}

Result<store::Store*> Server::store() {
  struct stat named = {};
  bool there = ::stat(options_.store.c_str(), &named) == 0;
  if (there && store_) {
    struct stat ours = TRY(sys::stat_fd(store_->dir(), options_.store));
    if (ours.st_ino == named.st_ino && ours.st_dev == named.st_dev) return &*store_;
  }
  if (!there) {
    return Error{"store", ENOENT, options_.store, "is gone",
                 "mount it again, or restart rtlaunchd, which makes a new one"};
  }
  store_ = TRY(store::Store::open(options_.store, false));
  journal_.say(Level::kWarning, "store_opened_again", {.more = {{"path", options_.store}}});
  return &*store_;
}

Result<store::Store> Server::store_of(uid_t caller) {
  store::Store* store = TRY(this->store());
  return store->for_caller(caller);
}

// --- workers
// ---------------------------------------------------------------------------------------

Status Server::adopt() {
  Workers::Adopted adopted = TRY(workers_->adopt());
  log_adopted(adopted);
  if (!adopted.undecided.empty()) look_for_lost_soon();
  return {};
}

void Server::log_adopted(const Workers::Adopted& adopted) {
  for (const std::string& id : adopted.running) {
    const Worker* worker = workers_->running(id);
    journal_.say(Level::kInfo, "adopted",
                 {.worker = id, .uid = worker->uid, .more = {{"pid", int64_t{worker->pid}}}});
    watch(id, Refusals::kAdopted);
  }
  for (const Worker& worker : workers_->all_ended()) {
    if (std::find(adopted.ended.begin(), adopted.ended.end(), worker.id) == adopted.ended.end()) {
      continue;
    }
    journal_.say(Level::kInfo, "ended",
                 {.worker = worker.id,
                  .uid = worker.uid,
                  .more = {{"status", int64_t{worker.status.value_or(-1)}}}});
  }
}

void Server::watch(const std::string& id, Refusals::Since since) {
  Worker* worker = workers_->running(id);
  if (worker == nullptr || !worker->pidfd.valid()) return;
  UniqueFd copy(::fcntl(worker->pidfd.get(), F_DUPFD_CLOEXEC, 3));
  if (!copy.valid()) {  // no descriptors left: found by looking
    workers_->lose_sight(id);
    return look_for_lost_soon();
  }
  refusals_.watch(*worker, since);
  spawn(io_, watch_worker(id, std::make_shared<Watched>(io_, std::move(copy))));
}

awaitable<void> Server::watch_worker(std::string id, std::shared_ptr<Watched> pidfd) {
  while (!co_await pidfd->wait(Watched::kRead, kEver)) {
  }
  if (Worker* last = workers_->running(id)) refusals_.look(*last);
  const Worker& worker = workers_->ended(id);
  bool clean = worker.status && *worker.status == 0;
  metrics_.count("rtlaunch_workers_ended_total", {{"how", !worker.status ? "killed"
                                                          : clean        ? "exit_0"
                                                                         : "failed"}});
  Facts facts = {.worker = id, .uid = worker.uid};
  facts.more.emplace_back("status", int64_t{worker.status.value_or(-1)});
  facts.more.emplace_back("ms", (worker.ended - worker.since) / 1000);
  if (worker.way_out) facts.more.emplace_back("refused_packets", int64_t(worker.refused));
  journal_.say(Level::kInfo, "ended", facts);
}

void Server::look_for_lost_soon() {
  if (lost_) return;
  lost_ = true;
  spawn(io_, look_for_lost());
}

// Records whose start was cut short are locked until the old spawner has ended it, or for ever if
// the worker runs.
awaitable<void> Server::look_for_lost() {
  for (int look = 0; look < kLooksForLost; ++look) {
    co_await sleep_for(io_, milliseconds(look < 20 ? 50 : 1000));
    auto adopted = workers_->adopt();
    if (!adopted) continue;
    log_adopted(*adopted);
    if (adopted->undecided.empty()) break;
  }
  lost_ = false;
}

// --- itself
// ----------------------------------------------------------------------------------------

awaitable<void> Server::look_after() {
  Clock::duration pause = kLook;
  if (int64_t us = notify_.watchdog_us(); us > 0) {
    pause = std::min<Clock::duration>(pause, std::chrono::microseconds(us / 3));
  }
  auto next_look = Clock::now();
  while (true) {
    notify_.watchdog();
    if (Clock::now() >= next_look && !draining_) {
      check_runtime();
      next_look = Clock::now() + kLook;
    }
    co_await sleep_for(io_, pause);
  }
}

// Whoever removes our folders gets them back, with what we know.
void Server::check_runtime() {
  struct stat ours = {}, named = {};
  bool socket_there = ::lstat(options_.socket.c_str(), &named) == 0 && S_ISSOCK(named.st_mode);
  bool lock_there = ::fstat(lock_.get(), &ours) == 0 && ours.st_nlink > 0;
  if (lock_there && workers_->in_place() && (given_ || socket_there) && has_told()) return;
  auto restore = [&]() -> Status {
    TRY(make_runtime(options_.runtime));
    if (!lock_there) lock_ = TRY(lock_runtime(options_.runtime));
    if (!workers_->in_place()) TRY(workers_->restore());
    TRY(journal_.keep_in(options_.runtime + "/log"));
    TRY(tell_nodes());
    if (given_ || socket_there) return {};
    UniqueFd socket = TRY(listen_at(options_.socket));
    listener_->close();
    listener_ = std::make_shared<Watched>(io_, std::move(socket));
    spawn(io_, accept());
    return {};
  };
  Status restored = restore();
  if (restored.ok()) {
    missing_.clear();
    journal_.say(Level::kWarning, "runtime_restored", {.more = {{"path", options_.runtime}}});
  } else if (std::string text = restored.error().message(); text != missing_) {
    missing_ = text;
    journal_.say(Level::kError, "runtime_missing", facts_of(restored.error()));
  }
}

void Server::update_gauges() {
  for (auto& [id, worker] : workers_->all_running()) refusals_.look(worker);
  metrics_.set("rtlaunch_workers", static_cast<double>(workers_->all_running().size()));
  metrics_.set("rtlaunch_connections", static_cast<double>(connections_.total()));
  metrics_.set("rtlaunch_resident_bytes", static_cast<double>(resident_bytes()));
}

void Server::reload() {
  notify_.reloading();
  Status opened = journal_.keep_in(options_.runtime + "/log");
  if (!opened.ok()) journal_.say(Level::kError, "log_failed", facts_of(opened.error()));
  policy_->reload(journal_);
  Status told = tell_nodes();  // else it is tried again (check_runtime())
  if (!told.ok()) journal_.say(Level::kError, "policy_untold", facts_of(told.error()));
  journal_.say(Level::kInfo, "reloaded");
  notify_.ready();
}

void Server::drain() {
  if (draining_) return;
  draining_ = true;
  notify_.stopping();
  journal_.say(
      Level::kInfo, "draining",
      {.more = {{"builds", int64_t(builds_->running())}, {"starts", int64_t(starts_.total())}}});
  builds_->close_gate();
  housekeeping_->stop();
  spawn(io_, finish());
}

awaitable<void> Server::finish() {
  auto until = Clock::now() + seconds(options_.drain_seconds);
  while (builds_->running() + starts_.total() > 0 && Clock::now() < until) {
    co_await sleep_for(io_, milliseconds(20));
  }
  builds_->end_all();
  for (int i = 0; i < 100 && builds_->running() > 0; ++i) co_await sleep_for(io_, milliseconds(20));
  if (!given_) listener_->close();
  co_await sleep_for(io_, kLastWords);  // answers that are on their way
  spawners_.stop();
  journal_.say(Level::kInfo, "stopped");
  io_.stop();
}

}  // namespace rtlaunch
