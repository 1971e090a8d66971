// Unpacking a zip with several threads. The calling thread reads the central directory, asks where
// each entry shall go and packs entries into batches; workers inflate, hash and write them. A batch
// ends where a folder does: two threads that make files in one folder spin on its lock. What takes
// long is the file system making files; hashing and inflating hide behind that.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "installers/zip.h"
#include "installers/zip_inflate.h"

namespace rtlaunch {
namespace {

constexpr size_t kBatchEntries = 32;  // from here on, a batch ends with its folder
constexpr size_t kBatchEntriesMost = 512;
constexpr uint64_t kBatchBytes = 8 << 20;
constexpr size_t kBatchesWaiting = 4;

struct Item {
  ZipEntry entry;
  Placement to;
};
using Batch = std::vector<Item>;

bool same_folder(std::string_view a, std::string_view b) {
  size_t slash = a.rfind('/');
  return slash == b.rfind('/') && a.substr(0, slash + 1) == b.substr(0, slash + 1);
}

Status write_link(TreeWriter& tree, zip::Inflater& inflater, const Item& item) {
  std::string target;
  if (item.entry.size > 4095) return tree.add_link(item.to.path, "/", 0);  // refused there
  TRY(inflater.run(item.entry, [&](const void* data, size_t size) -> Status {
    target.append(static_cast<const char*>(data), size);
    return {};
  }));
  return tree.add_link(item.to.path, target, item.entry.mtime);
}

Status write_item(TreeWriter& tree, zip::Inflater& inflater, const Item& item) {
  const ZipEntry& entry = item.entry;
  uint32_t mode = item.to.mode != 0 ? item.to.mode : entry.mode;
  if (entry.type == ZipEntry::Type::kDirectory) {
    return tree.make_dir(item.to.path, mode, entry.mtime);
  }
  if (entry.type == ZipEntry::Type::kLink) return write_link(tree, inflater, item);
  OpenFile file = TRY(tree.create(item.to.path, mode));
  TRY(inflater.run(entry, [&](const void* data, size_t size) { return file.write(data, size); }));
  return tree.close(std::move(file), entry.mtime);
}

// Threads that write batches. Ends with the first error; finish() tells it.
class Workers {
 public:
  Workers(TreeWriter& tree, int fd, const std::string& archive, unsigned count)
      : tree_(tree), fd_(fd), archive_(archive) {
    for (unsigned i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Workers() { (void)finish(); }

  // Waits while enough is waiting already. False after an error.
  bool push(Batch batch) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_.size() < kBatchesWaiting || failed_; });
    if (failed_) return false;
    waiting_.push_back(std::move(batch));
    changed_.notify_all();
    return true;
  }

  Status finish() {
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
      changed_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    return std::move(status_);
  }

 private:
  void work() {
    zip::Inflater inflater(fd_, archive_);
    while (true) {
      Batch batch;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !waiting_.empty() || ended_ || failed_; });
        if (failed_ || waiting_.empty()) return;
        batch = std::move(waiting_.front());
        waiting_.pop_front();
        changed_.notify_all();
      }
      for (const Item& item : batch) {
        Status status = failed_ ? Status() : write_item(tree_, inflater, item);
        if (!status) fail(std::move(status));
      }
    }
  }

  void fail(Status status) {
    std::lock_guard lock(mutex_);
    if (!failed_) status_ = std::move(status);
    failed_ = true;
    changed_.notify_all();
  }

  TreeWriter& tree_;
  const int fd_;
  const std::string archive_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> waiting_;
  bool ended_ = false;
  std::atomic<bool> failed_ = false;
  Status status_;
  std::vector<std::thread> threads_;
};

}  // namespace

Status Zip::extract(TreeWriter& tree, const ZipExtract& options, const Place& place) const {
  // A thread costs more than a few small files do.
  bool small = count_ < 16 && bytes_ < (4u << 20);
  Workers workers(tree, fd_, name_, small ? 1 : std::max(1u, options.threads));
  Batch batch;
  uint64_t batch_bytes = 0;
  auto flush = [&] {
    batch_bytes = 0;
    bool going_on = batch.empty() || workers.push(std::move(batch));
    batch = {};
    if (options.progress) options.progress(tree.bytes(), bytes_);
    return going_on;
  };
  Status read = each([&](const ZipEntry& entry) -> Status {
    auto to = place ? TRY(place(entry)) : Placement{entry.name, 0};
    if (!to) return {};
    to->path = TRY(entry_path(to->path, name_));
    bool full = batch.size() >= kBatchEntriesMost || batch_bytes >= kBatchBytes ||
                (batch.size() >= kBatchEntries && !same_folder(batch.back().to.path, to->path));
    if (full && !flush()) return Error{};
    batch_bytes += entry.size;
    batch.push_back({entry, std::move(*to)});
    return {};
  });
  if (read) flush();
  Status written = workers.finish();
  if (!written) return written;  // `read` then only says that the workers had stopped
  return read;
}

Status Zip::extract(int dir, store::Manifest& manifest, const ZipExtract& options,
                    const Place& place) const {
  TreeOptions tree_options;
  tree_options.modes = options.modes;
  tree_options.times = options.times;
  tree_options.max_bytes = limits_.max_bytes;
  tree_options.max_files = limits_.max_entries;
  tree_options.archive = name_;
  TreeWriter tree(dir, manifest, tree_options);
  TRY(extract(tree, options, place));
  return tree.finish();
}

}  // namespace rtlaunch
