// Runs rtlaunch-build, which the spawner starts: builds that clients wait for. So many at a time,
// in all and for one user; the others wait in order. A build's answers (request.h) are taken line
// by line; whoever asked hears of its progress, and ends it when he has gone.
//
//   auto build = std::make_shared<Build>(io);
//   build->field = "pip"; ...; build->on_event = [](const std::string& json) {...};
//   Status made = co_await builds.make(build);    // elsewhere: build->cancel()
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "config/allowed.h"
#include "isolation/sandbox.h"
#include "launcher/server_quota.h"
#include "launcher/server_spawner.h"

namespace rtlaunch {

// "--caller UID:GID:G1,G2 --store DIR --plugins DIR --allowed JSON": whose rights, where, and what
// may be used.
std::vector<std::string> builder_options(const isolation::User& caller, const std::string& store,
                                         const std::string& plugins,
                                         const config::Allowed& allowed = {});
// Another description of the same memory, read from its start.
Result<UniqueFd> open_again(int fd);

struct Build {
  explicit Build(asio::io_context& io) : changed(io) {}
  std::string field, request;  // request: its id for the journal
  isolation::User caller;
  config::Allowed allowed;
  UniqueFd document;                                 // a description of its own
  std::function<void(const std::string&)> on_event;  // an event's JSON; must not block
  void cancel() {
    cancelled = true;
    if (stop) stop();
    changed.ring();
  }
  bool cancelled = false;
  std::function<void()> stop;  // while it runs
  std::optional<Error> told;   // by the builder
  bool done = false;           // says the builder
  Bell changed;                // its turn has come, or it was cancelled
};

class Builds {
 public:
  struct Limits {
    size_t all = 8, each = 4, queue = 1024, queue_each = 256;
  };
  Builds(asio::io_context& io, std::string store, std::string plugins, Limits limits,
         Spawners& spawners, Journal& journal, Metrics& metrics);

  // Errors: the builder's own; EAGAIN: try again; ECANCELED.
  awaitable<Status> make(std::shared_ptr<Build> build);
  void close_gate();  // no new ones, and the waiting are sent away; those that run go on
  void end_all();
  size_t running() const { return running_.total(); }
  size_t waiting() const { return waiting_.size(); }

 private:
  struct Waiting {
    std::shared_ptr<Build> build;
    Share* slot;
  };
  awaitable<Status> wait_for_turn(std::shared_ptr<Build> build, Share* slot);
  awaitable<Status> run(std::shared_ptr<Build> build);
  awaitable<Status> follow(std::shared_ptr<Build> build, std::shared_ptr<Asked> asked,
                           std::shared_ptr<Watched> output);
  void next_turn();
  void count(const Build& build, const Status& status, Clock::time_point began);

  asio::io_context& io_;
  std::string store_, plugins_;
  Spawners& spawners_;
  Journal& journal_;
  Metrics& metrics_;
  Quota running_, queued_;
  std::list<Waiting> waiting_;
  std::list<std::shared_ptr<Build>> active_;
  bool closed_ = false;
};

// A builder that was told to end does so, or is killed. Takes its pidfd.
awaitable<void> end_builder(asio::io_context& io, UniqueFd pidfd);

}  // namespace rtlaunch
