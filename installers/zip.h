// Our reader of zip files (and wheels and jars, which are zips): stored and deflated entries,
// zip64, data descriptors. Small entries are inflated in parallel, each in one go (libdeflate); big
// ones are streamed (ISA-L), so memory stays below ten megabytes whatever the archive holds. Every
// CRC is checked and every file hashed while it is written.
//
// open() reads the central directory and every local header once, and refuses what a well-meant
// archive never has: names that lead out, entries that overlap or lie outside the file, headers
// that contradict each other, encryption, devices, more entries or bytes than the limits,
// impossible compression. What is only known later (data that doesn't match its CRC or size, one
// name twice) fails extract(); what it wrote until then is the caller's to drop (a Staging does).
//
// The entries are not kept in memory: each() and extract() read the directory again, through a
// window. A Zip borrows the descriptor (pread(2) only; its offset is left alone) and is const after
// open(), so several threads may use one.
//
//   Zip zip = TRY(Zip::open(fd, "a-1.0-py3-none-any.whl"));
//   std::string metadata = TRY(zip.read_entry("a-1.0.dist-info/METADATA", 1 << 20));
//   TRY(zip.extract(staging.tree(), manifest, {}, place));
//
// Format: PKWARE's APPNOTE.TXT 6.3.10.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "installers/archive_tree.h"
#include "installers/store/manifest.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

struct ZipLimits {
  uint64_t max_bytes = 100ull << 30;  // unpacked, all together
  uint64_t max_entries = 1'000'000;
};

struct ZipEntry {
  enum class Type { kFile, kDirectory, kLink };
  std::string name;      // UTF-8 and checked; a directory's ends with a slash
  std::string raw_name;  // the bytes in the zip
  Type type = Type::kFile;
  uint32_t mode = 0;  // permission bits (0777); 0 when the zip has none
  int64_t mtime = 0;  // seconds since 1970; the zip's local time taken as UTC
  uint64_t size = 0;  // unpacked
  uint64_t packed = 0;
  uint32_t crc = 0;
  uint16_t method = 0;  // 0 stored, 8 deflated
  uint16_t flags = 0;
  uint64_t header = 0;  // offset of the local header in the file
};

// Where an entry goes: a relative path, and the mode it shall have (0: what TreeOptions say).
struct Placement {
  std::string path;
  uint32_t mode = 0;
};
// Called in the order of the central directory, from the thread that called extract(). Nothing:
// the entry is left out. May change the path freely; it is checked afterwards all the same.
using Place = std::function<Result<std::optional<Placement>>(const ZipEntry&)>;

struct ZipExtract {
  TreeOptions::Modes modes = TreeOptions::Modes::kNormal;
  TreeOptions::Times times = TreeOptions::Times::kFixed;
  unsigned threads = 2;
  // Called now and then, from the calling thread, with the bytes unpacked so far.
  std::function<void(uint64_t done, uint64_t total)> progress;
};

class Zip {
 public:
  // `name` is what the zip is called in errors.
  static Result<Zip> open(int fd, std::string name, ZipLimits limits = {});

  uint64_t count() const { return count_; }  // entries
  uint64_t bytes() const { return bytes_; }  // unpacked, of all entries; for Store::reserve
  const std::string& name() const { return name_; }

  // In the order of the central directory. An error of `visit` ends it and is returned.
  Status each(const std::function<Status(const ZipEntry&)>& visit) const;
  Result<std::optional<ZipEntry>> find(std::string_view name) const;
  // The content of a small entry; EFBIG over `limit`, ENOENT when there is none of that name.
  Result<std::string> read_entry(std::string_view name, uint64_t limit) const;
  Result<std::string> read(const ZipEntry& entry, uint64_t limit) const;

  // The folder that everything lies in, for Ray's "a single top-level folder is stripped":
  // `__MACOSX` beside it does not count; "" when there is none.
  Result<std::string> single_top_folder() const;

  // Unpacks below `dir` and adds an entry for each to `manifest` (which is then to be finished).
  Status extract(int dir, store::Manifest& manifest, const ZipExtract& options,
                 const Place& place) const;
  // The same through a TreeWriter of the caller's, who adds files of its own and calls finish();
  // `modes` and `times` are then the writer's.
  Status extract(TreeWriter& tree, const ZipExtract& options, const Place& place) const;

 private:
  Zip() = default;
  Status find_directory();
  Status check_entries();
  Status check_directory();
  Status check_local_headers();
  Status check_overlaps() const;
  Status check_local_header(const ZipEntry& entry, uint64_t& end) const;
  Error broken(const std::string& what) const;

  int fd_ = -1;
  std::string name_;
  ZipLimits limits_;
  uint64_t file_size_ = 0;
  uint64_t directory_ = 0;  // offset of the central directory in the file
  uint64_t directory_size_ = 0;
  uint64_t prefix_ = 0;   // bytes before the zip proper (a self-extractor's program)
  bool in_order_ = true;  // entries lie in the order of the directory
  uint64_t count_ = 0, bytes_ = 0;
};

}  // namespace rtlaunch
