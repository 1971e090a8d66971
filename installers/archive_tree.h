// The one place where the contents of an archive become files. Whatever the archive says, nothing
// is ever created outside the directory that was given: names are checked as text first, then
// reached by directory descriptor, without following any link, and created only when nothing is
// there (O_EXCL). Links are made last, so no later entry can be led through one, and a link that
// points out of the tree is refused. setuid, setgid and sticky bits are dropped; owners are not
// looked at.
//
// A TreeWriter may be used by several threads at once, but for finish() and entries' order, which
// finish() of the Manifest brings. It borrows the directory and the Manifest.
//
//   TreeWriter tree(staging.tree(), manifest, options);
//   OpenFile file = TRY(tree.create("pkg/mod.py", 0644));
//   TRY(file.write(data, size));
//   TRY(tree.close(std::move(file), mtime));
//   TRY(tree.finish());
//
// Rests on openat2(2), mkdirat(2), symlinkat(2), futimens(3).
#pragma once

#include <cstdint>
#include <ctime>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "installers/store/hash.h"
#include "installers/store/manifest.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

struct TreeOptions {
  enum class Modes { kKeep, kNormal };   // kNormal: 0755 for what its owner may run, else 0644
  enum class Times { kKeep, kFixed };    // kKeep falls back to kFixedMtime before 1980
  Modes modes = Modes::kNormal;
  Times times = Times::kFixed;
  uint64_t max_bytes = 100ull << 30;     // of all files together, unpacked
  uint64_t max_files = 1'000'000;        // entries of any type
  std::string archive;                   // what the archive is called in errors; never a secret
};

// The path an entry's name stands for: `./` and a trailing slash taken off. Refuses the empty name,
// absolute names, `..`, backslashes, drive letters, control characters, names over 4095 bytes and
// parts over 255. "" is the root itself (of "./").
Result<std::string> entry_path(std::string_view name, const std::string& archive);

// Whether a link at `path` to `target` stays inside the tree, reading it as text.
bool link_stays_inside(std::string_view path, std::string_view target);

// A file being written: hashed on the way. Dropped without close(), it stays behind half-written,
// and the Staging around it goes away.
class OpenFile {
 public:
  Status write(const void* data, size_t size);
  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

 private:
  friend class TreeWriter;
  UniqueFd fd_;
  std::string path_;
  uint32_t mode_ = 0;
  uint64_t size_ = 0;
  store::Hasher hash_;
};

class TreeWriter {
 public:
  TreeWriter(int dir, store::Manifest& manifest, TreeOptions options);
  TreeWriter(const TreeWriter&) = delete;
  TreeWriter& operator=(const TreeWriter&) = delete;
  ~TreeWriter();

  // `path` is entry_path()'s. Directories on the way are made (0755).
  Status make_dir(const std::string& path, uint32_t mode, int64_t mtime);
  // `size_hint` > 0 lets big files be laid out in one piece.
  Result<OpenFile> create(const std::string& path, uint32_t mode, uint64_t size_hint = 0);
  Status close(OpenFile file, int64_t mtime);
  // Made in finish(). Refuses one that points out of the tree.
  Status add_link(const std::string& path, const std::string& target, int64_t mtime);
  // Makes the links, then sets modes and times of directories, deepest first.
  Status finish();

  // Counts against the limits; called by create() and close() as well.
  Status count_bytes(uint64_t bytes);
  const TreeOptions& options() const { return options_; }

 private:
  using Directory = std::shared_ptr<UniqueFd>;
  struct Link { std::string path, target; int64_t mtime; };
  Result<Directory> directory(const std::string& path);      // with mutex_ held
  Result<Directory> parent_of(const std::string& path, std::string& leaf);
  Status count_file();
  Error refuse(const std::string& path, const std::string& reason) const;
  Error taken(const std::string& path) const;
  uint32_t file_mode(uint32_t mode) const;
  int64_t time_of(int64_t mtime) const;

  const int dir_;
  store::Manifest& manifest_;
  const TreeOptions options_;
  mode_t umask_ = 022;
  std::mutex mutex_;
  // Open parents, most recently used first.
  std::list<std::pair<std::string, Directory>> recent_;
  std::unordered_map<std::string_view, std::list<std::pair<std::string, Directory>>::iterator> open_;
  std::unordered_map<std::string, store::Entry> directories_;
  std::vector<Link> links_;
  uint64_t bytes_ = 0, files_ = 0;
};

}  // namespace rtlaunch
