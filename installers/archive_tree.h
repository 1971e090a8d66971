// The one place where the contents of an archive become files. Whatever the archive says, nothing
// is ever created outside the directory that was given: names are checked as text first, then
// reached by directory descriptor, without following any link, and created only when nothing is
// there (O_EXCL). Links are made last, so no later entry can be led through one, and a link that
// points out of the tree is refused. setuid, setgid and sticky bits are dropped; owners are not
// looked at.
//
// create(), close() and make_dir() may be called by several threads at once; finish() is for the
// last of them. The directory (empty, or filled by this writer alone) and the Manifest are
// borrowed; the Manifest gets an entry for everything, the root too, and is then to be finished.
//
//   TreeWriter tree(staging.tree(), manifest, options);
//   OpenFile file = TRY(tree.create("pkg/mod.py", 0644));
//   TRY(file.write(data, size));
//   TRY(tree.close(std::move(file), mtime));
//   TRY(tree.finish());
//
// Rests on openat2(2), mkdirat(2), symlinkat(2), futimens(3).
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <map>
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
  // kNormal: 0755 for what its owner may run, else 0644. kKeep: the bits of the archive, and
  // whatever else lets everybody read and (where the owner may) run it: a layer belongs to 0:0.
  enum class Modes { kKeep, kNormal };
  enum class Times { kKeep, kFixed };  // kKeep falls back to kFixedMtime before 1980
  Modes modes = Modes::kNormal;
  Times times = Times::kFixed;
  uint64_t max_bytes = 100ull << 30;  // of all files together, unpacked
  uint64_t max_files = 1'000'000;     // entries of any type
  bool any_links = false;             // links may point out: for a directory that is trusted
  std::string archive;                // what the archive is called in errors; never a secret
};

// The path an entry's name stands for: `./` and a trailing slash taken off. Refuses the empty name,
// absolute names, `..`, backslashes, drive letters, control characters, names over 4095 bytes and
// parts over 255. "" is the root itself (of "./").
Result<std::string> entry_path(std::string_view name, const std::string& archive);

// For messages: control characters as \x1b, at most 200 bytes.
std::string printable(std::string_view name);

// Whether a link at `path` to `target` stays inside the tree, reading it as text.
bool link_stays_inside(std::string_view path, std::string_view target);

class TreeWriter;

// A file being written: hashed on the way. Dropped without close(), it stays behind half-written,
// and the Staging around it goes away.
class OpenFile {
 public:
  Status write(const void* data, size_t size);
  Status skip_to(uint64_t end);  // a hole, unless `end` is behind us
  Status restart();              // forgets what was written
  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

 private:
  friend class TreeWriter;
  explicit OpenFile(TreeWriter* tree) : tree_(tree) {}
  TreeWriter* tree_;
  UniqueFd fd_;
  std::string path_;
  uint32_t mode_ = 0;
  uint64_t size_ = 0;
  bool ends_in_hole_ = false;
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
  Result<OpenFile> create(const std::string& path, uint32_t mode);
  // `content`, if given, gets the raw SHA-256.
  Status close(OpenFile file, int64_t mtime, std::string* content = nullptr);
  // Made in finish(). Refuses one that points out of the tree.
  Status add_link(const std::string& path, const std::string& target, int64_t mtime);
  // Makes the links, then sets modes and times of directories, deepest first.
  Status finish();

  uint64_t bytes() const { return bytes_; }  // written so far
  const TreeOptions& options() const { return options_; }

 private:
  friend class OpenFile;
  using Directory = std::shared_ptr<UniqueFd>;  // an open parent, while it is in use
  using Recent = std::list<std::pair<std::string, Directory>>;
  struct Link {
    std::string path, target;
    int64_t mtime;
  };
  // These two with mutex_ held.
  Result<Directory> directory(const std::string& path);
  Result<Directory> make_directory(const std::string& path);
  Result<Directory> parent_of(const std::string& path);
  Status count_entry();
  Status count_bytes(uint64_t bytes);
  Status make_link(const Link& link);
  Status settle_directory(const store::Entry& entry);
  Error taken(const std::string& path) const;
  uint32_t kept_mode(uint32_t mode, bool is_directory) const;
  int64_t kept_time(int64_t mtime) const;

  const int dir_;
  store::Manifest& manifest_;
  const TreeOptions options_;
  mode_t umask_ = 022;
  std::mutex mutex_;
  Recent recent_;  // most recently used first
  std::unordered_map<std::string_view, Recent::iterator> open_;
  std::map<std::string, store::Entry> directories_;  // that we made
  std::vector<Link> links_;
  std::atomic<uint64_t> bytes_ = 0, entries_ = 0;
};

}  // namespace rtlaunch
