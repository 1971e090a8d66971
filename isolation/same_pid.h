// A command whose pid is the same number inside its sandbox and outside of it. Who supervises it
// by a number that it tells of itself (Ray's raylet does: it signals, watches and accounts by it)
// would mean another process otherwise, or none. Of the command alone: what it forks has numbers
// that differ, as in every pid namespace.
//
// With CAP_CHECKPOINT_RESTORE over both pid namespaces (root) the number is chosen for both at once
// (clone3(2) set_tid), far from those that the kernel gives away next, so that a number that has
// just become free isn't soon somebody else's. Without, only the inner one can be chosen: the outer
// one is guessed, as the one after the last, and the child looks, before anything else, what it
// became; a wrong guess ends there and is the start of the next. Another number is never accepted.
//
//   SamePid same_pid = TRY(SamePid::prepare(outside));   // before the host's /proc is covered
//   pid_t pid = TRY(same_pid.spawn(function, argument));
#pragma once

#include <sys/types.h>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// Who starts a sandbox that shares things with its host, seen before the namespaces are made: from
// within them it can't be asked any more.
struct Outside {
  static Result<Outside> look();

  pid_t pid = 0;      // of the launcher, in its own namespace
  pid_t pid_max = 0;  // pids are below it (proc(5)); it may have changed since
  UniqueFd pidfd;     // of the launcher, whose ipc and uts namespaces are the host's
};

class SamePid {
 public:
  static Result<SamePid> prepare(const Outside& outside);
  // As sys::spawn_borrowing_memory(). EAGAIN: no number was to be had.
  Result<pid_t> spawn(int (*function)(void*), void* argument) const;
  // As sys::fork_as(). EPERM: the number can't be chosen, and a copy of us won't be guessed.
  Result<pid_t> fork(int (*function)(void*), void* argument) const;

 private:
  using Make = Result<pid_t> (*)(pid_t, size_t, int (*)(void*), void*);
  Result<pid_t> spawn_chosen(Make make, int (*function)(void*), void* argument) const;
  Result<pid_t> spawn_guessed(int (*function)(void*), void* argument) const;
  Status check_proc() const;

  UniqueFd proc_;  // the host's
  pid_t launcher_ = 0, pid_max_ = 0;
};

}  // namespace rtlaunch::isolation
