// The key of a source, and the stat cache that makes it cheap.
//
// <store>/wd/<hash of path and rules>: a header line, one record an entry in the order of the walk
// (the numbers of WalkEntry, then the path), and the SHA-256 of all that. A file whose ctime is so
// young that it could be written again within the same tick of the clock has `hashed` unset and is
// read again next time, as git does with "racily clean" entries of its index. Only ctime is asked:
// mtime can be set by anybody.
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>

#include "installers/source.h"
#include "installers/source_walk.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::installers {
namespace {

constexpr char kHeader[] = "rtlaunch-stat-cache 2\n";
constexpr size_t kHeaderSize = sizeof kHeader - 1;
constexpr size_t kWindow = 64 << 10;
constexpr size_t kChunk = 128 << 10;
constexpr size_t kDigestSize = 32;

// Where a path comes in the order of the walk: a slash before every other byte.
int compare_paths(std::string_view a, std::string_view b) {
  size_t common = std::min(a.size(), b.size());
  for (size_t i = 0; i < common; ++i) {
    if (a[i] == b[i]) continue;
    int x = a[i] == '/' ? 0 : static_cast<unsigned char>(a[i]);
    int y = b[i] == '/' ? 0 : static_cast<unsigned char>(b[i]);
    return x - y;
  }
  return a.size() < b.size() ? -1 : a.size() > b.size();
}

class CacheReader {
 public:
  explicit CacheReader(UniqueFd fd) : fd_(std::move(fd)) {
    struct stat info = {};
    if (::fstat(fd_.get(), &info) != 0) info.st_size = 0;
    size_ = std::min<size_t>(kWindow, static_cast<size_t>(info.st_size));
    window_ = std::make_unique_for_overwrite<char[]>(size_);
    const char* header = take(kHeaderSize);
    if (header == nullptr || std::memcmp(header, kHeader, kHeaderSize) != 0) fd_.reset();
    left_ = info.st_size - static_cast<int64_t>(kHeaderSize);
  }

  // Paths must be asked for in the order of the walk.
  const WalkEntry* find(std::string_view path) {
    while (at_entry_ || next()) {
      at_entry_ = true;
      int order = compare_paths(path_, path);
      if (order > 0) return nullptr;
      at_entry_ = false;
      if (order == 0) return &entry_;
      ++unused_;
    }
    return nullptr;
  }

  // Whether the file was whole; what find() said is worth nothing otherwise.
  bool finish() {
    while (at_entry_ || next()) {
      at_entry_ = false;
      ++unused_;
    }
    std::string mine = hash_.raw();
    const char* theirs = fd_.valid() && left_ == kDigestSize ? take(kDigestSize) : nullptr;
    return theirs != nullptr && mine == std::string_view(theirs, kDigestSize);
  }
  size_t unused() const { return unused_; }

 private:
  bool next() {
    if (!fd_.valid() || left_ < static_cast<int64_t>(sizeof entry_ + kDigestSize)) return false;
    const char* bytes = take(sizeof entry_);
    if (bytes == nullptr) return false;
    std::memcpy(static_cast<void*>(&entry_), bytes, sizeof entry_);
    left_ -= static_cast<int64_t>(sizeof entry_);
    if (entry_.path_size > 4096 || static_cast<int64_t>(entry_.path_size) > left_) return false;
    bytes = take(entry_.path_size);
    if (bytes == nullptr) return false;
    path_.assign(bytes, entry_.path_size);
    left_ -= entry_.path_size;
    hash_.bytes(&entry_, sizeof entry_).bytes(path_.data(), path_.size());
    return true;
  }

  const char* take(size_t size) {
    if (end_ - start_ < size) {
      std::memmove(window_.get(), window_.get() + start_, end_ - start_);
      end_ -= start_;
      start_ = 0;
      while (fd_.valid() && end_ < size) {
        ssize_t count = ::read(fd_.get(), window_.get() + end_, size_ - end_);
        if (count <= 0) return nullptr;
        end_ += static_cast<size_t>(count);
      }
      if (end_ < size) return nullptr;
    }
    start_ += size;
    return window_.get() + start_ - size;
  }

  UniqueFd fd_;
  std::unique_ptr<char[]> window_;  // no larger than the file
  size_t size_ = 0, start_ = 0, end_ = 0;
  int64_t left_ = 0;
  WalkEntry entry_;
  std::string path_;
  bool at_entry_ = false;
  size_t unused_ = 0;
  store::Hasher hash_;
};

std::string cache_name(const Source& source, const std::vector<std::string>& excludes,
                       const store::Store& store) {
  store::Hasher hash;
  if (store.caller() != 0) hash.field("caller").number(store.caller());
  hash.field(source.path).number(source.gitignore).number(source.default_excludes.size());
  for (const std::string& line : source.default_excludes) hash.field(line);
  for (const std::string& line : excludes) hash.field(line);
  return hash.hex();
}

// Could the file be written again without its ctime changing? Coarse times are a file system's
// that knows only seconds.
bool is_settled(const WalkEntry& entry, int64_t started_ns) {
  bool coarse = entry.ctime_ns % 1'000'000'000 == 0;
  return entry.ctime_ns < started_ns - (coarse ? 2'100'000'000 : 50'000'000);
}

// Gathers small pieces; what can't be written shows at the end.
class CacheWriter {
 public:
  explicit CacheWriter(int fd) : fd_(fd) { raw(kHeader, kHeaderSize); }

  void add(const WalkEntry& entry, std::string_view path) {
    hash_.bytes(&entry, sizeof entry).bytes(path.data(), path.size());
    raw(reinterpret_cast<const char*>(&entry), sizeof entry);
    raw(path.data(), path.size());
  }
  bool finish() {
    std::string digest = hash_.raw();
    raw(digest.data(), digest.size());
    return flush();
  }

 private:
  void raw(const char* data, size_t size) {
    buffer_.append(data, size);
    if (buffer_.size() >= kWindow) (void)flush();
  }
  bool flush() {
    ok_ = ok_ && sys::write_all(fd_, buffer_, "stat cache");
    buffer_.clear();
    return ok_;
  }

  int fd_;
  bool ok_ = true;
  std::string buffer_;
  store::Hasher hash_;
};

// Best effort: without a cache the next run reads all files again.
void write_cache(const store::Store& store, const std::string& name, const Walk& walk,
                 int64_t started_ns) {
  sys::AsRoot root;
  if (store.read_only() || !sys::make_dirs_at(store.dir(), "wd", 0700)) return;
  std::string staged = "wd/" + name + "." + sys::random_name();
  auto fd = sys::open_at(store.dir(), staged, O_WRONLY | O_CREAT | O_EXCL, 0600);
  if (!fd) return;
  CacheWriter cache(fd->get());
  for (size_t i = 0; i < walk.size(); ++i) {
    const WalkEntry& entry = walk[i];
    WalkEntry kept;
    std::memcpy(static_cast<void*>(&kept), static_cast<const void*>(&entry), sizeof kept);
    kept.path_at = 0;
    kept.hashed = entry.hashed && is_settled(entry, started_ns);
    cache.add(kept, walk.path(i));
  }
  bool written = cache.finish();
  if (!written || !sys::rename_at(store.dir(), staged, store.dir(), "wd/" + name)) {
    (void)sys::unlink_at(store.dir(), staged);
  }
}

// The SHA-256 of `size` bytes at `from`; sets `size` to how many there were.
Result<std::string> hash_span(int fd, const std::string& path, uint64_t from, uint64_t& size,
                              std::vector<char>& buffer) {
  store::Hasher hash;
  uint64_t done = 0;
  while (done < size) {
    size_t wanted = std::min<uint64_t>(buffer.size(), size - done);
    ssize_t count = ::pread(fd, buffer.data(), wanted, static_cast<off_t>(from + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sys_error("read", path);
    if (count == 0) break;
    hash.bytes(buffer.data(), static_cast<size_t>(count));
    done += static_cast<uint64_t>(count);
  }
  size = done;
  return hash.raw();
}

// An archive is one file and often a large one: two threads take turns at its pieces, and what
// stands for its content is the SHA-256 of the pieces' SHA-256s.
class PieceHasher {
 public:
  PieceHasher(int fd, const std::string& path, uint64_t size) : fd_(fd), path_(path), size_(size) {
    pieces_.resize((size + kPiece - 1) / kPiece);
  }

  // Sets `size` to how many bytes were read.
  Result<std::string> run(uint64_t& size) {
    std::thread helper;
    Status theirs;
    if (pieces_.size() > 1) helper = std::thread([&] { theirs = work(); });
    Status mine = work();
    if (helper.joinable()) helper.join();
    TRY(std::move(mine));
    TRY(std::move(theirs));
    size = read_;
    store::Hasher hash;
    for (const std::string& piece : pieces_) hash.bytes(piece.data(), piece.size());
    return hash.raw();
  }

 private:
  static constexpr uint64_t kPiece = 4 << 20;

  Status work() {
    std::vector<char> buffer(kChunk);
    for (size_t i = next_++; i < pieces_.size(); i = next_++) {
      uint64_t from = i * kPiece, size = std::min(kPiece, size_ - from);
      pieces_[i] = TRY(hash_span(fd_, path_, from, size, buffer));
      read_ += size;
    }
    return {};
  }

  const int fd_;
  const std::string& path_;
  const uint64_t size_;
  std::vector<std::string> pieces_;
  std::atomic<size_t> next_ = 0;
  std::atomic<uint64_t> read_ = 0;
};

// One reading of a file; false when it changed meanwhile.
Result<bool> hash_once(const Source& source, int fd, const std::string& path, WalkEntry& entry,
                       std::vector<char>& buffer) {
  struct stat before, after;
  if (::fstat(fd, &before) != 0) return sys_error("stat", path);
  auto size = static_cast<uint64_t>(before.st_size);
  if (size == 0) size = 1;  // files of /proc say so, and are refused below
  bool archive = source.kind == Source::Kind::kArchive;
  std::string raw = archive ? TRY(PieceHasher(fd, path, size).run(size))
                            : TRY(hash_span(fd, path, 0, size, buffer));
  if (::fstat(fd, &after) != 0) return sys_error("stat", path);
  WalkEntry then, now;
  then.set_times(before);
  now.set_times(after);
  if (!then.same_file(now) || size != static_cast<uint64_t>(after.st_size)) return false;
  entry.set_times(after);
  entry.mode = after.st_mode;
  entry.size = size;
  std::memcpy(entry.content, raw.data(), kDigestSize);
  entry.hashed = true;
  return true;
}

Status hash_entry(const Source& source, const std::string& path, WalkEntry& entry,
                  std::vector<char>& buffer) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    auto fd = sys::open_at(AT_FDCWD, path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
    auto read = fd ? hash_once(source, fd->get(), path, entry, buffer) : Result<bool>(fd.error());
    if (!read) {
      return Error{field_of(source.use),
                   read.error().code,
                   path,
                   "",
                   "make it readable, or put it into excludes, .gitignore or .rayignore",
                   125};
    }
    if (*read) return {};
  }
  return make_error(
      field_of(source.use), path, "changes while it is read",
      "wait for whoever writes it, or put it into excludes, .gitignore or .rayignore");
}

Status hash_some(const Source& source, Walk& walk, const std::vector<uint32_t>& wanted,
                 std::atomic<size_t>& next) {
  std::vector<char> buffer(kChunk);
  for (size_t i = next++; i < wanted.size(); i = next++) {
    WalkEntry& entry = walk[wanted[i]];
    std::string path = walk.root;
    if (entry.path_size > 0) path.append("/").append(walk.path(wanted[i]));
    TRY(hash_entry(source, path, entry, buffer));
  }
  return {};
}

Status hash_all(const Source& source, Walk& walk, const std::vector<uint32_t>& wanted) {
  if (wanted.empty()) return {};
  uint64_t bytes = 0;
  for (size_t i : wanted) bytes += walk[i].size;
  std::atomic<size_t> next = 0;
  if (bytes < (1 << 20) && wanted.size() < 64) return hash_some(source, walk, wanted, next);
  Status other;
  std::thread helper([&] { other = hash_some(source, walk, wanted, next); });
  Status mine = hash_some(source, walk, wanted, next);
  helper.join();
  return mine ? std::move(other) : std::move(mine);
}

Result<UniqueFd> open_cache(const store::Store& store, const std::string& name) {
  sys::AsRoot root;
  return sys::open_at(store.dir(), "wd/" + name, O_RDONLY | O_NOFOLLOW);
}

// Which entries have no hash yet, after the cache was asked; `stale` when it should be written
// anew.
std::vector<uint32_t> ask_cache(const store::Store& store, const std::string& name, Walk& walk,
                                bool& stale) {
  auto fd = open_cache(store, name);
  std::optional<CacheReader> cache;
  if (fd) cache.emplace(std::move(*fd));
  std::vector<uint32_t> wanted, taken;
  for (size_t i = 0; i < walk.size(); ++i) {
    WalkEntry& entry = walk[i];
    const WalkEntry* known = cache ? cache->find(walk.path(i)) : nullptr;
    if (entry.type != WalkEntry::Type::kFile) continue;
    if (known != nullptr && known->hashed && known->same_file(entry)) {
      std::memcpy(entry.content, known->content, kDigestSize);
      entry.hashed = true;
      taken.push_back(static_cast<uint32_t>(i));
    } else {
      wanted.push_back(static_cast<uint32_t>(i));
    }
  }
  bool whole = cache && cache->finish();
  if (!whole) {
    wanted.insert(wanted.end(), taken.begin(), taken.end());
    for (size_t i : taken) walk[i].hashed = false;
  }
  stale = !whole || !wanted.empty() || cache->unused() > 0;
  return wanted;
}

Status complete(const Source& source, const std::vector<std::string>& excludes,
                const store::Store& store, Walk& walk, int64_t started_ns) {
  std::string name = cache_name(source, excludes, store);
  bool stale = false;
  std::vector<uint32_t> wanted = ask_cache(store, name, walk, stale);
  TRY(hash_all(source, walk, wanted));
  if (stale) write_cache(store, name, walk, started_ns);
  return {};
}

store::Key url_key(const Source& source) {
  std::string url = source.url;
  size_t host = url.find("://") + 3;
  size_t end = std::min(url.find_first_of("/?", host), url.size());
  size_t at = url.rfind('@', end);
  bool user = source.python.empty();  // of abfss: the container stands there
  if (user && at != std::string::npos && at >= host) url.erase(host, at + 1 - host);
  store::Hasher hash;
  hash.field("source-url").number(1).number(static_cast<uint64_t>(source.use)).field(url);
  if (url.starts_with("gcs://")) hash.field(source.cluster);
  if (source.format == Source::Format::kWheel) hash.field("what it needs");
  return store::Key{hash.hex()};
}

}  // namespace

store::Key file_key(const Source& source, std::string_view content, uint32_t mode) {
  store::Hasher hash;
  bool module = source.kind == Source::Kind::kFile;
  hash.field("source-file").number(2).number(static_cast<uint64_t>(source.use));
  hash.number(static_cast<uint64_t>(source.format)).number(source.strip_top);
  hash.field(module ? source.name : "").number(module ? mode : 0).field(content);
  if (source.format == Source::Format::kWheel) hash.field("what it needs");
  return store::Key{hash.hex()};
}

Result<store::Key> source_key(const Source& source, const std::vector<std::string>& excludes,
                              const store::Store& store) {
  if (source.kind == Source::Kind::kUrl) return url_key(source);
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  int64_t started_ns = now.tv_sec * 1'000'000'000 + now.tv_nsec;
  bool directory = source.kind == Source::Kind::kDirectory;
  Walk walk = directory ? TRY(walk_source(source, excludes)) : TRY(walk_file(source));
  TRY(complete(source, excludes, store, walk, started_ns));
  if (directory) return walk_key(source, walk);
  const WalkEntry& file = walk[0];
  return file_key(source, {reinterpret_cast<const char*>(file.content), kDigestSize},
                  layer_mode(file));
}

}  // namespace rtlaunch::installers
