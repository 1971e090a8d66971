// A worker that is made before its command is known: it has come all the way that is the same for
// any command (session, limits, keyring, privileges, Landlock, filter), and waits for its cue. Then
// three descriptors, a directory and an exec are left of a start, in place of a process and all of
// its ways down.
//
// It shares pid 1's memory until its exec, as every worker does (worker.h), and what that has of
// one at a time (heap, errno) is whoever's turn it is: pid 1 waits while it runs, and it waits in
// recvmsg(2) otherwise. It can do nothing with that memory but this code, is closed to tracers, and
// ends with pid 1. Whoever's it is may kill it: the next worker is then made as ever.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <vector>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"
#include "isolation/worker.h"

namespace rtlaunch::isolation {

// Sanitizers take two that run in turn for one.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kHasUnderstudies = false;
#else
inline constexpr bool kHasUnderstudies = true;
#endif

class Understudy {
 public:
  // Of a Spec in which nothing of a worker's way depends on the command, or on when it is gone, and
  // the filter of which allows the rest of it.
  static bool suits(const Spec& spec);
  // In pid 1, in the mounts that it shall have. None: it couldn't.
  static std::unique_ptr<Understudy> prepare(Command* command);

  // As start_worker(); none: it is gone, and nothing has begun.
  std::optional<Result<pid_t>> perform(Command* command);
  void dismiss();
  // Has to stay open until then.
  int fd() const { return ours_.get(); }

 private:
  Understudy() = default;
  static int play(void* argument);

  UniqueFd ours_;
  int theirs_ = -1;  // in the worker
  Command* command_ = nullptr;
  ControlLog log_;
  std::optional<Error> error_;
  pid_t pid_ = -1;
};

}  // namespace rtlaunch::isolation
