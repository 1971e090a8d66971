// The records of a zip file, byte by byte: for zip.cc and zip_extract.cc alone. Nothing here trusts
// a number it has read. Format: PKWARE's APPNOTE.TXT 6.3.10.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "installers/zip.h"

namespace rtlaunch::zip {

inline constexpr uint32_t kLocalSignature = 0x04034b50;
inline constexpr uint32_t kCentralSignature = 0x02014b50;
inline constexpr uint32_t kEndSignature = 0x06054b50;
inline constexpr uint32_t kEnd64Signature = 0x06064b50;
inline constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;

inline uint16_t le16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
inline uint32_t le32(const uint8_t* p) {
  return le16(p) | static_cast<uint32_t>(le16(p + 2)) << 16;
}
inline uint64_t le64(const uint8_t* p) {
  return le32(p) | static_cast<uint64_t>(le32(p + 4)) << 32;
}

// All `size` bytes at `offset`, or false (errno is EIO when the file ends before).
bool read_at(int fd, void* data, size_t size, uint64_t offset);

// The entries of the central directory, one after the other, through a window of 64 KiB.
class DirectoryReader {
 public:
  DirectoryReader(int fd, const std::string& archive, uint64_t start, uint64_t size,
                  uint64_t prefix);
  Result<const ZipEntry*> next();  // valid until the next call
  bool at_end() const { return next_ == end_; }

 private:
  const uint8_t* bytes(uint64_t offset, uint64_t size);  // nullptr when they can't be read
  Status parse(const uint8_t* record);
  Status parse_extra(const uint8_t* extra, uint64_t size);
  Status classify(uint32_t attributes);
  Error refuse(const std::string& why) const;

  int fd_;
  std::string archive_;
  uint64_t next_, end_, prefix_;
  uint64_t window_at_ = 0, window_size_ = 0;
  std::vector<uint8_t> window_;
  ZipEntry entry_;
};

// Whether the local header (30 bytes and the name) says what the central directory does.
Status check_local(const uint8_t* header, const ZipEntry& entry, const std::string& archive);

}  // namespace rtlaunch::zip
