// Keeps one spawner alive and matches its replies to whoever asked. It dies: all that was asked and
// not answered gets an Error with code EAGAIN (say "again"), and another is started at once, later
// and later if it dies at once as well.
//
//   auto asked = spawners.ask(std::move(request));               // Result; never blocks
//   auto reply = co_await (*asked)->next(seconds(30));           // kStarted, kFailed, kEnded
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>

#include "launcher/journal.h"
#include "launcher/metrics.h"
#include "launcher/server_async.h"
#include "launcher/server_closer.h"
#include "launcher/spawner.h"

namespace rtlaunch {

// The replies to one request, in order.
class Asked {
 public:
  explicit Asked(asio::io_context& io) : bell_(io) {}
  // ETIMEDOUT: none came in time; EAGAIN: the spawner died.
  awaitable<Result<SpawnReply>> next(Clock::duration most);

 private:
  friend class Spawners;
  void give(Result<SpawnReply> reply);
  bool starts_ = false;  // a worker's start has one reply, all else two
  uid_t uid_ = 0;
  std::vector<UniqueFd> held_;  // of that client; till the first reply: to close them takes time
  Bell bell_;
  std::deque<Result<SpawnReply>> replies_;
};

class Spawners {
 public:
  static constexpr size_t kMostQueued = 1024;  // requests that don't fit into the socket yet

  Spawners(asio::io_context& io, SpawnerConfig config, Journal& journal, Metrics& metrics,
           Closer& closer);
  Status start();
  void stop();  // ends it: starts in flight are ended, workers go on
  // EAGAIN: there is none just now, or its queue is full.
  Result<std::shared_ptr<Asked>> ask(SpawnRequest request);
  // A request of `asked` has had no answer for too long: a spawner that has said nothing at all
  // since then is killed.
  void check_hangs(Clock::time_point asked);
  void give_up(Asked& asked) { closer_.close(asked.uid_, std::move(asked.held_)); }
  bool alive() const { return spawner_.has_value(); }
  size_t in_flight() const { return asked_.size(); }

 private:
  awaitable<void> serve(uint64_t generation);
  awaitable<void> send_queued(uint64_t generation);
  awaitable<void> start_again();
  awaitable<void> reap(std::shared_ptr<Spawner> dead);
  void fail_all(const std::string& why);
  void let_go(SpawnRequest& request);  // of what a client has sent
  awaitable<void> let_go_soon(std::shared_ptr<Asked> asked);
  Status try_send(const SpawnRequest& request);
  bool take_replies();
  void take(SpawnReply reply);
  void died(const std::string& why);

  asio::io_context& io_;
  SpawnerConfig config_;
  Journal& journal_;
  Metrics& metrics_;
  Closer& closer_;
  std::optional<Spawner> spawner_;
  std::shared_ptr<Watched> replies_, room_;
  uint64_t generation_ = 0, last_id_ = 0;
  std::map<uint64_t, std::shared_ptr<Asked>> asked_;
  std::deque<SpawnRequest> queue_;
  Clock::time_point started_, heard_;
  Clock::duration back_off_{};
  bool stopping_ = false;
};

}  // namespace rtlaunch
