// Tokens of Kubernetes (RAY_ENABLE_K8S_TOKEN_AUTH): whose one is, and whether he may use this
// cluster, the API server knows. Ray's own code asks it, in a short run of Ray's interpreter: one
// at a time, whoever sends how many. What it said is kept for a while, as Ray keeps it.
//
//   if (!co_await review.allows("Bearer ...")) ...
#pragma once

#include <map>
#include <string>

#include "launcher/ray/agent_options.h"
#include "launcher/server_async.h"

namespace rtlaunch::ray {

class TokenReview {
 public:
  TokenReview(asio::io_context& io, std::string python, Knobs::Variables variables)
      : io_(io), python_(std::move(python)), variables_(std::move(variables)), answered_(io) {}

  // Of the whole header. An API server that can't be reached allows nothing.
  awaitable<bool> allows(std::string authorization);

 private:
  struct Known {
    bool allowed = false;
    Clock::time_point until;
  };
  awaitable<bool> ask(std::string authorization);

  asio::io_context& io_;
  std::string python_;
  Knobs::Variables variables_;
  std::map<std::string, Known> known_;
  bool asking_ = false;
  Bell answered_;
};

}  // namespace rtlaunch::ray
