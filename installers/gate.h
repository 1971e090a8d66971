// Who decides what a build's forwarder (forwarder.h) lets through; any thread.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "installers/fetch_onward.h"
#include "installers/reach.h"

namespace rtlaunch::installers {

struct WayOut {
  Places named;
  std::vector<std::string> pages;  // URLs, with credentials, of what says where files lie
  Proxies proxies;
  // For our own planner and downloads, which run no package's code (uv.h): who isn't named may be
  // reached as well, unless that is at a private address and no index lies at one.
  bool anybody = false;
};

class Gate {
 public:
  explicit Gate(WayOut way_out) : way_out_(std::move(way_out)) {}

  struct Verdict {
    std::string refusal;         // why not; "" if the place itself may be reached
    bool also_private = true;    // at an address of that kind as well
    Gate* if_indexes = nullptr;  // then where these lie decides about that
    bool ok() const { return refusal.empty(); }
    bool allows(const struct sockaddr* address, bool through_proxy) const;
  };
  // May ask the indexes, once each, and wait for what they say; with `anybody` it asks nobody.
  Verdict judge(const Place& place);
  const Proxies& proxies() const { return way_out_.proxies; }

 private:
  Verdict judge_unnamed(const Place& place);
  bool an_index_is_private();
  bool learns(const Place& place);
  void learn_from(const std::string& page);
  void look_where_files_are(const std::string& page, const std::string& text);

  const WayOut way_out_;
  std::mutex mutex_;
  Places learned_, files_seen_;
  size_t asked_ = 0;  // of the pages
  bool index_is_private_ = false, looked_up_ = false;
};

}  // namespace rtlaunch::installers
