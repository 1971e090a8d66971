// Wheels that uv asks the network about while it resolves are those it will most likely take. Their
// downloads begin at once, beside it; its answer, the lock, then says which were meant and what
// they have to hash to. Nothing of a guess is looked at before that, and a wrong one is dropped.
//
//   EarlyWheels early(job.uv, job.python, job.store, job.progress, job.field);
//   auto resolution = TRY(resolve(requirements, uv, key, store, progress, early.meanwhile()));
//   if (auto guess = early.take(wheel.url)) fetches.need(guess->number, ...);  // into guess->file
//
// When much of them has come, the compilers for what they hold (first_import.h) are started as
// well, so that they are ready when it is unpacked.
//
// Single-threaded (but for libcurl's asking for a host's address).
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "installers/compiler.h"
#include "installers/fetch.h"
#include "installers/store/store.h"
#include "installers/uv.h"

namespace rtlaunch::installers {

class EarlyWheels {
 public:
  EarlyWheels(const Uv& uv, const Interpreter& python, const store::Store& store,
              Progress& progress, const std::string& field);

  Uv::Meanwhile meanwhile();

  struct Guess {
    size_t number;  // of fetches()
    UniqueFd file;
  };
  // The download of this URL (without credentials), if it has begun.
  std::optional<Guess> take(const std::string& url);
  Fetches& fetches() { return fetches_; }

  // Packed bytes that are worth two processes: what smaller wheels hold is compiled by the import
  // itself before they are there.
  static constexpr uint64_t kWorthCompilers = 1 << 20;
  // Those that run, or new ones; for the first who asks. Goes on with the downloads until this
  // process has one thread only, and so may fork. Nothing where that takes too long, they can't be
  // started, or there is no second core for them.
  std::optional<Compilers> compilers();

 private:
  void asked_for(const std::string& url);
  int wait(pollfd* fds, nfds_t count, int timeout_ms);
  void start_compilers();

  const Uv& uv_;
  const Interpreter& python_;
  const store::Store& store_;
  Fetches fetches_;
  std::set<std::string> names_;  // one guess for each
  std::map<std::string, Guess> guesses_;
  std::optional<Compilers> compilers_;
  bool tried_ = false;  // to start them
};

// A file without a name, on the store's file system: it is gone with its descriptor.
Result<UniqueFd> scratch_file(const store::Store& store);

}  // namespace rtlaunch::installers
