// Wheels that uv asks the network about while it resolves are those it will most likely take. Their
// downloads begin at once, beside it, and large ones are unpacked and what a first import needs of
// them is compiled as well, while uv still waits for the index. Its answer, the lock, then says
// which were meant and what they have to hash to. Nothing of a guess is published before that, or
// run ever; a wrong one is dropped.
//
//   EarlyWheels early(job);
//   auto resolution = TRY(resolve(requirements, uv, key, store, progress, early.meanwhile()));
//   if (auto guess = early.take(wheel.url)) fetches.need(guess->number, ...);  // into guess->file
//
// When much has come, the compilers are started (they fork, so before any thread), then the
// unpacker. Of those who guess the same at once, one unpacks it: each wheel has a lock for that,
// which is only tried. Whoever knows that he needs it waits for none of them.
//
// Single-threaded (but for libcurl's asking for a host's address, and the unpacker's work).
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "installers/compiler.h"
#include "installers/compose.h"
#include "installers/fetch.h"
#include "installers/unpacker.h"
#include "installers/uv.h"

namespace rtlaunch::installers {

// A wheel that we have downloaded is what its SHA-256 says, whoever asked for it; but knowing that
// number is no right to a wheel that an index gives only to some. A local one may be changed by its
// owner while it is unpacked. What came out of these is for the caller alone.
class Sharing {
 public:
  explicit Sharing(const Job& job);
  store::Whose whose_is(const std::string& url) const;  // without credentials

 private:
  const IndexConfig& index_;
  std::string netrc_;
};

class EarlyWheels {
 public:
  explicit EarlyWheels(const Job& job);

  Uv::Meanwhile meanwhile();

  struct Guess {
    size_t number = 0;  // of fetches()
    UniqueFd file;
    Unpacking* unpacking = nullptr;  // if that has begun
  };
  // The download of this URL (without credentials), if it has begun.
  std::optional<Guess> take(const std::string& url);
  Fetches& fetches() { return fetches_; }

  // Packed bytes that are worth two processes: what smaller wheels hold is compiled by the import
  // itself before they are there.
  static constexpr uint64_t kWorthCompilers = 1 << 20;
  // The one that runs, or a new one; with compilers where it is `worth` that, there is a second
  // core for them and they can be started. For that it goes on with the downloads until this
  // process has one thread only, and so may fork. What nobody has taken is withdrawn.
  Unpacker& unpacker(bool worth);

 private:
  struct Arrived {
    std::string url, sha256;
  };
  void asked_for(const std::string& url);
  int wait(pollfd* fds, nfds_t count, int timeout_ms);
  void start_compilers();
  void unpack_arrived();
  void unpack(const Arrived& arrived);
  bool is_known(const store::Key& wheel, store::Whose whose) const;

  const Job& job_;
  const Sharing sharing_;
  Fetches fetches_;
  std::set<std::string> names_;  // one guess for each
  std::map<std::string, Guess> guesses_;
  std::vector<Arrived> arrived_;
  std::vector<UniqueFd> locks_;
  std::optional<Compilers> compilers_;
  bool tried_ = false;  // to start them
  std::unique_ptr<Unpacker> unpacker_;
};

// A file without a name, on the store's file system: it is gone with its descriptor.
Result<UniqueFd> scratch_file(const store::Store& store);

}  // namespace rtlaunch::installers
