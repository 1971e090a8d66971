// What a process may use and how urgent it is, all that a child of it would inherit: resource
// limits, CPUs, scheduling, I/O class, its place in the OOM killer's list. To start something for
// another process as if that one had started it, with neither more nor less.
//
//   Limits limits = TRY(limits_of(pid));     // by somebody who may ask: root
//   TRY(take_limits(limits));                // in the child, while it still has its rights
//
// Rests on prlimit(2), sched_setattr(2), sched_setaffinity(2), ioprio_set(2).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::sys {

struct Limits {
  struct Resource {
    uint64_t soft, hard;
    bool operator==(const Resource&) const = default;
  };
  std::vector<Resource> resources;  // by number, RLIMIT_*
  std::string cpus;                 // the kernel's mask, bit by bit
  uint32_t policy = 0, priority = 0, io = 0;
  int32_t nice = 0;
  int32_t oom_score = 0;  // oom_score_adj
  bool reset_on_fork = false;
  bool operator==(const Limits&) const = default;
};

// ESRCH: there is no such process. Whoever asks makes sure that it is still the one that is meant.
Result<Limits> limits_of(pid_t pid);

// Of the calling process. Where we may not raise a limit (or lower oom_score_adj), ours stays: it
// is the stricter one.
Status take_limits(const Limits& limits);

}  // namespace rtlaunch::sys
