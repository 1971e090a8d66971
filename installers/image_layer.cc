#include "installers/image_layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>

#include "installers/archive_text.h"
#include "installers/archive_tree.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using sys::leaf_of;
using sys::parent_of;

using store::Entry;
using Type = Entry::Type;

constexpr const char* kStep = "image";
constexpr std::string_view kWhiteout = ".wh.", kOpaque = ".wh..wh..opq", kPlain = ".wh..wh.";
constexpr size_t kOpenDirectories = 64;
constexpr int64_t kLatest = int64_t{1} << 33;  // the year 2242: what every file system can keep

std::string joined(const std::string& parent, const std::string& leaf) {
  return parent.empty() ? leaf : parent + "/" + leaf;
}

// The archive, read from a stream.
class Tar {
 public:
  Tar(ImageStream& stream, const std::string& name)
      : stream_(stream), name_(name), archive_(::archive_read_new(), ::archive_read_free) {
    ::archive_read_support_format_tar(archive_.get());
    ::archive_read_support_format_empty(archive_.get());
    opened_ = ::archive_read_open(archive_.get(), this, nullptr, &Tar::read, nullptr) == ARCHIVE_OK;
  }
  Tar(const Tar&) = delete;

  Result<archive_entry*> next() {
    archive_entry* entry = nullptr;
    if (!opened_) return broken();
    int status = ::archive_read_next_header(archive_.get(), &entry);
    if (status == ARCHIVE_EOF) return static_cast<archive_entry*>(nullptr);
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) return broken();
    return entry;
  }

  // False at the end of the entry.
  Result<bool> block(const void** data, size_t* size, la_int64_t* offset) {
    int status = ::archive_read_data_block(archive_.get(), data, size, offset);
    if (status == ARCHIVE_EOF) return false;
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) return broken();
    return true;
  }

 private:
  static la_ssize_t read(archive* archive, void* self, const void** data) {
    Tar* tar = static_cast<Tar*>(self);
    Result<size_t> count = tar->stream_.next(data);
    if (count) return static_cast<la_ssize_t>(*count);
    tar->failure_ = std::move(count.error());
    ::archive_set_error(archive, EIO, "unreadable");
    return -1;
  }

  Error broken() {
    if (!failure_.ok()) return failure_.error();
    const char* text = ::archive_error_string(archive_.get());
    return make_error(kStep, name_, text == nullptr ? "is no tar archive" : text,
                      "pull or make the image again");
  }

  ImageStream& stream_;
  const std::string& name_;
  std::unique_ptr<archive, int (*)(archive*)> archive_;
  bool opened_ = false;
  Status failure_;
};

class Applier {
 public:
  Applier(Tar& tar, const std::string& name, int dir, LayerLeftOut* left_out,
          const LayerLimits& limits)
      : tar_(tar), name_(name), dir_(dir), left_out_(*left_out), limits_(limits) {
    entries_[""] = directory_entry("", 0755, store::kFixedMtime);
  }

  Status take(archive_entry* entry) {
    if (++count_ > limits_.max_entries) {
      return refused("", "more than " + std::to_string(limits_.max_entries) + " entries");
    }
    std::string path = TRY(path_of(archive_name(entry)));
    std::string leaf = leaf_of(path);
    if (leaf.starts_with(kWhiteout)) return take_mark(parent_of(path), leaf);
    int64_t mtime = ::archive_entry_mtime(entry);
    if (mtime < 0 || mtime > kLatest) mtime = store::kFixedMtime;
    std::string target = archive_hard_link(entry);
    if (!target.empty()) return add_hard_link(path, TRY(path_of(target)));
    uint32_t mode = ::archive_entry_perm(entry) & 07777;
    std::map<std::string, std::string> attributes = attributes_of(entry);
    switch (::archive_entry_filetype(entry)) {
      case AE_IFDIR:
        return add_directory(path, mode, mtime, attributes);
      case AE_IFLNK:
        if (!attributes.empty()) ++left_out_.attributes;
        return add_link(path, archive_symlink(entry), mtime);
      case AE_IFREG:
        return add_file(path, mode, mtime, ::archive_entry_size(entry), attributes);
      case AE_IFCHR:
      case AE_IFBLK:
        return add_device(path, ::archive_entry_filetype(entry) | (mode & 0777),
                          ::archive_entry_rdev(entry), mtime);
      default:
        ++left_out_.devices;
        return {};
    }
  }

  // Marks mean what lies in other layers: what this one has itself stays.
  Status finish(store::Manifest& manifest) {
    for (const std::string& path : whiteouts_) TRY(add_whiteout(path));
    for (const std::string& path : opaque_) TRY(make_opaque(path));
    parents_.clear();
    for (const auto& [path, entry] : entries_) manifest.add(entry);
    return manifest.finish();
  }

 private:
  static Entry directory_entry(const std::string& path, uint32_t mode, int64_t mtime) {
    return Entry{path, Type::kDirectory, mode, 0, "", mtime, false};
  }

  Error refused(const std::string& path, const std::string& why) const {
    return make_error(kStep, name_, path.empty() ? why : printable(path) + ": " + why,
                      "make the image again without it");
  }

  // A leading slash means the image's root.
  Result<std::string> path_of(std::string_view name) const {
    std::string path;
    if (name.size() > 4095) return refused(std::string(name), "the name is too long");
    while (!name.empty()) {
      size_t slash = name.find('/');
      std::string_view part = name.substr(0, slash);
      name = slash == std::string_view::npos ? std::string_view() : name.substr(slash + 1);
      if (part.empty() || part == ".") continue;
      if (part == "..") return refused(path + "/..", "leads out of the image (`..`)");
      if (part.size() > 255) return refused(std::string(part), "a name is over 255 bytes");
      if (!path.empty()) path += '/';
      path += part;
    }
    return path;
  }

  Status take_mark(const std::string& parent, const std::string& leaf) {
    if (leaf == kOpaque) {
      opaque_.push_back(parent);
    } else if (!leaf.starts_with(kPlain)) {  // others are aufs's own books
      std::string hidden = leaf.substr(kWhiteout.size());
      if (hidden.empty() || hidden == "." || hidden == "..") {
        return refused(joined(parent, leaf), "a whiteout of nothing");
      }
      whiteouts_.push_back(joined(parent, hidden));
    }
    return {};
  }

  // --- reaching places ---

  Result<int> parent(const std::string& path) { return directory(parent_of(path)); }

  // Made on the way if need be; its real mode comes with its own entry, or stays.
  Result<int> directory(const std::string& path) {
    if (auto open = parents_.find(path); open != parents_.end()) return open->second.get();
    auto known = entries_.find(path);
    if (known == entries_.end()) {
      int above = TRY(parent(path));
      if (::mkdirat(above, leaf_of(path).c_str(), 0755) != 0) return sys_error(kStep, path);
      entries_[path] = directory_entry(path, 0755, store::kFixedMtime);
    } else if (known->second.type != Type::kDirectory) {
      return refused(path, known->second.type == Type::kLink ? "a link, and something lies below it"
                                                             : "both a file and a directory");
    }
    UniqueFd fd = TRY(sys::open_beneath(dir_, path.empty() ? "." : path, O_RDONLY | O_DIRECTORY));
    if (parents_.size() >= kOpenDirectories) parents_.clear();
    return parents_.emplace(path, std::move(fd)).first->second.get();
  }

  // A name that comes twice: the first is gone, with all below it.
  Status make_room(const std::string& path) {
    if (path.empty()) return refused("/", "the root is no directory");
    auto known = entries_.find(path);
    if (known == entries_.end()) return {};
    parents_.clear();  // of what goes, some may be open
    int above = TRY(parent(path));
    TRY(sys::remove_deep_tree_at(above, leaf_of(path)));
    std::erase_if(entries_, [&](const auto& one) { return sys::is_beneath(one.first, path); });
    return {};
  }

  // --- what isn't for everybody ---

  bool keeps_special() const { return limits_.special_files && ::geteuid() == 0; }

  uint32_t kept_mode(uint32_t mode, bool is_directory) {
    uint32_t special = keeps_special() ? 06000 : 0;
    if ((mode & 06000 & ~special) != 0) ++left_out_.setuid;
    // Its owner is who has to read and remove it.
    if (is_directory) return (mode & (01777 | special)) | 0700;
    return (mode & (0777 | special)) | 0400;
  }

  static std::map<std::string, std::string> attributes_of(archive_entry* entry) {
    std::map<std::string, std::string> attributes;
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    ::archive_entry_xattr_reset(entry);
    while (::archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK)
      if (name != nullptr) attributes[name] = std::string(static_cast<const char*>(value), size);
    return attributes;
  }

  // Those that stay; what the file system doesn't take is left out as well.
  void set_attributes(int fd, const std::map<std::string, std::string>& attributes, Entry* entry) {
    for (const auto& [name, value] : attributes) {
      bool stays = store::is_kept_attribute(name) && (name.starts_with("user.") || keeps_special());
      if (stays && sys::set_xattr(fd, name, value)) entry->attributes[name] = value;
    }
    if (entry->attributes.size() < attributes.size()) ++left_out_.attributes;
  }

  // --- kinds ---

  Status add_directory(const std::string& path, uint32_t mode, int64_t mtime,
                       const std::map<std::string, std::string>& attributes) {
    auto known = entries_.find(path);
    if (known != entries_.end() && known->second.type != Type::kDirectory) TRY(make_room(path));
    int fd = TRY(directory(path));
    Entry& entry = entries_[path];
    for (const auto& [name, value] : entry.attributes) TRY(sys::remove_xattr(fd, name));
    entry.attributes.clear();
    set_attributes(fd, attributes, &entry);
    entry.mode = kept_mode(mode, true);
    entry.mtime = mtime;
    return {};
  }

  // c0:0 is overlayfs' whiteout, which only marks make.
  Status add_device(const std::string& path, mode_t mode, dev_t number, int64_t mtime) {
    TRY(make_room(path));
    bool whiteout = S_ISCHR(mode) && number == 0;
    int above = TRY(parent(path));
    std::string leaf = leaf_of(path);
    bool made = keeps_special() && !whiteout && ::mknodat(above, leaf.c_str(), mode, number) == 0;
    if (!made) {
      ++left_out_.devices;
      return {};
    }
    if (::fchmodat(above, leaf.c_str(), mode & 0777, 0) != 0) return sys_error(kStep, path);
    TRY(sys::set_mtime_at(above, leaf, mtime));
    std::string text = store::device_text(mode, number);
    entries_[path] = Entry{path, Type::kDevice, mode & 0777, 0, text, mtime, false};
    return {};
  }

  Status add_link(const std::string& path, const std::string& target, int64_t mtime) {
    if (target.empty() || target.size() > 4095) return refused(path, "a link without a target");
    TRY(make_room(path));
    int above = TRY(parent(path));
    std::string leaf = leaf_of(path);
    if (::symlinkat(target.c_str(), above, leaf.c_str()) != 0) return sys_error(kStep, path);
    TRY(sys::set_mtime_at(above, leaf, mtime));
    entries_[path] = Entry{path, Type::kLink, 0777, 0, target, mtime, false};
    return {};
  }

  Status add_hard_link(const std::string& path, const std::string& target) {
    auto found = entries_.find(target);
    if (found == entries_.end() || found->second.type == Type::kDirectory) {
      return refused(
          path, "a hard link to " + printable(target) + ", which is no file of the same layer");
    }
    if (path == target) return {};
    Entry entry = found->second;
    TRY(make_room(path));
    int above = TRY(parent(path));
    UniqueFd from = TRY(sys::open_beneath(dir_, parent_of(target).empty() ? "." : parent_of(target),
                                          O_PATH | O_DIRECTORY));
    if (::linkat(from.get(), leaf_of(target).c_str(), above, leaf_of(path).c_str(), 0) != 0) {
      return sys_error(kStep, path);
    }
    entry.path = path;
    entries_[path] = std::move(entry);
    return {};
  }

  Status add_file(const std::string& path, uint32_t mode, int64_t mtime, int64_t size,
                  const std::map<std::string, std::string>& attributes) {
    TRY(make_room(path));
    int above = TRY(parent(path));
    Entry entry{path, Type::kFile, kept_mode(mode, false), 0, "", mtime, false};
    UniqueFd file =
        TRY(sys::open_at(above, leaf_of(path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    TRY(write_file(file.get(), std::max<int64_t>(size, 0), entry));
    TRY(sys::set_mode(file.get(), entry.mode, path));
    set_attributes(file.get(), attributes, &entry);
    TRY(sys::set_mtime(file.get(), mtime, path));
    entries_[path] = std::move(entry);
    return {};
  }

  Status write_file(int file, int64_t size, Entry& entry) {
    store::Hasher hash;
    int64_t at = 0;
    const void* data = nullptr;
    size_t count = 0;
    la_int64_t offset = 0;
    while (TRY(tar_.block(&data, &count, &offset))) {
      TRY(skip_hole(file, offset, entry.path, &at, hash));
      TRY(sys::write_all(file, {static_cast<const char*>(data), count}, entry.path));
      hash.bytes(data, count);
      at += static_cast<int64_t>(count);
    }
    if (at < size) {
      TRY(skip_hole(file, size, entry.path, &at, hash));
      if (::ftruncate(file, size) != 0) return sys_error(kStep, entry.path);
    }
    entry.size = static_cast<uint64_t>(at);
    if ((bytes_ += entry.size) > limits_.max_bytes) return refused("", "it is too large");
    entry.content = hash.raw();
    return {};
  }

  Status skip_hole(int file, int64_t to, const std::string& path, int64_t* at,
                   store::Hasher& hash) {
    static const char kZeros[64 << 10] = {};
    if (to > static_cast<int64_t>(limits_.max_bytes)) return refused(path, "it is too large");
    if (to <= *at) return {};
    if (::lseek(file, to, SEEK_SET) != to) return sys_error(kStep, path);
    for (; *at < to; *at += std::min<int64_t>(sizeof kZeros, to - *at)) {
      hash.bytes(kZeros, static_cast<size_t>(std::min<int64_t>(sizeof kZeros, to - *at)));
    }
    return {};
  }

  // What this layer has at the same path hides the others' anyhow; a directory hides it all.
  Status add_whiteout(const std::string& path) {
    auto known = entries_.find(path);
    if (known != entries_.end()) {
      known->second.opaque = known->second.type == Type::kDirectory;
      return {};
    }
    int above = TRY(parent(path));
    if (::mknodat(above, leaf_of(path).c_str(), S_IFCHR, makedev(0, 0)) != 0) {
      return sys_error("mknod", path);
    }
    entries_[path] = Entry{path, Type::kWhiteout, 0, 0, "", store::kFixedMtime, false};
    return {};
  }

  Status make_opaque(const std::string& path) {
    TRY(directory(path));
    entries_[path].opaque = true;
    return {};
  }

  Tar& tar_;
  const std::string& name_;
  const int dir_;
  LayerLeftOut& left_out_;
  const LayerLimits& limits_;
  uint64_t count_ = 0, bytes_ = 0;
  std::map<std::string, Entry> entries_;
  std::map<std::string, UniqueFd> parents_;  // open directories
  std::vector<std::string> whiteouts_, opaque_;
};

Error explained(Error error) {
  if (error.code == ENOSPC || error.code == EDQUOT) {
    error.step = kStep;
    error.cure = "free some disk space, or use another --store";
  }
  return error;
}

Status apply(Tar& tar, Applier& applier, ImageStream& stream, store::Manifest& manifest,
             const std::function<void(uint64_t)>& progress) {
  while (archive_entry* entry = TRY(tar.next())) {
    TRY(applier.take(entry));
    if (progress) progress(stream.bytes());
  }
  return applier.finish(manifest);
}

}  // namespace

Status apply_image_layer(ImageStream& stream, const std::string& name, int dir,
                         store::Manifest& manifest, LayerLeftOut* left_out,
                         const LayerLimits& limits, const std::function<void(uint64_t)>& progress) {
  sys::AsRoot root;
  Utf8Locale locale;
  Tar tar(stream, name);
  Applier applier(tar, name, dir, left_out, limits);
  Status applied = apply(tar, applier, stream, manifest, progress);
  if (!applied) return explained(std::move(applied.error()));
  return {};
}

}  // namespace rtlaunch::installers
