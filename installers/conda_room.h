// The sandbox in which conda's solver and a package's own scripts run: as builds of pip packages do
// (build_root.h), but without an interpreter of the host's in the middle. An empty root with the
// system's programs and libraries, /etc, a home and a /tmp that are thrown away, no network but
// what the way out lets through, and of the caller's variables none.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "installers/callers_path.h"
#include "installers/forwarder.h"
#include "installers/store/store.h"
#include "isolation/sandbox.h"

namespace rtlaunch::installers {

class CondaRoom {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  // Makes its folders beside the staging's tree.
  static Result<CondaRoom> make(const store::Staging& staging, WayOut way_out, Deadline deadline);

  // What the caller named, at its own path, with the caller's rights.
  Status show(const std::string& path);
  // What is ours, at `target`.
  void show_own(const std::string& source, const std::string& target);
  // A folder of the caller's in the store's caches, at `target`; emptied by no one but the store.
  Status keep(const store::Store& store, const std::string& name, const std::string& target);
  // The environment's layers, top first, at `prefix`; with `writable` its writes go to the
  // staging's tree.
  Status mount(const std::string& prefix, std::vector<std::string> layers, bool writable);

  struct Outcome {
    bool ok = false;
    std::string out, err;  // may hold secrets
    std::vector<Mishap> mishaps;
  };
  // Errors: the deadline, what can't be started.
  Result<Outcome> run(std::vector<std::string> argv, const std::string& input,
                      const std::vector<std::string>& variables);

 private:
  CondaRoom(const store::Staging& staging, Deadline deadline)
      : staging_(staging), deadline_(deadline) {}
  const store::Staging& staging_;
  const Deadline deadline_;
  isolation::Spec spec_;
  std::vector<CallersPath> shown_;
  UniqueFd kept_;
  std::optional<uid_t> uid_;
  std::optional<Forwarder> forwarder_;
  int runs_ = 0;
};

}  // namespace rtlaunch::installers
