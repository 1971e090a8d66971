// A job's zygote (launcher/zygote.h) before its first worker. A worker that finds none starts by
// itself, and leaves one behind for the next; but where packages are fetched first, there is time:
// then the zygote is asked for when that begins, and already the first worker is a copy of it.
//
// What a worker looks like is read from the raylet's own command line, and counted (kOfEachWorker),
// so it rests on Ray 2.60.0, src/ray/raylet/worker_pool.cc, BuildProcessCommandArgs. Where a Ray
// has it otherwise, the zygote is none of the worker's kind, is never asked, and ends idle: the
// first worker starts by itself, as before.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "launcher/ray/agent_options.h"
#include "launcher/server_async.h"

namespace rtlaunch::ray {

// Of `--python_worker_command`: as many words as a worker's have, the first of them right. Nothing
// where there is none, or where it is quoted.
std::vector<std::string> worker_words(const std::vector<std::string>& raylet);

// What a job's worker in a sandbox has, of what its raylet and we have.
Knobs::Variables workers_variables(const Knobs::Variables& ours, const std::string& raylets,
                                   const std::string& job);

class EarlyZygotes {
 public:
  EarlyZygotes(asio::io_context& io, std::string rtlaunch, Knobs::Variables variables)
      : io_(io), rtlaunch_(std::move(rtlaunch)), variables_(std::move(variables)) {}
  // Returns at once; once for a job. That it can't be is no failure.
  void start(const std::string& job);

 private:
  awaitable<void> run(std::vector<std::string> words, Knobs::Variables variables);

  asio::io_context& io_;
  std::string rtlaunch_;
  Knobs::Variables variables_;
  std::set<std::string> jobs_;
};

}  // namespace rtlaunch::ray
