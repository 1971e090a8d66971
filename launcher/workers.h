// The workers of one daemon: those that run, and the last kMostEnded that have ended. Each has a
// file RUNTIME/workers/<id>, of JSON lines, which is all that a new daemon needs to adopt it:
//   {"format": 1, "id", "uid", "name", "env", "profile", "shield", "since", "way_out",
//   "runs_as", "runs_as_group", "job"}                     the daemon, before it asks for the start
//   {"pid", "start_time", "cgroup"}                        the spawner, before the exec; who starts
//   one past us (Host::start_past) writes both, and "not_applied"
//   {"status", "ended"}                                    pid 1, at the end (seconds)
// pid 1 holds a flock on the file as long as it lives; that is the truth. A file that is not locked
// is of a worker that has ended, or never started. Whoever removes one holds the lock meanwhile, so
// that a spawner which comes late finds a file without a name, and starts nothing.
//
// Owned by the daemon's one thread; nothing here waits.
//
//   Workers workers = TRY(Workers::open(runtime));
//   UniqueFd record = TRY(workers.create(worker));          // for the spawner; then close it
//   workers.started(worker.id, pid, std::move(pidfd));      // watch the pidfd; readable:
//   workers.ended(worker.id);
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

struct WatchedNetwork;

struct Usage {
  int64_t cpu_us = 0, memory = 0, processes = 0;
};

struct Worker {
  std::string id;  // 12 hex digits
  uid_t uid = 0;
  std::string name, env;
  std::string profile, shield;   // shield.h: whoever enters is held to the same
  uid_t runs_as = 0;             // if not `uid`: job_user.h, or an image's User
  gid_t runs_as_group = 0;       // with runs_as
  std::string job;               // with job_user.h
  std::string lacking;           // controls that were preferred and not to be had; "" if not said
  std::string cgroup;            // its leaf, from the hierarchy's root; "" when it has none
  int64_t since = 0, ended = 0;  // microseconds since 1970
  pid_t pid = -1;                // of pid 1, as we see it
  uint64_t start_time = 0;       // field 22 of /proc/PID/stat
  UniqueFd pidfd;                // while it runs
  bool way_out = false;          // it has a network with one: what that refuses is counted
  std::shared_ptr<WatchedNetwork> network;  // server_refusals.h, while it runs
  uint64_t refused = 0;                     // packets, of all in that network; when last looked
  std::optional<int> status;                // as waitpid(2) gives it; without, pid 1 was killed
  Usage usage;                              // as of `measured`
  int64_t measured = 0;
};

class Workers {
 public:
  static constexpr size_t kMostEnded = 1000;

  static Result<Workers> open(const std::string& runtime);

  // A new id, and its file with the first line. The descriptor is for the spawner alone: its flock
  // would be ours too, as long as we kept it.
  Result<UniqueFd> create(Worker& worker);
  void started(const std::string& id, pid_t pid, UniqueFd pidfd, const std::string& cgroup);
  void forget(const std::string& id);  // the start failed: nothing of it is left
  // The start's end isn't known: whatever runs of it is found by the next adopt().
  void lose_sight(const std::string& id) { running_.erase(id); }
  // Reads what pid 1 has written last, removes the file, and keeps the worker among the ended.
  const Worker& ended(const std::string& id);

  // At start: takes over what runs. Ended workers go to the ended ones. `undecided` are those that
  // are locked but say no pid (yet): a start was under way; look again soon.
  struct Adopted {
    std::vector<std::string> running, ended, undecided;
  };
  Result<Adopted> adopt();

  // The one whose id begins with `prefix`, of those that `caller` may see.
  Result<Worker*> find(const std::string& prefix, uid_t caller);
  Worker* running(const std::string& id);
  std::map<std::string, Worker>& all_running() { return running_; }
  const std::deque<Worker>& all_ended() const { return ended_; }
  // The folder was removed underneath: made anew, with files of the workers that run. Their locks
  // are gone with the old files, so these name pid and start time as the truth.
  Status restore();
  bool in_place() const;

 private:
  explicit Workers(std::string runtime) : folder_name_(std::move(runtime) + "/workers") {}
  Status open_folder();
  Status adopt_one(const std::string& id, Adopted& adopted);
  void keep_ended(Worker worker);

  std::string folder_name_;
  UniqueFd folder_;
  std::map<std::string, Worker> running_;
  std::deque<Worker> ended_;
};

// What its cgroup leaf says, which forgets no process that has ended, and /proc of `pid` and all
// below it for what the leaf doesn't know; zeros when it has gone.
Usage usage_of(pid_t pid, const std::string& cgroup = "");
UniqueFd pidfd_of(pid_t pid);  // invalid when there is no such process
// 0 when there is no such process.
uint64_t start_time_of(pid_t pid);

}  // namespace rtlaunch
