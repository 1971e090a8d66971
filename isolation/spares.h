// The file systems that every sandbox has of its own. Each takes the kernel a while to make and
// depends on nothing but the namespaces, so a child that waits to be told what it is for makes them
// meanwhile; else they are made when they are needed.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "isolation/net.h"
#include "isolation/sys/mount.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

class Spares {
 public:
  enum Kind : size_t { kVault, kTmp, kShm, kProc, kPts, kQueues, kCount };

  void make_all(int covers);  // one that can't be made is told about when it is needed
  // Not attached yet. `bytes`: the size of a tmpfs, 0: half of the memory.
  Result<sys::Mount> take(Kind kind, uint64_t bytes = 0);
  // Made and not taken yet: to be finished ahead.
  const sys::Mount& peek(Kind kind) const { return ready_[kind]; }
  bool proc_is_masked = false;
  bool bounding_set_is_shrunk = false;
  sys::Mount sys;  // the host's /sys as it was, with what is masked of it (sysfs.h)
  std::optional<sys::MountTable> mounts;  // of our namespace
  std::optional<SpareNetwork> network;    // only where one is likely to be asked for
  void append_to(std::vector<int>* descriptors) const;

  // An empty, read-only directory of a vault, to cover another with.
  struct Empty {
    static Result<Empty> make(int vault, const std::string& name);
    UniqueFd dir;  // the same, writable: a way to make mount points in it
    sys::Mount mount;
  };
  // One of the spare vault's (Linux 6.15: it isn't attached), as long as there are.
  std::optional<Empty> take_empty();

 private:
  std::array<sys::Mount, kCount> ready_;
  std::vector<Empty> empty_;
};

}  // namespace rtlaunch::isolation
