// Wheels that uv asks the network about while it resolves are those it will most likely take. Their
// downloads begin at once, beside it; its answer, the lock, then says which were meant and what
// they have to hash to. Nothing of a guess is looked at before that, and a wrong one is dropped.
//
//   EarlyWheels early(job.uv, job.store, job.progress, job.field);
//   auto resolution = TRY(resolve(requirements, uv, key, store, progress, early.meanwhile()));
//   if (auto guess = early.take(wheel.url)) fetches.need(guess->number, ...);  // into guess->file
//
// Single-threaded (but for libcurl's asking for a host's address).
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "installers/fetch.h"
#include "installers/store/store.h"
#include "installers/uv.h"

namespace rtlaunch::installers {

class EarlyWheels {
 public:
  EarlyWheels(const Uv& uv, const store::Store& store, Progress& progress,
              const std::string& field);

  Uv::Meanwhile meanwhile();

  struct Guess {
    size_t number;  // of fetches()
    UniqueFd file;
  };
  // The download of this URL (without credentials), if it has begun.
  std::optional<Guess> take(const std::string& url);
  Fetches& fetches() { return fetches_; }

  // Goes on with them until this process has one thread only, and so may fork; false when that
  // takes too long.
  bool settle();

 private:
  void asked_for(const std::string& url);

  const Uv& uv_;
  const store::Store& store_;
  Fetches fetches_;
  std::set<std::string> names_;  // one guess for each
  std::map<std::string, Guess> guesses_;
};

// A file without a name, on the store's file system: it is gone with its descriptor.
Result<UniqueFd> scratch_file(const store::Store& store);

}  // namespace rtlaunch::installers
