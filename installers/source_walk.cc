#include "installers/source_walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "installers/ignore.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

constexpr size_t kMaxEntries = 1'000'000;
constexpr size_t kMaxDepth = 200;
constexpr uint64_t kMaxIgnoreFile = 1 << 20;

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

struct Name {
  std::string name;
  unsigned char type;  // d_type
};

struct Visit {
  uint64_t device, inode;  // of a directory we are in
};

// Lists that apply from a directory on, and how long that directory's path is.
struct Rules {
  IgnoreList list;
  size_t base;
};

class Walker {
 public:
  Walker(const Source& source, const std::vector<std::string>& excludes) : source_(source) {
    walk_.root = source.path;
    std::vector<std::string> lines = source.default_excludes;
    lines.insert(lines.end(), excludes.begin(), excludes.end());
    add_rules(IgnoreList(lines), 0);
  }

  Result<Walk> run() {
    UniqueFd root = TRY(sys::open_at(AT_FDCWD, source_.path, O_RDONLY | O_DIRECTORY));
    struct stat info;
    if (::fstat(root.get(), &info) != 0) return sys_error(step(), source_.path);
    TRY(add_entry("", WalkEntry::Type::kDirectory, info));
    (void)TRY(enter(std::move(root), info));
    return std::move(walk_);
  }

 private:
  const char* step() const { return field_of(source_.use); }

  Error failed(Error error, const std::string& path) const {
    error.step = step();
    error.object = source_.path + "/" + path;
    error.cure = "make it readable, or put it into excludes, .gitignore or .rayignore";
    return error;
  }

  void add_rules(IgnoreList list, size_t base) {
    if (!list.empty()) rules_.push_back({std::move(list), base});
  }

  Status read_rules(int dir, const std::vector<Name>& names, const std::string& path) {
    for (const char* file : {".gitignore", ".rayignore"}) {
      if (file[1] == 'g' && !source_.gitignore) continue;
      bool there =
          std::any_of(names.begin(), names.end(), [&](const Name& n) { return n.name == file; });
      struct stat info;
      if (!there || ::fstatat(dir, file, &info, 0) != 0 || !S_ISREG(info.st_mode)) continue;
      auto text = sys::read_file_at(dir, file, kMaxIgnoreFile);
      if (!text) return failed(text.error(), path.empty() ? file : path + "/" + file);
      add_rules(IgnoreList(*text), path.empty() ? 0 : path.size() + 1);
    }
    return {};
  }

  bool is_ignored(const std::string& path, bool is_directory) const {
    for (const Rules& rules : rules_) {
      auto verdict = rules.list.match(std::string_view(path).substr(rules.base), is_directory);
      if (verdict == IgnoreList::Verdict::kIgnored) return true;
    }
    return false;
  }

  Status add_entry(std::string_view path, WalkEntry::Type type, const struct stat& info) {
    if (walk_.size() >= kMaxEntries) {
      return make_error(step(), source_.path, "holds over a million files and directories",
                        "put what isn't needed into excludes, .gitignore or .rayignore");
    }
    WalkEntry entry;
    entry.type = type;
    entry.mode = info.st_mode;
    entry.size = type == WalkEntry::Type::kFile ? static_cast<uint64_t>(info.st_size) : 0;
    entry.set_times(info);
    walk_.add(path, entry);
    return {};
  }

  // Not by readdir(3), which takes 32 KiB and three more system calls for each directory.
  static Result<std::vector<Name>> list(int dir) {
    std::vector<Name> names;
    alignas(struct dirent64) char buffer[32 << 10];
    ssize_t size;
    while ((size = ::getdents64(dir, buffer, sizeof buffer)) > 0) {
      for (ssize_t at = 0; at < size;) {
        const auto* entry = reinterpret_cast<const struct dirent64*>(buffer + at);
        std::string_view name = entry->d_name;
        if (name != "." && name != "..") names.push_back({std::string(name), entry->d_type});
        at += entry->d_reclen;
      }
    }
    if (size < 0) return sys_error("list", "");
    std::sort(names.begin(), names.end(),
              [](const Name& a, const Name& b) { return a.name < b.name; });
    return names;
  }

  Status check_nesting(const struct stat& info) const {
    const char* cure = "remove it, or put it into excludes, .gitignore or .rayignore";
    std::string where = source_.path + "/" + path_;
    for (const Visit& visit : inside_) {
      if (visit.device == info.st_dev && visit.inode == info.st_ino) {
        return make_error(step(), where, "a link that leads back to where it is", cure);
      }
    }
    if (inside_.size() >= kMaxDepth) {
      return make_error(step(), where, "nested deeper than 200 directories", cure);
    }
    return {};
  }

  // path_ is the directory's path. Returns how many names are in it, ignored or not.
  Result<size_t> enter(UniqueFd opened, const struct stat& info) {
    TRY(check_nesting(info));
    int dir = opened.get();
    auto names = list(dir);
    if (!names) return failed(names.error(), path_);
    size_t rules_before = rules_.size(), path_before = path_.size();
    inside_.push_back({info.st_dev, info.st_ino});
    TRY(read_rules(dir, *names, path_));
    for (const Name& name : *names) {
      if (!path_.empty()) path_ += '/';
      path_ += name.name;
      TRY(visit(dir, name));
      path_.resize(path_before);
    }
    rules_.erase(rules_.begin() + static_cast<ptrdiff_t>(rules_before), rules_.end());
    inside_.pop_back();
    return names->size();
  }

  Status visit(int dir, const Name& name) {
    // Most ignored names needn't be looked at.
    bool known = name.type == DT_REG || name.type == DT_DIR;
    if (known && is_ignored(path_, name.type == DT_DIR)) return {};
    struct stat info;
    if (::fstatat(dir, name.name.c_str(), &info, 0) != 0) {
      if (errno == ENOENT || errno == ELOOP) return visit_link(dir, name);
      return failed(sys_error("stat", ""), path_);
    }
    bool is_directory = S_ISDIR(info.st_mode);
    if (!known && is_ignored(path_, is_directory)) return {};
    if (is_directory) return visit_directory(dir, name, info);
    return S_ISREG(info.st_mode) ? add_entry(path_, WalkEntry::Type::kFile, info) : Status();
  }

  // It leads nowhere, or it is gone since we listed.
  Status visit_link(int dir, const Name& name) {
    struct stat info;
    if (::fstatat(dir, name.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return {};
    if (!S_ISLNK(info.st_mode) || is_ignored(path_, false)) return {};
    char target[4096];
    ssize_t size = ::readlinkat(dir, name.name.c_str(), target, sizeof target);
    if (size < 0) return {};
    TRY(add_entry(path_, WalkEntry::Type::kLink, info));
    WalkEntry& entry = walk_[walk_.size() - 1];
    store::Hasher hash;
    std::string raw = hash.bytes(target, static_cast<size_t>(size)).raw();
    std::memcpy(entry.content, raw.data(), sizeof entry.content);
    entry.hashed = true;
    return {};
  }

  // Left out again when everything in it is ignored, as Ray leaves it out.
  Status visit_directory(int dir, const Name& name, const struct stat& info) {
    auto opened = sys::open_at(dir, name.name, O_RDONLY | O_DIRECTORY);
    if (!opened) return failed(opened.error(), path_);
    size_t entries = walk_.size();
    TRY(add_entry(path_, WalkEntry::Type::kDirectory, info));
    size_t names = TRY(enter(std::move(*opened), info));
    if (walk_.size() == entries + 1 && names > 0) walk_.resize(entries);
    return {};
  }

  const Source& source_;
  Walk walk_;
  std::vector<Rules> rules_;
  std::vector<Visit> inside_;
  std::string path_;
};

}  // namespace

std::string_view Walk::path(size_t i) const {
  const WalkEntry& entry = (*this)[i];
  return std::string_view(blocks_[i / kBlock].paths).substr(entry.path_at, entry.path_size);
}

void Walk::add(std::string_view path, WalkEntry entry) {
  if (size_ % kBlock == 0) {
    if (size_ > 0) blocks_.back().paths.shrink_to_fit();
    blocks_.emplace_back();
    if (size_ > 0) blocks_.back().entries.reserve(kBlock);
  }
  Block& block = blocks_.back();
  entry.path_at = static_cast<uint32_t>(block.paths.size());
  entry.path_size = static_cast<uint32_t>(path.size());
  block.paths += path;
  block.entries.push_back(entry);
  ++size_;
}

void Walk::resize(size_t size) {
  blocks_.resize((size + kBlock - 1) / kBlock);
  if (size % kBlock != 0) {
    Block& block = blocks_.back();
    if (block.entries.size() > size % kBlock)
      block.paths.resize(block.entries[size % kBlock].path_at);
    block.entries.resize(size % kBlock);
  }
  size_ = size;
}

void WalkEntry::set_times(const struct stat& info) {
  device = info.st_dev;
  inode = info.st_ino;
  mtime_ns = nanoseconds(info.st_mtim);
  ctime_ns = nanoseconds(info.st_ctim);
}

bool WalkEntry::same_file(const WalkEntry& other) const {
  return type == other.type && mode == other.mode && size == other.size && device == other.device &&
         inode == other.inode && mtime_ns == other.mtime_ns && ctime_ns == other.ctime_ns;
}

Result<Walk> walk_source(const Source& source, const std::vector<std::string>& excludes) {
  return Walker(source, excludes).run();
}

Result<Walk> walk_file(const Source& source) {
  struct stat info;
  if (::stat(source.path.c_str(), &info) != 0) return sys_error("stat", source.path);
  Walk walk;
  walk.root = source.path;
  WalkEntry entry;
  entry.mode = info.st_mode;
  entry.size = static_cast<uint64_t>(info.st_size);
  entry.set_times(info);
  walk.add("", entry);
  return walk;
}

uint32_t layer_mode(const WalkEntry& entry) {
  if (entry.type == WalkEntry::Type::kLink) return 0777;
  if (entry.type == WalkEntry::Type::kDirectory) return (entry.mode & 0777) | 0755;
  return (entry.mode & 0777) | 0444 | (entry.mode & 0100 ? 0111 : 0);
}

namespace {

// One key for what is walked and for what was copied from it.
class TreeKey {
 public:
  explicit TreeKey(const Source& source) {
    bool module = source.use == SourceUse::kPyModule;
    hash_.field("source-directory").number(1).field(module ? source.name : "").number(module);
  }
  void add(WalkEntry::Type type, uint32_t mode, std::string_view path, const void* sha256) {
    hash_.number(static_cast<uint64_t>(type)).number(mode).field(path).bytes(sha256, 32);
  }
  store::Key key() { return store::Key{hash_.hex()}; }

 private:
  store::Hasher hash_;
};

void add_copied(TreeKey& key, const store::Entry& entry, std::string_view path) {
  using Type = store::Entry::Type;
  if (entry.type == Type::kDirectory) {
    key.add(WalkEntry::Type::kDirectory, entry.mode, path, WalkEntry().content);
  } else if (entry.type == Type::kLink) {
    store::Hasher target;
    std::string raw = target.bytes(entry.content.data(), entry.content.size()).raw();
    key.add(WalkEntry::Type::kLink, entry.mode, path, raw.data());
  } else {
    key.add(WalkEntry::Type::kFile, entry.mode, path, entry.content.data());
  }
}

}  // namespace

store::Key walk_key(const Source& source, const Walk& walk) {
  TreeKey key(source);
  for (size_t i = 0; i < walk.size(); ++i) {
    key.add(walk[i].type, layer_mode(walk[i]), walk.path(i), walk[i].content);
  }
  return key.key();
}

store::Key copied_key(const Source& source, const store::Manifest& manifest) {
  TreeKey key(source);
  const std::string top = source.use == SourceUse::kPyModule ? source.name : "";
  for (const store::Entry& entry : manifest.entries()) {
    // A module stands in a root of ours.
    if (!top.empty() && !sys::is_beneath(entry.path, top)) continue;
    if (source.kind == Source::Kind::kFile) return file_key(source, entry.content, entry.mode);
    std::string_view path = entry.path;
    if (!top.empty()) path.remove_prefix(std::min(path.size(), top.size() + 1));
    add_copied(key, entry, path);
  }
  return key.key();
}

}  // namespace rtlaunch::installers
