// What is in a tree, entry by entry, and its digest. The digest is a Merkle root over a canonical
// encoding: entries sorted by the raw bytes of their names within each directory, domain-separated
// per type, every string and number length-prefixed. It covers name, type, mode (07777), uid and
// gid, size and SHA-256 of a file, target of a link, device number of a whiteout (char 0:0), kept
// xattrs under neutral names (`overlay.opaque` for both trusted. and user.), and mtime in seconds.
// It does not cover inode, nlink, atime, ctime, blocks.
//
// The text form (one entry a line, sorted by path) is the `manifest` file beside each layer's tree.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "installers/store/hash.h"
#include "isolation/sys/result.h"

namespace rtlaunch::store {

struct Entry {
  enum class Type : char { kFile = 'f', kDirectory = 'd', kLink = 'l', kWhiteout = 'w' };
  std::string path;      // relative, no leading or trailing slash; "" is the root of the tree
  Type type = Type::kFile;
  uint32_t mode = 0644;  // 07777
  uint64_t size = 0;
  std::string content;   // kFile: raw 32-byte SHA-256; kLink: target
  int64_t mtime = 0;     // seconds
  bool opaque = false;   // kDirectory: hides what lies below it in lower layers
};

class Manifest {
 public:
  void add(Entry entry) { entries_.push_back(std::move(entry)); }
  // Sorts, adds directories that are implied only by their contents (mode 0755, fixed mtime), and
  // checks: duplicate path, a file used as a directory, an empty or `..` part is an error.
  Status finish();

  const std::vector<Entry>& entries() const { return entries_; }  // sorted after finish()
  Digest digest() const;                                           // after finish()
  uint64_t bytes() const;                                          // sum of file sizes
  std::string text() const;
  static Result<Manifest> parse(const std::string& text);

 private:
  std::vector<Entry> entries_;
};

// The mtime of everything whose own time means nothing: 1980-01-01 00:00:00 UTC, the earliest that
// a zip file can hold.
inline constexpr int64_t kFixedMtime = 315532800;

// Reads the tree below `dir` (hashing every file, with up to `threads` threads) into a manifest.
// uid, gid are not looked at: our layers are 0:0 by definition. Fails on a type that has no place
// in a layer (device, fifo, socket), naming it.
Result<Manifest> scan_tree(int dir, unsigned threads = 2);

}  // namespace rtlaunch::store
