// Memory, processes, CPU and I/O of one sandbox, limited by the cgroup2 leaf that its pid 1 was
// born in. pid 1 sets them itself, while it is privileged and the hierarchy is in its sight; it
// survives the OOM killer where it may, and tells what its command met.
//
// Rests on the kernel's cgroup-v2.rst: a controller has to be turned on in every cgroup on the way,
// and those may hold no processes of their own, but for the root. In a subtree that systemd has
// delegated to us, processes that are in the way move to a leaf of ours.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "isolation/controls.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// A limit that a sandbox met.
struct Reached {
  Control control;  // kMemory: its processes were killed; kPids: it could start no more
  uint64_t limit;   // bytes, processes; 0: unknown
};
// "out of memory (limit 512M)", "no more processes (limit 100)"
std::string described(const Reached& reached);

// The leaf's counters, open.
class LimitWatch {
 public:
  std::optional<Reached> reached() const;
  int memory() const { return memory_.get(); }
  int pids() const { return pids_.get(); }
  // From outside, of a leaf by its path from the hierarchy's root.
  static LimitWatch of(const std::string& leaf);

 private:
  friend Status limit_by_cgroup(const Controls& controls, ControlLog* log, LimitWatch* watch);
  UniqueFd memory_, pids_;
  uint64_t memory_limit_ = 0, pids_limit_ = 0;
};

// Of our own leaf ("w-...", see cgroup.h), each read back. Not in one: nothing can be limited.
Status limit_by_cgroup(const Controls& controls, ControlLog* log, LimitWatch* watch);

}  // namespace rtlaunch::isolation
