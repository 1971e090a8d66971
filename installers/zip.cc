#include "installers/zip.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "installers/zip_format.h"
#include "installers/zip_inflate.h"

namespace rtlaunch {
namespace {

using zip::le16;
using zip::le32;
using zip::le64;

constexpr uint64_t kBombSize = 1ull << 30;
constexpr uint64_t kBombRatio = 1000;

struct EndRecord {
  uint64_t at = 0;  // where the end records begin: the central directory ends here
  uint64_t count = 0, size = 0, offset = 0;
};

// The last record of the file; its comment must reach exactly to the end.
const uint8_t* find_end(const std::vector<uint8_t>& tail) {
  for (size_t at = tail.size() < 22 ? 0 : tail.size() - 21; at-- > 0;) {
    const uint8_t* record = tail.data() + at;
    if (le32(record) == zip::kEndSignature && at + 22 + le16(record + 20) == tail.size()) {
      return record;
    }
  }
  return nullptr;
}

}  // namespace

Error Zip::broken(const std::string& what) const {
  return make_error("unpack", name_, what, "download or make the archive again");
}

Result<Zip> Zip::open(int fd, std::string name, ZipLimits limits) {
  Zip zip;
  zip.fd_ = fd;
  zip.name_ = std::move(name);
  zip.limits_ = limits;
  struct stat info;
  if (::fstat(fd, &info) != 0) return sys_error("unpack", zip.name_);
  zip.file_size_ = static_cast<uint64_t>(info.st_size);
  TRY(zip.find_directory());
  TRY(zip.check_entries());
  if (!zip.in_order_) TRY(zip.check_overlaps());
  return zip;
}

Status Zip::find_directory() {
  std::vector<uint8_t> tail(std::min<uint64_t>(file_size_, 22 + 65535));
  if (!zip::read_at(fd_, tail.data(), tail.size(), file_size_ - tail.size())) {
    return sys_error("unpack", name_);
  }
  const uint8_t* record = find_end(tail);
  if (record == nullptr) return broken("not a zip file, or cut short (it has no end record)");
  EndRecord end;
  end.at = file_size_ - tail.size() + static_cast<uint64_t>(record - tail.data());
  end.count = le16(record + 10);
  end.size = le32(record + 12);
  end.offset = le32(record + 16);
  bool one_disk = le16(record + 4) == le16(record + 6) && le16(record + 8) == le16(record + 10) &&
                  (le16(record + 4) == 0 || le16(record + 4) == 0xffff);
  uint8_t locator[20], wide[56];
  if (end.at >= 20 && zip::read_at(fd_, locator, 20, end.at - 20) &&
      le32(locator) == zip::kEnd64LocatorSignature) {
    uint64_t at = le64(locator + 8);
    if (end.at < 76 || at > end.at - 76 || !zip::read_at(fd_, wide, 56, at) ||
        le32(wide) != zip::kEnd64Signature || le64(wide + 4) + 12 != end.at - 20 - at) {
      return broken("its zip64 end record is damaged");
    }
    end = {at, le64(wide + 32), le64(wide + 40), le64(wide + 48)};
    one_disk = le32(wide + 16) == 0 && le32(wide + 20) == 0 && le64(wide + 24) == end.count;
  }
  if (!one_disk) return broken("it is one part of a zip of several parts");
  if (end.size > end.at || end.offset > end.at - end.size) {
    return broken("cut short, or its directory lies outside the file");
  }
  prefix_ = end.at - end.size - end.offset;
  directory_ = end.at - end.size;
  directory_size_ = end.size;
  count_ = end.count;
  if (count_ > limits_.max_entries) {
    return make_error("unpack", name_,
                      "holds " + std::to_string(count_) + " entries; the limit is " +
                          std::to_string(limits_.max_entries),
                      "split it, or give a directory");
  }
  return {};
}

Status Zip::each(const std::function<Status(const ZipEntry&)>& visit) const {
  zip::DirectoryReader reader(fd_, name_, directory_, directory_size_, prefix_);
  for (uint64_t i = 0; i < count_; ++i) {
    const ZipEntry* entry = TRY(reader.next());
    TRY(visit(*entry));
  }
  if (!reader.at_end()) return broken("its directory holds more entries than it says");
  return {};
}

Status Zip::check_local_header(const ZipEntry& entry, uint64_t& end) const {
  uint8_t local[30 + 512];
  uint64_t length = 30 + entry.raw_name.size();
  std::vector<uint8_t> longer;
  uint8_t* bytes = local;
  if (length > sizeof local) {
    longer.resize(length);
    bytes = longer.data();
  }
  if (entry.header > directory_ || directory_ - entry.header < length + entry.packed ||
      !zip::read_at(fd_, bytes, length, entry.header)) {
    return broken(printable(entry.name) + ": lies outside the archive");
  }
  TRY(zip::check_local(bytes, entry, name_));
  end = entry.header + length + le16(bytes + 28) + entry.packed;
  if (end > directory_) return broken(printable(entry.name) + ": lies outside the archive");
  return {};
}

// Reading where entries lie takes as long as looking at what they say. Of many, each is one
// thread's, and both read the directory.
Status Zip::check_entries() {
  constexpr uint64_t kWorthAThread = 2000;
  if (count_ < kWorthAThread) {
    TRY(check_directory());
    return check_local_headers();
  }
  Status places;
  std::thread helper([&] { places = check_local_headers(); });
  Status said = check_directory();
  helper.join();
  TRY(std::move(said));
  return places;
}

Status Zip::check_local_headers() {
  uint64_t last_end = prefix_;
  return each([&](const ZipEntry& entry) -> Status {
    uint64_t end = 0;
    TRY(check_local_header(entry, end));
    if (entry.header < last_end) in_order_ = false;
    last_end = end;
    return {};
  });
}

Status Zip::check_directory() {
  return each([&](const ZipEntry& entry) -> Status {
    (void)TRY(entry_path(entry.name, name_));
    bytes_ += entry.size;
    if (bytes_ > limits_.max_bytes || entry.size > limits_.max_bytes) {
      return make_error("unpack", name_,
                        "unpacks to more than " + std::to_string(limits_.max_bytes) + " bytes",
                        "give an archive of a sane size");
    }
    if (bytes_ > kBombSize && bytes_ / kBombRatio > file_size_) {
      return make_error("unpack", name_,
                        "unpacks to more than 1000 times its size, as a zip bomb does",
                        "give the content as a directory if it is meant so");
    }
    return {};
  });
}

// Only for zips whose entries aren't in the order of the directory: most need no table.
Status Zip::check_overlaps() const {
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  spans.reserve(count_);
  auto note = [&](const ZipEntry& entry) -> Status {
    uint64_t end = 0;
    TRY(check_local_header(entry, end));
    spans.emplace_back(entry.header, end);
    return {};
  };
  TRY(each(note));
  std::sort(spans.begin(), spans.end());
  for (size_t i = 1; i < spans.size(); ++i) {
    if (spans[i].first < spans[i - 1].second) {
      return broken("its entries overlap, as those of a zip bomb do");
    }
  }
  return {};
}

Result<std::optional<ZipEntry>> Zip::find(std::string_view name) const {
  std::optional<ZipEntry> found;
  TRY(each([&](const ZipEntry& entry) -> Status {
    if (!found && entry.name == name) found = entry;
    return {};
  }));
  return found;
}

Result<std::string> Zip::read_entry(std::string_view name, uint64_t limit) const {
  std::optional<ZipEntry> entry = TRY(find(name));
  if (!entry) return Error{"unpack", ENOENT, name_, "holds no " + printable(name), "", 125};
  return read(*entry, limit);
}

Result<std::string> Zip::read(const ZipEntry& entry, uint64_t limit) const {
  if (entry.size > limit) {
    return Error{"unpack", EFBIG,
                 name_,    printable(entry.name) + ": over " + std::to_string(limit) + " bytes",
                 "",       125};
  }
  std::string content;
  content.reserve(entry.size);
  zip::Inflater inflater(fd_, name_);
  TRY(inflater.run(entry, [&](const void* data, size_t size) -> Status {
    content.append(static_cast<const char*>(data), size);
    return {};
  }));
  return content;
}

Result<std::string> Zip::single_top_folder() const {
  static constexpr std::string_view kMac = "__MACOSX";
  std::string top;
  bool single = true;
  TRY(each([&](const ZipEntry& entry) -> Status {
    std::string_view name = entry.name;
    size_t slash = name.find('/');
    std::string_view folder = name.substr(0, slash);
    if (slash == std::string_view::npos) {
      single = false;
    } else if (folder != kMac && folder != top) {
      single = single && top.empty() && folder != ".";
      top = folder;
    }
    return {};
  }));
  return single ? top : "";
}

}  // namespace rtlaunch
