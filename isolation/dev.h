// The sandbox's /dev: a read-only directory of the vault, with the few devices every program
// expects bound from the host (each checked to be the character device it claims to be), terminals
// of its own (devpts, newinstance), its own shared memory and message queues. Made in two halves,
// as the host's nodes have to be opened before they are covered.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "isolation/mounts.h"
#include "isolation/overlay.h"
#include "isolation/sys/mount.h"

namespace rtlaunch::isolation {

class Devices {
 public:
  // Clones the host's nodes.
  static Result<Devices> open();
  // The terminal, if one of `stdio` is one, becomes /dev/console, so that ttyname(3) finds it.
  void add_console(const int (&stdio)[3]);
  // A node below /dev of the host's as well, if it is a character device that can be given away.
  // `optional`: nothing is no error.
  Status grant(const std::string& path, bool optional);
  // The whole directory in the spare vault, before anybody asks (Linux 6.15: neither is attached).
  // What doesn't go is done later.
  void make_ahead(Spares* spares);
  // Adds /dev and /dev/shm (of that size; 0: half of the memory) to the tree.
  Status add_to(const Vault& vault, uint64_t shm_bytes, Spares* spares, Tree* tree);
  // Mounts all that is in it and isn't yet; `dev` is the attached directory.
  Status fill(int dev, Spares* spares);
  // The checked /dev/null, to mask files with.
  const sys::Mount& null() const { return nodes_.front().mount; }
  sys::Mount take_null() { return std::move(nodes_.front().mount); }  // there will be no fill()
  void append_to(std::vector<int>* descriptors) const;

 private:
  struct Node {
    std::string name;
    sys::Mount mount;
  };
  Status make_directory(int vault);
  Status add_mount_points();

  std::vector<Node> nodes_;
  UniqueFd dir_;                     // writable
  sys::Mount mount_;                 // read-only
  size_t points_ = 0, mounted_ = 0;  // how many of the nodes have a mount point, are mounted
  bool has_file_systems_ = false;
};

}  // namespace rtlaunch::isolation
