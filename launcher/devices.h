// The device nodes that a profile grants, of those that this machine has. Each start asks, and /dev
// is long: whoever answers many keeps a DeviceFolders, which reads a folder again when its time of
// change says so. Not thread-safe.
//
//   DeviceFolders folders;
//   std::vector<std::string> paths = folders.devices_of(profile.devices);
//
// Rests on a directory's mtime changing whenever a name in it comes, goes or means another file
// (inode(7)). One that changed only just now may change once more within the clock's grain, and is
// not believed.
#pragma once

#include <sys/stat.h>

#include <ctime>
#include <map>
#include <string>
#include <vector>

#include "config/policy.h"

namespace rtlaunch {

class DeviceFolders {
 public:
  // `/dev/nvidia*` stands for all that are there and match.
  std::vector<std::string> devices_of(const config::Grants& grants);

 private:
  struct Folder {
    dev_t device = 0;
    ino_t inode = 0;
    struct timespec changed = {};
    std::vector<std::string> names;
    bool is(const struct stat& now) const;
  };
  const std::vector<std::string>& names_in(const std::string& path);

  std::map<std::string, Folder> folders_;
};

}  // namespace rtlaunch
