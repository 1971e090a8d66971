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

Error gone(const std::string& path) {
  return Error{"copy",
               ESTALE,
               path,
               "changes while it is copied",
               "wait for whoever writes it, or put it into excludes, .gitignore or .rayignore",
               125};
}

class Copier {
 public:
  Copier(Walk& walk, const std::string& prefix, TreeWriter& tree, Deadline deadline,
         const std::function<void(uint64_t)>& progress)
      : walk_(walk), prefix_(prefix), tree_(tree), deadline_(deadline), progress_(progress) {}

  Status run() {
    size_t files = 0;
    for (WalkEntry& entry : walk_.entries) {
      if (entry.type == WalkEntry::Type::kFile) ++files;
      if (entry.type == WalkEntry::Type::kDirectory) TRY(make_dir(entry));
      if (entry.type == WalkEntry::Type::kLink) TRY(copy_link(entry));
    }
    if (files < 16) return work(true);
    Status theirs;
    std::thread helper([&] { theirs = work(false); });
    Status mine = work(true);
    helper.join();
    return mine ? std::move(theirs) : std::move(mine);
  }

 private:
  std::string source(const WalkEntry& entry) const {
    return entry.path_size == 0 ? walk_.root : walk_.root + "/" + std::string(walk_.path(entry));
  }
  std::string target(const WalkEntry& entry) const {
    std::string path = prefix_ + std::string(walk_.path(entry));
    if (!path.empty() && path.back() == '/') path.pop_back();
    return path;
  }
  static int64_t seconds(const WalkEntry& entry) { return entry.mtime_ns / 1'000'000'000; }

  Status make_dir(const WalkEntry& entry) {
    return tree_.make_dir(target(entry), layer_mode(entry), seconds(entry));
  }

  Status copy_link(const WalkEntry& entry) {
    char text[4096];
    ssize_t size = ::readlink(source(entry).c_str(), text, sizeof text);
    if (size <= 0) return gone(source(entry));
    store::Hasher hash;
    std::string raw = hash.bytes(text, static_cast<size_t>(size)).raw();
    if (std::memcmp(raw.data(), entry.content, sizeof entry.content) != 0)
      return gone(source(entry));
    return tree_.add_link(target(entry), {text, static_cast<size_t>(size)}, seconds(entry));
  }

  // Every thread takes a few neighbours at a time: they share a folder.
  Status work(bool reports) {
    std::vector<char> buffer(kChunk);
    const size_t step = 16;
    for (size_t from = next_.fetch_add(step); from < walk_.entries.size();
         from = next_.fetch_add(step)) {
      for (size_t i = from; i < std::min(from + step, walk_.entries.size()); ++i) {
        if (stop_) return {};
        WalkEntry& entry = walk_.entries[i];
        Status copied = entry.type == WalkEntry::Type::kFile ? copy(entry, buffer) : Status();
        if (!copied) {
          stop_ = true;
          return copied;
        }
        if (reports && progress_) progress_(tree_.bytes());
      }
    }
    return {};
  }

  Status copy(WalkEntry& entry, std::vector<char>& buffer) {
    std::string path = source(entry);
    if (std::chrono::steady_clock::now() > deadline_) {
      return make_error("copy", path, "it took longer than the environment may",
                        "raise config.setup_timeout_seconds, or exclude what isn't needed");
    }
    auto fd = sys::open_at(AT_FDCWD, path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
    if (!fd) return fd.error().code == ENOENT ? gone(path) : unreadable(fd.error(), path);
    struct stat before, after;
    if (::fstat(fd->get(), &before) != 0) return sys_error("copy", path);
    if (!S_ISREG(before.st_mode)) return gone(path);
    entry.mode = before.st_mode;
    OpenFile file = TRY(tree_.create(target(entry), layer_mode(entry)));
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      TRY(copy_bytes(fd->get(), path, file, buffer));
      if (::fstat(fd->get(), &after) != 0) return sys_error("copy", path);
      if (is_same(before, after) && file.size() == static_cast<uint64_t>(after.st_size)) {
        return finish(entry, after, std::move(file));
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

  static Status copy_bytes(int fd, const std::string& path, OpenFile& file,
                           std::vector<char>& buffer) {
    while (true) {
      ssize_t count = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(file.size()));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return unreadable(sys_error("copy", path), path);
      if (count == 0) return {};
      TRY(file.write(buffer.data(), static_cast<size_t>(count)));
    }
  }

  Status finish(WalkEntry& entry, const struct stat& info, OpenFile file) {
    entry.size = file.size();
    entry.set_times(info);
    std::string content;
    TRY(tree_.close(std::move(file), seconds(entry), &content));
    std::memcpy(entry.content, content.data(), sizeof entry.content);
    entry.hashed = true;
    return {};
  }

  Walk& walk_;
  const std::string& prefix_;
  TreeWriter& tree_;
  const Deadline deadline_;
  const std::function<void(uint64_t)>& progress_;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> stop_ = false;
};

}  // namespace

Status copy_walk(Walk& walk, const std::string& prefix, TreeWriter& tree, Deadline deadline,
                 const std::function<void(uint64_t done)>& progress) {
  return Copier(walk, prefix, tree, deadline, progress).run();
}

}  // namespace rtlaunch::installers
