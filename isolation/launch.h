// A start under way, for who has several in flight; start() in sandbox.h is begin() and finish().
//
// Embedded: the launcher is the command's parent in all but name; pid 1 ends when it does.
// Supervised (the Spec has a line): the launcher starts for somebody else. Until go() pid 1 belongs
// to it: it dies with the launcher, and runs nothing of the command's. From then on it belongs to
// its line (line.h) alone; the launcher has nothing more to do than to reap it.
//
//   Launch launch = TRY(Launch::begin([&](auto&) { return decode(document); }, {.exit_signal =
//   SIGCHLD})); TRY(launch.go());                           // once the pid is on record; may come
//   early
//   ... when launch.fd() is readable ...
//   Started started = TRY(launch.finish());     // exec has happened, or the Error of what failed
//
// Single-threaded callers only. prepare() runs in the child, after the fork and in the new
// namespaces, before anything of the host has been covered; it has a copy of all our memory and
// descriptors. What may hang for reasons of the caller's (reading files, decoding) belongs there.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <vector>

#include "isolation/dev.h"
#include "isolation/report.h"
#include "isolation/same_pid.h"
#include "isolation/sandbox.h"
#include "isolation/spares.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

struct Setup;

// A child may be made ahead of what it is for: its prepare() then waits at `socket`, the other end
// of Launch::fd(), for whatever its launcher sends, and restarts the clock; spares can be made
// meanwhile.
struct Preparing {
  int socket;
  StepClock& clock;
  Spares& spares;
  std::optional<Devices>& devices;
  const Outside* outside;
  Setup* setup = nullptr;

  // All that can be made before it is known what for; `covers`: for so many directories that will
  // be hidden, `way_out`: a network with one as well.
  void make_ahead(int covers, bool way_out) const;
  // After that: the mounts of this Spec, in case the next is the same again (rehearsal.h). Of what
  // is open then only `keep`, its leases and what it needs itself stays. After an Error the child
  // is of no use.
  Status rehearse(Spec spec, std::vector<int> keep) const;
  // Its launcher has said "go" in its own words: go() won't come.
  void may_go() const;
};
// The step that a launch has in place of its mounts, if it took rehearsed ones.
inline constexpr char kSameAgain[] = "same again";
using Prepare = std::function<Result<Spec>(const Preparing&)>;

struct LaunchOptions {
  int cgroup = -1;      // a cgroup2 directory that pid 1 is born in
  int exit_signal = 0;  // sent when pid 1 ends; SIGCHLD for who reaps by waitpid(2)
  // Needed for Root::kShared and same_pid; must outlive the start.
  const Outside* outside = nullptr;
  // ipc and uts are the host's from the start. Else a kShared one goes back to them, as only root
  // may.
  bool shared = false;
  // No sandbox: the command, a copy of the launcher, has the launcher's namespaces and rights, and
  // a parent that ties it to its line.
  bool bare = false;
};

class Launch {
 public:
  static Result<Launch> begin(const Prepare& prepare, const LaunchOptions& options = {});
  // The same for a command inside the running sandbox whose pid 1 `target` (a pidfd) is: it gets
  // that sandbox's mounts, processes, ipc and name, and is reaped by a process outside of it.
  static Result<Launch> join(const Prepare& prepare, int target, const LaunchOptions& options = {});

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  int fd() const { return socket_.get(); }  // readable when finish() won't wait
  // Losing pid 1 is no error here: finish() tells.
  void go() const;
  // Waits if it must. After an Error pid 1 has ended or is about to. An Error with step "" says
  // that it ended without a word: see died().
  Result<Started> finish() const { return receive_start(fd()); }
  // What the exit status of pid 1 means for a launch that never finished.
  static Error died(Result<int> status);

  UniqueFd take_pidfd() { return std::move(pidfd_); }
  UniqueFd take_socket() { return std::move(socket_); }

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_, socket_;
};

}  // namespace rtlaunch::isolation
