// Reading a tree into a manifest, and comparing one with a manifest. Cleaning is in clean.cc.
#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

#include "installers/store/manifest.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

using Type = Entry::Type;

Result<Type> type_of(const struct stat& info, const std::string& path) {
  if (S_ISREG(info.st_mode)) return Type::kFile;
  if (S_ISDIR(info.st_mode)) return Type::kDirectory;
  if (S_ISLNK(info.st_mode)) return Type::kLink;
  if (S_ISCHR(info.st_mode) && info.st_rdev == 0) return Type::kWhiteout;
  if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) return Type::kDevice;
  return make_error("scan", path, "a fifo or socket has no place in a layer");
}

bool is_opaque(int dir) {
  return sys::get_xattr(dir, "trusted.overlay.opaque") == "y" ||
         sys::get_xattr(dir, "user.overlay.opaque") == "y";
}

std::map<std::string, std::string> attributes_of(int fd) {
  std::map<std::string, std::string> attributes;
  for (const std::string& name : sys::list_xattrs(fd)) {
    if (!is_kept_attribute(name)) continue;
    if (auto value = sys::get_xattr(fd, name)) attributes[name] = *value;
  }
  return attributes;
}

std::string below(const std::string& directory, const std::string& name) {
  return directory.empty() ? name : directory + "/" + name;
}

Result<UniqueFd> open_directory(int dir, const std::string& name) {
  return sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

}  // namespace

// Walks first, then hashes the files with several threads, each file's place being known.
class Scanner {
 public:
  explicit Scanner(int root) : root_(root) {}

  Result<Manifest> run(unsigned threads) {
    TRY(add_directory(root_, ""));
    TRY(hash_all(std::clamp<unsigned>(threads, 1, 16)));
    TRY(manifest_.finish());
    return std::move(manifest_);
  }

 private:
  Status add_directory(int dir, const std::string& path) {
    struct stat info = TRY(sys::stat_fd(dir, path));
    manifest_.add({path, Type::kDirectory, info.st_mode & 07777, 0, "", info.st_mtime,
                   is_opaque(dir), attributes_of(dir)});
    for (const std::string& name : TRY(sys::list_dir(dir))) TRY(add(dir, name, below(path, name)));
    return {};
  }

  Status add(int dir, const std::string& name, const std::string& path) {
    struct stat info = TRY(sys::stat_at(dir, name));
    Entry entry{path, TRY(type_of(info, path)), info.st_mode & 07777, 0, "", info.st_mtime};
    if (entry.type == Type::kDirectory) {
      UniqueFd sub = TRY(open_directory(dir, name));
      return add_directory(sub.get(), path);
    }
    if (entry.type == Type::kLink) entry.content = TRY(sys::read_link_at(dir, name));
    if (entry.type == Type::kDevice) entry.content = device_text(info.st_mode, info.st_rdev);
    if (entry.type == Type::kFile) {
      entry.content.assign(32, '\0');
      if (!sys::list_xattrs_at(dir, name).empty()) {
        UniqueFd file = TRY(sys::open_at(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
        entry.attributes = attributes_of(file.get());
      }
    }
    manifest_.add(entry);
    return {};
  }

  Status hash_all(unsigned threads) {
    std::vector<std::thread> helpers;
    for (unsigned i = 1; i < threads; i++) helpers.emplace_back([this] { hash_some(); });
    hash_some();
    for (std::thread& helper : helpers) helper.join();
    return failure_;
  }

  void hash_some() {
    Manifest::Entries entries = manifest_.entries();
    while (true) {
      size_t i = next_++;
      if (i >= entries.size() || failed_) return;
      Entry entry = entries[i];
      if (entry.type != Type::kFile) continue;
      Status hashed = hash_one(i, entry.path);
      if (hashed.ok()) continue;
      std::lock_guard guard(mutex_);
      failure_ = std::move(hashed);
      failed_ = true;
    }
  }

  Status hash_one(size_t i, const std::string& path) {
    UniqueFd file = TRY(sys::open_beneath(root_, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    uint64_t size = 0;
    std::string content = TRY(sha256_file_raw(file.get(), path, &size));
    manifest_.set_file(i, size, content);
    return {};
  }

  int root_;
  Manifest manifest_;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  Status failure_;
};

Result<Manifest> scan_tree(int dir, unsigned threads) { return Scanner(dir).run(threads); }

namespace {

// Each directory against what the manifest has directly in it: both are sorted, so one pass does.
// Directories don't depend on each other, and threads take turns at them.
class Sealer {
 public:
  Sealer(int root, const Manifest& manifest)
      : root_(root), manifest_(manifest), entries_(manifest.entries()) {
    std::vector<size_t> open;  // directories that the entry may lie in
    for (size_t i = 0; i < manifest.size(); ++i) {
      while (!open.empty() && !contains(directories_[open.back()].entry, i)) open.pop_back();
      if (!open.empty()) directories_[open.back()].children.push_back(static_cast<uint32_t>(i));
      if (!manifest.is_directory(i)) continue;
      open.push_back(directories_.size());
      directories_.push_back({i, {}});
    }
  }

  Result<uint64_t> run(unsigned threads) {
    constexpr size_t kWorthAThread = 2000;  // entries
    std::vector<std::thread> helpers;
    for (unsigned i = 1; i < threads && manifest_.size() >= kWorthAThread; ++i)
      helpers.emplace_back([this] { compare_some(); });
    compare_some();
    for (std::thread& helper : helpers) helper.join();
    if (failed_at_ != SIZE_MAX) return std::move(failure_.error());
    // The deepest first: a mode may close what lies below.
    for (auto it = directories_.rbegin(); it != directories_.rend(); ++it) {
      const Entry entry = entries_[it->entry];
      UniqueFd dir = TRY(open(entry));
      TRY(settle(dir.get(), entry));
    }
    return blocks_ * 512;
  }

 private:
  struct Directory {
    size_t entry;
    std::vector<uint32_t> children;
  };

  bool contains(size_t directory, size_t i) const {
    std::string_view outer = manifest_.path_of(directory), path = manifest_.path_of(i);
    return outer.empty() ||
           (path.size() > outer.size() && path.starts_with(outer) && path[outer.size()] == '/');
  }

  // After a failure, only what comes before it is still looked at.
  void compare_some() {
    for (size_t i = next_++; i < directories_.size() && i < failed_at_; i = next_++) {
      Status sealed = compare_directory(directories_[i]);
      if (sealed.ok()) continue;
      std::lock_guard guard(mutex_);
      if (i >= failed_at_) continue;
      failure_ = std::move(sealed);
      failed_at_ = i;
    }
  }

  static Error differs(const std::string& path, const std::string& how) {
    return make_error("seal", path, how + ", so the tree is not what its manifest says",
                      "report this: the installer wrote something else than it noted down");
  }

  Status compare_directory(const Directory& directory) {
    const Entry entry = entries_[directory.entry];
    UniqueFd dir = TRY(open(entry));
    auto next = directory.children.begin();
    for (const std::string& name : TRY(sys::list_dir(dir.get()))) {
      std::string path = below(entry.path, name);
      if (next == directory.children.end()) return differs(path, "is there unasked");
      const Entry child = entries_[*next++];
      if (child.path != path)
        return differs(path, "is there unasked, or " + child.path + " is missing");
      TRY(compare(dir.get(), name, child));
    }
    if (next != directory.children.end()) return differs(entries_[*next].path, "is missing");
    return {};
  }

  Result<UniqueFd> open(const Entry& directory) const {
    return sys::open_beneath(root_, directory.path.empty() ? "." : directory.path,
                             O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  }

  Status settle(int dir, const Entry& entry) {
    TRY(set_opaque(dir, entry));
    if (attributes_of(dir) != entry.attributes) {
      return differs(entry.path, "has other attributes");
    }
    TRY(sys::set_mode(dir, entry.mode, entry.path));
    TRY(sys::set_mtime(dir, entry.mtime, entry.path));
    blocks_ += static_cast<uint64_t>(TRY(sys::stat_fd(dir, entry.path)).st_blocks);
    return {};
  }

  Status compare(int dir, const std::string& name, const Entry& entry) {
    struct stat info = TRY(sys::stat_at(dir, name));
    if (TRY(type_of(info, entry.path)) != entry.type)
      return differs(entry.path, "has another type");
    if (entry.type == Type::kDirectory) return {};  // it has a turn of its own
    blocks_ += static_cast<uint64_t>(info.st_blocks);
    return compare_inode(dir, name, info, entry);
  }

  Status compare_inode(int dir, const std::string& name, const struct stat& info,
                       const Entry& entry) {
    if (entry.type == Type::kWhiteout) {
      return info.st_mtime == kFixedMtime ? Status() : sys::set_mtime_at(dir, name, kFixedMtime);
    }
    if (entry.type == Type::kLink && TRY(sys::read_link_at(dir, name)) != entry.content) {
      return differs(entry.path, "links elsewhere");
    }
    if (entry.type == Type::kDevice && device_text(info.st_mode, info.st_rdev) != entry.content) {
      return differs(entry.path, "is another device");
    }
    if (!entry.attributes.empty() && entry.type == Type::kFile) {
      UniqueFd file = TRY(sys::open_at(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
      if (attributes_of(file.get()) != entry.attributes) {
        return differs(entry.path, "has other attributes");
      }
    }
    bool has_mode = entry.type == Type::kFile || entry.type == Type::kDevice;
    if (has_mode && (info.st_mode & 07777) != entry.mode) {
      return differs(entry.path, "has another mode");
    }
    if (entry.type == Type::kFile && static_cast<uint64_t>(info.st_size) != entry.size) {
      return differs(entry.path, "has another size");
    }
    if (info.st_mtime != entry.mtime) return differs(entry.path, "has another time");
    return {};
  }

  // A root's mounts read trusted.*, rootless ones (userxattr) user.*: a layer serves both.
  static Status set_opaque(int dir, const Entry& entry) {
    if (!entry.opaque) {
      if (is_opaque(dir)) return differs(entry.path, "is opaque");
      return {};
    }
    TRY(sys::set_xattr(dir, "user.overlay.opaque", "y"));
    Status trusted = sys::set_xattr(dir, "trusted.overlay.opaque", "y");
    return trusted.ok() || trusted.error().code == EPERM ? Status() : trusted;
  }

  const int root_;
  const Manifest& manifest_;
  const Manifest::Entries entries_;
  std::vector<Directory> directories_;
  std::atomic<size_t> next_ = 0, failed_at_ = SIZE_MAX;
  std::atomic<uint64_t> blocks_ = 0;
  std::mutex mutex_;
  Status failure_;
};

}  // namespace

Result<uint64_t> seal_tree(int dir, const Manifest& manifest, unsigned threads) {
  if (manifest.size() == 0) return make_error("seal", "manifest", "finish() was not called");
  return Sealer(dir, manifest).run(std::max(1u, threads));
}

}  // namespace rtlaunch::store
