#include "launcher/ray/token_review.h"

#include "launcher/ray/child.h"

namespace rtlaunch::ray {
namespace {

constexpr auto kLongest = seconds(30);
constexpr auto kAllowedFor = std::chrono::minutes(5);
constexpr auto kRefusedFor = seconds(10);
constexpr size_t kMostKnown = 1024;

// Rests on Ray 2.60.0, ray/_private/authentication/authentication_utils.py.
constexpr const char* kAsk = R"(
import sys
from ray._raylet import validate_authentication_token
print("yes" if validate_authentication_token(sys.stdin.read()) else "no")
)";

}  // namespace

awaitable<bool> TokenReview::ask(std::string authorization) {
  ChildStart child;
  child.argv = {python_, "-c", kAsk};
  child.variables = variables_;
  child.input = std::move(authorization);
  auto ended =
      co_await run_child(io_, std::move(child), Clock::now() + kLongest, [](const std::string&) {});
  co_return ended && ended->status == 0 && ended->out.ends_with("yes\n");
}

awaitable<bool> TokenReview::allows(std::string authorization) {
  for (;;) {
    auto found = known_.find(authorization);
    if (found != known_.end() && Clock::now() < found->second.until) {
      co_return found->second.allowed;
    }
    if (!asking_) break;
    co_await answered_.wait(kLongest);
  }
  asking_ = true;
  bool allowed = co_await ask(authorization);
  asking_ = false;
  if (known_.size() >= kMostKnown) known_.clear();
  Clock::duration kept = allowed ? Clock::duration(kAllowedFor) : kRefusedFor;
  known_[std::move(authorization)] = {allowed, Clock::now() + kept};
  answered_.ring();
  co_return allowed;
}

}  // namespace rtlaunch::ray
