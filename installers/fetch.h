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
// What will probably be needed can begin before that is certain:
//
//   Fetches fetches(progress, deadline, options);
//   size_t number = fetches.guess(job);
//   ... fetches.wait(fds, count, timeout_ms) ...   // in place of poll(2)
//   fetches.need(number, job);                     // it was right; or fetches.add(other_job)
//   TRY(fetches.finish());
//
// No state is shared between calls; one call, and one Fetches, belongs to one thread.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
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
  std::string shown;                  // what the URL is called; "": itself, without credentials
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
  // Whether a connection for this URL (one that it was redirected to, then) to this address may be,
  // beside those that never may; `through_proxy`: there is one, whose address it may be.
  std::function<bool(const std::string& url, const struct sockaddr* address, bool through_proxy)>
      may_reach = {};
};

class Fetches {
 public:
  Fetches(Progress& progress, Deadline deadline, FetchOptions options);
  Fetches(const Fetches&) = delete;
  Fetches& operator=(const Fetches&) = delete;
  ~Fetches();  // ends all transfers

  void add(FetchJob job);

  // A transfer that fails nobody, is told to nobody, and stops at 64 MiB until it is needed.
  // `arrived` is called if it is whole before that.
  size_t guess(FetchJob job, std::function<void(const Fetched&)> arrived = {});
  // There will be guesses: what the first of them needs is got ready in the next lull.
  void expect();
  // With hash, size, label and on_done of the job; URL and descriptor stay those of the guess.
  void need(size_t number, FetchJob job);
  // Like poll(2), but returns 0 early as well; transfers go on meanwhile.
  int wait(pollfd* fds, nfds_t count, int timeout_ms);
  uint64_t arrived() const;  // bytes so far, of all

  // All that was added or guessed rightly, in that order; other guesses, and the numbers of all,
  // end here. The first error ends everything.
  Result<std::vector<Fetched>> finish();

 private:
  class Transfers;
  std::unique_ptr<Transfers> transfers_;
};

// In the order of `jobs`. The first error ends all transfers.
Result<std::vector<Fetched>> fetch_all(std::vector<FetchJob> jobs, Progress& progress,
                                       Deadline deadline, const FetchOptions& options = {});

Result<Fetched> fetch(const std::string& url, int fd, const std::string& layer, Progress& progress,
                      Deadline deadline);

}  // namespace rtlaunch
