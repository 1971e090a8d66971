// Downloads over http and https (libcurl), several at once in one thread. Content goes straight to
// the descriptor of its job and is hashed on the way; nothing is kept in memory. Redirects stay
// http(s) and never lead from https to http. A transfer that breaks off is resumed once. Connecting
// may take 20 s, silence 60 s, everything together until `deadline`.
//
// Credentials in a URL (https://user:secret@host/) are used and never shown: every Fetched, Event
// and Error has the URL without them, and without its query, which may be a signature.
//
//   Fetched got = TRY(fetch(url, fd, "working_dir", progress, deadline));
//
// No state is shared between calls; one call belongs to one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "installers/progress.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

using Deadline = std::chrono::steady_clock::time_point;

struct Fetched {
  std::string url;     // for people: without credentials and query
  std::string sha256;  // hex
  uint64_t size = 0;
};

struct FetchJob {
  std::string url;
  std::optional<std::string> sha256;  // hex; other content is an error
  std::optional<uint64_t> size;       // other sizes are an error, as soon as it is exceeded
  int fd = -1;                        // borrowed; written from offset 0 with pwrite(2)
  std::string label;                  // in progress and errors; "": the last part of the URL
  // Run in the calling thread as soon as this file is complete and checked, while the others go
  // on in the kernel's buffers. An error ends everything and is returned.
  std::function<Status(const Fetched&)> on_done;
};

struct FetchOptions {
  std::string layer = "pip";  // Event::layer
  unsigned parallel = 8;
  uint64_t max_bytes = 100ull << 30;  // of one file without a `size`
  std::chrono::milliseconds connect_timeout{20'000};
  std::chrono::milliseconds stall_timeout{60'000};
  std::string user_agent = "rtlaunch/0.1";
  std::string bearer = {};  // a token for the first host; a secret
};

// In the order of `jobs`. The first error ends all transfers.
Result<std::vector<Fetched>> fetch_all(std::vector<FetchJob> jobs, Progress& progress,
                                       Deadline deadline, const FetchOptions& options = {});

Result<Fetched> fetch(const std::string& url, int fd, const std::string& layer, Progress& progress,
                      Deadline deadline);

}  // namespace rtlaunch
