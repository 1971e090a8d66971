// GET /metrics over HTTP, for Prometheus, on an address of this machine. At most kMost scrapers at
// a time; each gets ten seconds. Everything else is 404 or 405. It tells no user anything of
// another: labels are words of our own (metrics.h).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "isolation/sys/result.h"
#include "launcher/server_async.h"

namespace rtlaunch {

class MetricsPage {
 public:
  static constexpr int kMost = 16;
  using Text = std::function<std::string()>;
  // "127.0.0.1:9469", "[::1]:9469"; port 0: any. Nothing for "off".
  static Result<std::unique_ptr<MetricsPage>> open(asio::io_context& io, const std::string& address,
                                                   Text text);
  ~MetricsPage();
  std::string address() const;  // with the port that it got

 private:
  struct State;
  explicit MetricsPage(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace rtlaunch
