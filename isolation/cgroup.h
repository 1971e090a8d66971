// A cgroup2 leaf per sandbox, where the host has a hierarchy that we may write to (a hybrid's
// second one does): to account for what is inside, to limit it (cgroup_limits.h) and to end it as a
// whole. Leaves lie in one directory of ours; what an earlier process of ours left there is removed
// once empty.
//
// Rests on cgroups(7), CLONE_INTO_CGROUP (Linux 5.7), cgroup.kill (5.14).
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// Where the cgroup2 hierarchy is mounted; "" when it isn't.
std::string cgroup_hierarchy();
// Our own, from the hierarchy's root; "" for the root itself.
std::string own_cgroup();

struct Leaf {
  std::string path;  // from the hierarchy's root
  UniqueFd fd;       // to be born in
};

class Cgroups {
 public:
  // `folder` from the hierarchy's root; empty: `name` below our own cgroup. Nothing where there is
  // no cgroup2 or we may not.
  static std::optional<Cgroups> open(const std::string& folder, const std::string& name);

  Result<Leaf> make();
  // Kills what is still in it and removes it, at once or at a later sweep().
  void end(const std::string& path);
  // Removes what could not be removed before; false: something is left.
  bool sweep();
  // What is empty of ours, and then the directory. For the end: another process may have begun to
  // use the directory meanwhile, whose leaves are empty until somebody is born in them.
  void leave();

 private:
  Cgroups(std::string folder, UniqueFd dir) : folder_(std::move(folder)), dir_(std::move(dir)) {}
  std::string folder_;  // from the hierarchy's root
  UniqueFd dir_;
  Status make_folder();
  std::vector<std::string> waiting_;  // names
  std::set<std::string> ours_;        // leaves that make() made and end() has not had
};

struct CgroupUse {
  uint64_t cpu_microseconds = 0;
  std::optional<uint64_t> memory_bytes;  // where that controller is on
};
// Of a leaf, by its path from the hierarchy's root.
Result<CgroupUse> cgroup_use(const std::string& path);

}  // namespace rtlaunch::isolation
