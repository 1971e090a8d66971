#include "installers/archive_tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch {
namespace {

constexpr size_t kOpenDirectories = 64;
constexpr const char* kStep = "unpack";

Error hostile(const std::string& archive, std::string_view name, const std::string& why) {
  return make_error(kStep, archive, printable(name) + ": " + why,
                    "make the archive again without this entry, or unpack it yourself and give the "
                    "directory");
}

const char* leaf_name(const std::string& path) {
  size_t slash = path.rfind('/');
  return path.c_str() + (slash == std::string::npos ? 0 : slash + 1);
}

Status set_times(int fd, int64_t mtime, const std::string& path) {
  const timespec times[2] = {{mtime, 0}, {mtime, 0}};
  if (::futimens(fd, times) != 0) return sys_error(kStep, path);
  return {};
}

// umask(2) can't be read without changing it for every thread.
mode_t current_umask() {
  auto status = sys::read_file("/proc/self/status");
  if (!status) return 0777;
  size_t at = status->find("\nUmask:");
  if (at == std::string::npos) return 0777;
  return static_cast<mode_t>(std::strtoul(status->c_str() + at + 7, nullptr, 8));
}

Error too_many(const TreeOptions& options) {
  return make_error(kStep, options.archive,
                    "holds more than " + std::to_string(options.max_files) + " entries",
                    "split it, or give a directory");
}

}  // namespace

std::string printable(std::string_view name) {
  static const char kHex[] = "0123456789abcdef";
  std::string text;
  for (unsigned char c : name.substr(0, 200)) {
    if (c >= 0x20 && c != 0x7f) {
      text += static_cast<char>(c);
    } else {
      text.append("\\x") += kHex[c >> 4];
      text += kHex[c & 15];
    }
  }
  return name.size() > 200 ? text + "..." : text;
}

Result<std::string> entry_path(std::string_view name, const std::string& archive) {
  if (name.empty()) return hostile(archive, "(empty)", "an entry has no name");
  if (name.size() > 4095) return hostile(archive, name, "the name is longer than 4095 bytes");
  for (unsigned char c : name) {
    if (c < 0x20 || c == 0x7f) return hostile(archive, name, "a control character in the name");
    if (c == '\\') return hostile(archive, name, "a backslash in the name");
  }
  if (name[0] == '/') return hostile(archive, name, "an absolute name");
  if (name.size() > 1 && name[1] == ':' && std::isalpha(static_cast<unsigned char>(name[0]))) {
    return hostile(archive, name, "a drive letter in the name");
  }
  std::string path;
  path.reserve(name.size());
  while (!name.empty()) {
    size_t slash = name.find('/');
    std::string_view part = name.substr(0, slash);
    name = slash == std::string_view::npos ? std::string_view() : name.substr(slash + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") return hostile(archive, path + "/..", "leads out of the archive (`..`)");
    if (part.size() > 255) return hostile(archive, part, "a part of the name is over 255 bytes");
    if (!path.empty()) path += '/';
    path += part;
  }
  return path;
}

// `..` only at the beginning: after a name it would mean whatever that name is a link to.
bool link_stays_inside(std::string_view path, std::string_view target) {
  if (target.empty() || target[0] == '/' || target.find('\0') != target.npos) return false;
  size_t depth = 0;
  for (char c : path) depth += c == '/';
  bool named = false;
  while (!target.empty()) {
    size_t slash = target.find('/');
    std::string_view part = target.substr(0, slash);
    target = slash == std::string_view::npos ? std::string_view() : target.substr(slash + 1);
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      named = true;
    } else if (named || depth-- == 0) {
      return false;
    }
  }
  return true;
}

Status OpenFile::write(const void* data, size_t size) {
  TRY(tree_->count_bytes(size));
  hash_.bytes(data, size);
  size_ += size;
  ends_in_hole_ = false;
  Status written = sys::write_all(fd_.get(), {static_cast<const char*>(data), size}, path_);
  if (written) return {};
  Error error = std::move(written.error());
  error.step = kStep;
  if (error.code == ENOSPC || error.code == EDQUOT) {
    error.cure = "free some disk space, or use another --store";
  }
  return error;
}

// Its zeros are content like any other: they count, and are hashed.
Status OpenFile::skip_to(uint64_t end) {
  static const char kZeros[64 << 10] = {};
  if (end <= size_) return {};
  TRY(tree_->count_bytes(end - size_));
  while (size_ < end) {
    size_t size = std::min<uint64_t>(sizeof kZeros, end - size_);
    hash_.bytes(kZeros, size);
    size_ += size;
  }
  ends_in_hole_ = true;
  if (::lseek(fd_.get(), static_cast<off_t>(end), SEEK_SET) < 0) return sys_error(kStep, path_);
  return {};
}

Status OpenFile::restart() {
  tree_->bytes_ -= size_;
  size_ = 0;
  ends_in_hole_ = false;
  hash_ = store::Hasher();
  if (::ftruncate(fd_.get(), 0) != 0 || ::lseek(fd_.get(), 0, SEEK_SET) != 0) {
    return sys_error(kStep, path_);
  }
  return {};
}

TreeWriter::TreeWriter(int dir, store::Manifest& manifest, TreeOptions options)
    : dir_(dir), manifest_(manifest), options_(std::move(options)), umask_(current_umask()) {
  directories_[""] =
      store::Entry{"", store::Entry::Type::kDirectory, 0755, 0, "", store::kFixedMtime, false};
}

TreeWriter::~TreeWriter() = default;

Status TreeWriter::count_entry() {
  if (++entries_ > options_.max_files) return too_many(options_);
  return {};
}

Status TreeWriter::count_bytes(uint64_t bytes) {
  if ((bytes_ += bytes) <= options_.max_bytes) return {};
  return make_error(kStep, options_.archive,
                    "unpacks to more than " + std::to_string(options_.max_bytes) + " bytes",
                    "give an archive of a sane size");
}

Error TreeWriter::taken(const std::string& path) const {
  return hostile(options_.archive, path,
                 "the name is there twice, or both as a file and a directory");
}

uint32_t TreeWriter::kept_mode(uint32_t mode, bool is_directory) const {
  bool runs = is_directory || (mode & 0100);
  if (options_.modes == TreeOptions::Modes::kNormal || (mode & 0777) == 0) {
    return runs ? 0755 : 0644;
  }
  return (mode & 0777) | 0444 | (is_directory ? 0755 : runs ? 0111 : 0);
}

int64_t TreeWriter::kept_time(int64_t mtime) const {
  if (options_.times == TreeOptions::Times::kFixed || mtime < store::kFixedMtime) {
    return store::kFixedMtime;
  }
  return mtime;
}

// Directories are ours alone, so one that exists and isn't in our table is an entry of another
// type.
Result<TreeWriter::Directory> TreeWriter::make_directory(const std::string& path) {
  Directory parent = TRY(directory(sys::parent_of(path)));
  if (::mkdirat(parent->get(), leaf_name(path), 0755) != 0) {
    return errno == EEXIST ? taken(path) : sys_error(kStep, path);
  }
  UniqueFd fd =
      TRY(sys::open_at(parent->get(), leaf_name(path), O_PATH | O_DIRECTORY | O_NOFOLLOW));
  directories_[path] =
      store::Entry{path, store::Entry::Type::kDirectory, 0755, 0, "", store::kFixedMtime, false};
  return std::make_shared<UniqueFd>(std::move(fd));
}

Result<TreeWriter::Directory> TreeWriter::directory(const std::string& path) {
  if (auto found = open_.find(path); found != open_.end()) {
    recent_.splice(recent_.begin(), recent_, found->second);
    return recent_.front().second;
  }
  Directory opened;
  if (path.empty()) {
    opened = std::make_shared<UniqueFd>(TRY(sys::open_at(dir_, ".", O_PATH | O_DIRECTORY)));
  } else if (directories_.contains(path)) {
    opened = std::make_shared<UniqueFd>(TRY(sys::open_beneath(dir_, path, O_PATH | O_DIRECTORY)));
  } else {
    TRY(count_entry());
    opened = TRY(make_directory(path));
  }
  recent_.emplace_front(path, opened);
  open_[recent_.front().first] = recent_.begin();
  if (recent_.size() > kOpenDirectories) {
    open_.erase(recent_.back().first);
    recent_.pop_back();
  }
  return opened;
}

Result<TreeWriter::Directory> TreeWriter::parent_of(const std::string& path) {
  std::lock_guard lock(mutex_);
  return directory(sys::parent_of(path));
}

Status TreeWriter::make_dir(const std::string& path, uint32_t mode, int64_t mtime) {
  sys::AsRoot root;
  std::lock_guard lock(mutex_);
  TRY(directory(path));
  store::Entry& entry = directories_[path];
  entry.mode = kept_mode(mode, true);
  entry.mtime = kept_time(mtime);
  return {};
}

Result<OpenFile> TreeWriter::create(const std::string& path, uint32_t mode) {
  sys::AsRoot root;
  if (path.empty()) return taken(path);
  TRY(count_entry());
  Directory parent = TRY(parent_of(path));
  OpenFile file(this);
  file.path_ = path;
  file.mode_ = kept_mode(mode, false);
  auto fd = sys::open_at(parent->get(), leaf_name(path), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW,
                         file.mode_);
  if (!fd) {
    if (fd.error().code == EEXIST) return taken(path);
    fd.error().step = kStep;
    return fd.error();
  }
  file.fd_ = std::move(*fd);
  return file;
}

Status TreeWriter::close(OpenFile file, int64_t mtime, std::string* content) {
  sys::AsRoot root;
  store::Entry entry;
  entry.mode = file.mode_;
  entry.size = file.size_;
  entry.mtime = kept_time(mtime);
  entry.content = file.hash_.raw();
  if (content != nullptr) *content = entry.content;
  if (file.ends_in_hole_ && ::ftruncate(file.fd_.get(), static_cast<off_t>(file.size_)) != 0) {
    return sys_error(kStep, file.path_);
  }
  if ((file.mode_ & umask_) != 0 && ::fchmod(file.fd_.get(), file.mode_) != 0) {
    return sys_error(kStep, file.path_);
  }
  TRY(set_times(file.fd_.get(), entry.mtime, file.path_));
  entry.path = std::move(file.path_);
  std::lock_guard lock(mutex_);
  manifest_.add(entry);
  return {};
}

Status TreeWriter::add_link(const std::string& path, const std::string& target, int64_t mtime) {
  if (path.empty()) return taken(path);
  if (target.size() > 4095 || !(options_.any_links || link_stays_inside(path, target))) {
    return hostile(options_.archive, path, "a link that points out of the archive");
  }
  TRY(count_entry());
  std::lock_guard lock(mutex_);
  links_.push_back({path, target, kept_time(mtime)});
  return {};
}

Status TreeWriter::make_link(const Link& link) {
  Directory parent = TRY(parent_of(link.path));
  const char* leaf = leaf_name(link.path);
  if (::symlinkat(link.target.c_str(), parent->get(), leaf) != 0) {
    return errno == EEXIST ? taken(link.path) : sys_error(kStep, link.path);
  }
  const timespec times[2] = {{link.mtime, 0}, {link.mtime, 0}};
  if (::utimensat(parent->get(), leaf, times, AT_SYMLINK_NOFOLLOW) != 0) {
    return sys_error(kStep, link.path);
  }
  manifest_.add(
      store::Entry{link.path, store::Entry::Type::kLink, 0777, 0, link.target, link.mtime, false});
  return {};
}

Status TreeWriter::settle_directory(const store::Entry& entry) {
  UniqueFd fd =
      TRY(sys::open_beneath(dir_, entry.path.empty() ? "." : entry.path, O_RDONLY | O_DIRECTORY));
  if (::fchmod(fd.get(), entry.mode) != 0) return sys_error(kStep, entry.path);
  return set_times(fd.get(), entry.mtime, entry.path);
}

Status TreeWriter::finish() {
  sys::AsRoot root;
  for (const Link& link : links_) TRY(make_link(link));
  links_.clear();
  open_.clear();
  recent_.clear();
  for (auto entry = directories_.rbegin(); entry != directories_.rend(); ++entry) {
    TRY(settle_directory(entry->second));
    manifest_.add(entry->second);
  }
  directories_.clear();
  return {};
}

}  // namespace rtlaunch
