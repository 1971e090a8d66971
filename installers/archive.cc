#include "installers/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "installers/archive_text.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch {
namespace {

constexpr size_t kBlock = 128 << 10;

class Reader {
 public:
  Reader(int fd, const std::string& name) : name_(name), archive_(::archive_read_new()) {
    ::archive_read_support_format_tar(archive_);
    ::archive_read_support_filter_gzip(archive_);
    ::archive_read_support_filter_xz(archive_);
    ::archive_read_support_filter_bzip2(archive_);
    ::archive_read_support_filter_zstd(archive_);
    ::lseek(fd, 0, SEEK_SET);
    opened_ = ::archive_read_open_fd(archive_, fd, kBlock) == ARCHIVE_OK;
  }
  Reader(const Reader&) = delete;
  ~Reader() { ::archive_read_free(archive_); }

  // Null at the end.
  Result<archive_entry*> next() {
    if (!opened_) return broken();
    archive_entry* entry = nullptr;
    int status = ::archive_read_next_header(archive_, &entry);
    if (status == ARCHIVE_EOF) return static_cast<archive_entry*>(nullptr);
    // A warning is about a name's characters or an attribute; those have checks of their own.
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) return broken();
    return entry;
  }

  Result<bool> block(const void** data, size_t* size, la_int64_t* offset) {
    int status = ::archive_read_data_block(archive_, data, size, offset);
    if (status == ARCHIVE_EOF) return false;
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) return broken();
    return true;
  }

  Error broken() const {
    const char* text = ::archive_error_string(archive_);
    return make_error("unpack", name_, text == nullptr ? "not a tar archive" : text,
                      "check that it is a whole tar archive");
  }

 private:
  const std::string& name_;
  archive* archive_;
  bool opened_ = false;
};

Error refused(const std::string& name, const std::string& entry, const std::string& reason) {
  return make_error("unpack", name, "'" + entry + "' " + reason,
                    "make the archive again without it");
}

std::string first_part(const std::string& path) { return path.substr(0, path.find('/')); }

bool has_type_of_a_layer(archive_entry* entry) {
  auto type = ::archive_entry_filetype(entry);
  return type == AE_IFREG || type == AE_IFDIR || type == AE_IFLNK ||
         !archive_hard_link(entry).empty();
}

Status check_limits(const TarSummary& summary, const std::string& name, const TarLimits& limits) {
  if (summary.entries > limits.max_entries) {
    return make_error("unpack", name,
                      "more than " + std::to_string(limits.max_entries) + " entries",
                      "split it, or leave out what isn't needed");
  }
  if (summary.bytes > limits.max_bytes) {
    return make_error("unpack", name,
                      "more than " + std::to_string(limits.max_bytes) + " bytes unpacked",
                      "leave out what isn't needed");
  }
  return {};
}

// The path below `strip`; nothing for `strip` itself and what is left out.
std::string path_below(const std::string& path, const std::string& strip) {
  if (strip.empty()) return first_part(path) == "__MACOSX" ? "" : path;
  if (path.size() <= strip.size() + 1 || !sys::is_beneath(path, strip)) return "";
  return path.substr(strip.size() + 1);
}

class Extraction {
 public:
  Extraction(Reader& reader, const std::string& name, const std::string& strip, int dir,
             TreeWriter& tree, const std::function<void(uint64_t)>& progress)
      : reader_(reader), name_(name), strip_(strip), dir_(dir), tree_(tree), progress_(progress) {}

  Status take(archive_entry* entry) {
    std::string path = path_below(TRY(entry_path(archive_name(entry), name_)), strip_);
    if (path.empty()) return {};
    uint32_t mode = ::archive_entry_perm(entry) & 0777;
    int64_t mtime = ::archive_entry_mtime(entry);
    if (!archive_hard_link(entry).empty()) return copy_link(entry, path, mode, mtime);
    switch (::archive_entry_filetype(entry)) {
      case AE_IFDIR:
        return tree_.make_dir(path, mode, mtime);
      case AE_IFLNK:
        return tree_.add_link(path, archive_symlink(entry), mtime);
      default:
        return write_file(entry, path, mode, mtime);
    }
  }

 private:
  Status write_file(archive_entry* entry, const std::string& path, uint32_t mode, int64_t mtime) {
    uint64_t size = static_cast<uint64_t>(std::max<la_int64_t>(0, ::archive_entry_size(entry)));
    OpenFile file = TRY(tree_.create(path, mode));
    const void* data = nullptr;
    size_t count = 0;
    la_int64_t offset = 0;
    while (TRY(reader_.block(&data, &count, &offset))) {
      TRY(file.skip_to(static_cast<uint64_t>(offset)));
      TRY(file.write(data, count));
      done_ += count;
      if (progress_) progress_(done_);
    }
    TRY(file.skip_to(size));
    return tree_.close(std::move(file), mtime);
  }

  Status copy_link(archive_entry* entry, const std::string& path, uint32_t mode, int64_t mtime) {
    std::string shown = archive_hard_link(entry);
    std::string target = path_below(TRY(entry_path(shown, name_)), strip_);
    sys::AsRoot root;
    auto from = sys::open_beneath(dir_, target.empty() ? "." : target, O_RDONLY | O_NOFOLLOW);
    if (target.empty() || !from) return refused(name_, shown, "is linked to before it is there");
    OpenFile file = TRY(tree_.create(path, mode));
    char buffer[64 << 10];
    for (ssize_t count; (count = ::read(from->get(), buffer, sizeof buffer)) != 0;) {
      if (count < 0) return sys_error("unpack", target);
      TRY(file.write(buffer, static_cast<size_t>(count)));
    }
    return tree_.close(std::move(file), mtime);
  }

  Reader& reader_;
  const std::string& name_;
  const std::string& strip_;
  const int dir_;
  TreeWriter& tree_;
  const std::function<void(uint64_t)>& progress_;
  uint64_t done_ = 0;
};

}  // namespace

Result<TarSummary> survey_tar(int fd, const std::string& name, const TarLimits& limits) {
  Utf8Locale locale;
  Reader reader(fd, name);
  TarSummary summary;
  bool one_top = true;
  while (archive_entry* entry = TRY(reader.next())) {
    std::string path = TRY(entry_path(archive_name(entry), name));
    if (!has_type_of_a_layer(entry)) return refused(name, path, "is a device, fifo or socket");
    ++summary.entries;
    bool empty_file =
        !archive_hard_link(entry).empty() || ::archive_entry_filetype(entry) != AE_IFREG;
    if (!empty_file)
      summary.bytes += static_cast<uint64_t>(std::max<la_int64_t>(0, ::archive_entry_size(entry)));
    TRY(check_limits(summary, name, limits));
    std::string top = first_part(path);
    if (path.empty() || top == "__MACOSX") continue;
    bool inside = path.size() > top.size() || ::archive_entry_filetype(entry) == AE_IFDIR;
    one_top = one_top && inside && (summary.top.empty() || summary.top == top);
    summary.top = top;
  }
  if (!one_top) summary.top.clear();
  return summary;
}

Status extract_tar(int fd, const std::string& name, const std::string& strip, int dir,
                   TreeWriter& tree, const std::function<void(uint64_t)>& progress) {
  Utf8Locale locale;
  Reader reader(fd, name);
  Extraction extraction(reader, name, strip, dir, tree, progress);
  while (archive_entry* entry = TRY(reader.next())) TRY(extraction.take(entry));
  return {};
}

}  // namespace rtlaunch
