// What nobody waits for, one job at a time, in the idle class and never while a build runs or
// waits: after builds the background work of an embedded run (bytecode, syncs: `settle`), then a
// collection; a collection by the clock as well. All by rtlaunch-build, so that the daemon never
// stops for it.
#pragma once

#include <list>
#include <string>
#include <vector>

#include "launcher/server_builds.h"

namespace rtlaunch {

class Housekeeping {
 public:
  struct Rules {
    Clock::duration settle_after = seconds(10);  // after a build: its command goes first
    Clock::duration collect_every = std::chrono::minutes(10);
    Clock::duration most_patience = std::chrono::minutes(5);  // with builds that never end
  };
  static constexpr size_t kMostSettles = 256;  // the oldest are dropped: bytecode can wait

  Housekeeping(asio::io_context& io, std::string store, std::string plugins, Rules rules,
               Spawners& spawners, const Builds& builds, Journal& journal, Metrics& metrics);
  void start();
  void stop();  // nothing new; what runs is ended
  void settle_later(const isolation::User& caller, UniqueFd document);
  void collect_soon();
  bool busy() const { return busy_; }
  const std::string& stats() const { return stats_; }  // of `store stats --json`; "" at first

 private:
  struct Settle {
    isolation::User caller;
    UniqueFd document;
    Clock::time_point due;
  };
  struct Output {
    int status = 0;
    std::string text;
  };
  awaitable<void> serve();
  awaitable<void> wait_for_work();
  awaitable<void> wait_for_builds();
  awaitable<void> settle(Settle job);
  awaitable<void> collect();
  awaitable<Result<Output>> run(std::vector<std::string> arguments, UniqueFd document);
  awaitable<Result<Output>> follow(std::shared_ptr<Asked> asked, std::shared_ptr<Watched> output);
  bool settle_is_due() const;
  std::vector<std::string> store_arguments(const char* verb) const;
  void count(const char* job, const Result<Output>& done);
  void take_collected(const std::string& text);
  void take_stats(const std::string& text);

  asio::io_context& io_;
  std::string store_, plugins_;
  Rules rules_;
  Spawners& spawners_;
  const Builds& builds_;
  Journal& journal_;
  Metrics& metrics_;
  Bell work_;
  std::list<Settle> settles_;
  Clock::time_point collect_at_;
  bool busy_ = false, stopping_ = false;
  UniqueFd pidfd_;  // of what runs
  std::string stats_;
};

}  // namespace rtlaunch
