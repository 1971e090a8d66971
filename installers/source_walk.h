// Walking a directory that becomes a layer: what the ignore rules leave, in a fixed order (names by
// bytes, a directory before what is in it), with links followed. For source.cc and working_dir.cc.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "installers/source.h"
#include "installers/store/manifest.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// Packed: a directory may hold 100,000 files.
struct WalkEntry {
  enum class Type : uint8_t { kFile, kDirectory, kLink };  // kLink: it leads nowhere
  uint32_t path_at = 0, path_size = 0;                     // Walk's own
  Type type = Type::kFile;
  bool hashed = false;  // `content` is set
  uint32_t mode = 0;    // as stat(2) says
  uint64_t device = 0, inode = 0, size = 0;
  int64_t mtime_ns = 0, ctime_ns = 0;
  unsigned char content[32] = {};  // SHA-256 of a file or a link's target
  void set_times(const struct stat& info);
  bool same_file(const WalkEntry& other) const;  // all that stat(2) tells
};

// The entries, the first being the root itself with the path "". Kept in blocks, large enough for
// the kernel to have them back at once: a copy releases them while its manifest grows, so that a
// tree's names are never in memory twice.
class Walk {
 public:
  static constexpr size_t kBlock = 4096;  // entries
  std::string root;                       // absolute

  size_t size() const { return size_; }
  WalkEntry& operator[](size_t i) { return blocks_[i / kBlock].entries[i % kBlock]; }
  const WalkEntry& operator[](size_t i) const { return blocks_[i / kBlock].entries[i % kBlock]; }
  std::string_view path(size_t i) const;  // relative to root

  void add(std::string_view path, WalkEntry entry);
  void resize(size_t size);  // forgets the last ones
  // Nobody may ask for entries block * kBlock and the following any more. Several threads may
  // release different blocks.
  void release(size_t block) { Block gone = std::move(blocks_[block]); }

 private:
  struct Block {
    std::vector<WalkEntry> entries;
    std::string paths;
  };
  std::vector<Block> blocks_;
  size_t size_ = 0;
};

// Errors: something can't be read, a link leads back to where it is, over a million entries.
Result<Walk> walk_source(const Source& source, const std::vector<std::string>& excludes);

// The same for a single file: one entry, with the path "".
Result<Walk> walk_file(const Source& source);

// The permission bits an entry has in a layer: its own, and what lets everybody read it and (where
// its owner may) run it, since a layer belongs to 0:0.
uint32_t layer_mode(const WalkEntry& entry);

// The key of a walked directory, once every file is hashed; of a single file by its raw SHA-256.
store::Key walk_key(const Source& source, const Walk& walk);
// The same of a source that was copied: by what its layer holds. The manifest is finished.
store::Key copied_key(const Source& source, const store::Manifest& manifest);
store::Key file_key(const Source& source, std::string_view content, uint32_t mode);

}  // namespace rtlaunch::installers
