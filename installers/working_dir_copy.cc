#include "installers/working_dir_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

constexpr size_t kChunk = 128 << 10;
constexpr int kAttempts = 3;
constexpr size_t kStep = 16;  // neighbours that one thread takes at a time: they share a folder
static_assert(Walk::kBlock % kStep == 0);

Error gone(const std::string& path) {
  return Error{"copy",
               ESTALE,
               path,
               "changes while it is copied",
               "wait for whoever writes it, or put it into excludes, .gitignore or .rayignore",
               125};
}

bool has_holes(const struct stat& info) { return info.st_blocks * 512 < info.st_size; }

class Copier {
 public:
  Copier(Walk& walk, const std::string& prefix, TreeWriter& tree, Deadline deadline,
         const std::function<void(uint64_t)>& progress)
      : walk_(walk),
        prefix_(prefix),
        tree_(tree),
        deadline_(deadline),
        progress_(progress),
        done_(walk.size() / Walk::kBlock + 1) {}

  Status run() {
    size_t files = 0;
    for (size_t i = 0; i < walk_.size(); ++i) {
      WalkEntry::Type type = walk_[i].type;
      if (type == WalkEntry::Type::kFile) ++files;
      if (type == WalkEntry::Type::kDirectory) TRY(make_dir(i));
      if (type == WalkEntry::Type::kLink) TRY(copy_link(i));
    }
    if (files < 16) return work(true);
    Status theirs;
    std::thread helper([&] { theirs = work(false); });
    Status mine = work(true);
    helper.join();
    return mine ? std::move(theirs) : std::move(mine);
  }

 private:
  std::string source(size_t i) const {
    std::string_view path = walk_.path(i);
    return path.empty() ? walk_.root : walk_.root + "/" + std::string(path);
  }
  std::string target(size_t i) const {
    std::string path = prefix_ + std::string(walk_.path(i));
    if (!path.empty() && path.back() == '/') path.pop_back();
    return path;
  }
  int64_t seconds(size_t i) const { return walk_[i].mtime_ns / 1'000'000'000; }

  Status make_dir(size_t i) { return tree_.make_dir(target(i), layer_mode(walk_[i]), seconds(i)); }

  Status copy_link(size_t i) {
    char text[4096];
    ssize_t size = ::readlink(source(i).c_str(), text, sizeof text);
    if (size <= 0) return gone(source(i));
    store::Hasher hash;
    std::string raw = hash.bytes(text, static_cast<size_t>(size)).raw();
    if (std::memcmp(raw.data(), walk_[i].content, raw.size()) != 0) return gone(source(i));
    return tree_.add_link(target(i), {text, static_cast<size_t>(size)}, seconds(i));
  }

  Status work(bool reports) {
    std::vector<char> buffer(kChunk);
    for (size_t from = next_.fetch_add(kStep); from < walk_.size(); from = next_.fetch_add(kStep)) {
      size_t end = std::min(from + kStep, walk_.size());
      for (size_t i = from; i < end; ++i) {
        if (stop_) return {};
        Status copied = walk_[i].type == WalkEntry::Type::kFile ? copy(i, buffer) : Status();
        if (!copied) {
          stop_ = true;
          return copied;
        }
        if (reports && progress_) progress_(tree_.bytes());
      }
      release(from / Walk::kBlock, end - from);
    }
    return {};
  }

  // `count` more of the block's entries are done.
  void release(size_t block, size_t count) {
    size_t size = std::min(Walk::kBlock, walk_.size() - block * Walk::kBlock);
    if ((done_[block] += count) == size) walk_.release(block);
  }

  Status copy(size_t i, std::vector<char>& buffer) {
    std::string path = source(i);
    if (std::chrono::steady_clock::now() > deadline_) {
      return make_error("copy", path, "it took longer than the environment may",
                        "raise config.setup_timeout_seconds, or exclude what isn't needed");
    }
    auto fd = sys::open_at(AT_FDCWD, path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
    if (!fd) return fd.error().code == ENOENT ? gone(path) : unreadable(fd.error(), path);
    struct stat before, after;
    if (::fstat(fd->get(), &before) != 0) return sys_error("copy", path);
    if (!S_ISREG(before.st_mode)) return gone(path);
    walk_[i].mode = before.st_mode;
    OpenFile file = TRY(tree_.create(target(i), layer_mode(walk_[i])));
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      TRY(has_holes(before) ? copy_around_holes(fd->get(), path, file, buffer)
                            : copy_bytes(fd->get(), path, UINT64_MAX, file, buffer));
      if (::fstat(fd->get(), &after) != 0) return sys_error("copy", path);
      if (is_same(before, after) && file.size() == static_cast<uint64_t>(after.st_size)) {
        return tree_.close(std::move(file), after.st_mtim.tv_sec);
      }
      before = after;
      TRY(file.restart());
    }
    return gone(path);
  }

  static bool is_same(const struct stat& a, const struct stat& b) {
    WalkEntry before, after;
    before.set_times(a);
    after.set_times(b);
    return before.same_file(after) && a.st_mode == b.st_mode && a.st_size == b.st_size;
  }

  static Error unreadable(Error error, const std::string& path) {
    error.step = "copy";
    error.object = path;
    error.cure = "make it readable, or put it into excludes, .gitignore or .rayignore";
    return error;
  }

  // From where `file` ends to `end`, or that of the source.
  static Status copy_bytes(int fd, const std::string& path, uint64_t end, OpenFile& file,
                           std::vector<char>& buffer) {
    while (file.size() < end) {
      size_t most = std::min<uint64_t>(buffer.size(), end - file.size());
      ssize_t count = ::pread(fd, buffer.data(), most, static_cast<off_t>(file.size()));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return unreadable(sys_error("copy", path), path);
      if (count == 0) return {};
      TRY(file.write(buffer.data(), static_cast<size_t>(count)));
    }
    return {};
  }

  static Status copy_around_holes(int fd, const std::string& path, OpenFile& file,
                                  std::vector<char>& buffer) {
    while (true) {
      off_t data = ::lseek(fd, static_cast<off_t>(file.size()), SEEK_DATA);
      bool ends = data < 0 && errno == ENXIO;  // with a hole, or at once
      if (ends) data = ::lseek(fd, 0, SEEK_END);
      if (data < 0) return unreadable(sys_error("copy", path), path);
      TRY(file.skip_to(static_cast<uint64_t>(data)));
      if (ends) return {};
      off_t hole = ::lseek(fd, data, SEEK_HOLE);
      if (hole < 0 && errno != ENXIO) return unreadable(sys_error("copy", path), path);
      if (hole > 0) TRY(copy_bytes(fd, path, static_cast<uint64_t>(hole), file, buffer));
    }
  }

  Walk& walk_;
  const std::string& prefix_;
  TreeWriter& tree_;
  const Deadline deadline_;
  const std::function<void(uint64_t)>& progress_;
  std::atomic<size_t> next_ = 0;
  std::vector<std::atomic<size_t>> done_;  // entries of each block
  std::atomic<bool> stop_ = false;
};

}  // namespace

uint64_t bytes_to_copy(const Walk& walk) {
  constexpr uint64_t kWorthALook = 1 << 20;
  uint64_t bytes = 0;
  for (size_t i = 0; i < walk.size(); ++i) {
    uint64_t size = walk[i].size;
    struct stat info;
    std::string path = walk.root + "/" + std::string(walk.path(i));
    bool holes = size >= kWorthALook && ::stat(path.c_str(), &info) == 0 && has_holes(info);
    bytes += holes ? static_cast<uint64_t>(info.st_blocks) * 512 : size;
  }
  return bytes;
}

Status copy_walk(Walk& walk, const std::string& prefix, TreeWriter& tree, Deadline deadline,
                 const std::function<void(uint64_t done)>& progress) {
  return Copier(walk, prefix, tree, deadline, progress).run();
}

}  // namespace rtlaunch::installers
