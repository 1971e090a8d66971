// Zips for tests, byte by byte, so that they can be as wrong as one likes.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

struct ZipItem {
  std::string name, content;
  uint32_t mode = 0100644;
  bool deflate = true, descriptor = false, wide = false;  // wide: zip64 sizes
  uint16_t flags = 0, method = 0xffff;                    // 0xffff: what `deflate` says
  std::string local_name = {}, extra = {}, local_extra = {};
  int64_t size_lie = 0, packed_lie = 0, local_size_lie = 0;  // added to what the headers say
  uint32_t crc_lie = 0;
  int64_t header_at = -1;  // instead of the real offset
};

class ZipBuilder {
 public:
  std::string comment;
  int64_t count_lie = 0;

  ZipBuilder& add(ZipItem item) {
    items_.push_back(std::move(item));
    return *this;
  }
  ZipBuilder& add(const std::string& name, const std::string& content, uint32_t mode = 0100644) {
    ZipItem item;
    item.name = name;
    item.content = content;
    item.mode = mode;
    return add(std::move(item));
  }

  std::string build() const {
    std::string out, central;
    for (const ZipItem& item : items_) write(item, out, central);
    size_t at = out.size(), count = items_.size() + static_cast<size_t>(count_lie);
    out += central;
    out += "PK\5\6" + le(0, 2) + le(0, 2) + le(count, 2) + le(count, 2) + le(central.size(), 4) +
           le(at, 4) + le(comment.size(), 2) + comment;
    return out;
  }

  static std::string le(uint64_t value, int bytes) {
    std::string text;
    for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
    return text;
  }

  static std::string deflated(const std::string& content) {
    z_stream stream = {};
    ::deflateInit2(&stream, 6, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
    std::string packed(::deflateBound(&stream, content.size()) + 16, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
    stream.avail_in = static_cast<uInt>(content.size());
    stream.next_out = reinterpret_cast<Bytef*>(packed.data());
    stream.avail_out = static_cast<uInt>(packed.size());
    ::deflate(&stream, Z_FINISH);
    packed.resize(packed.size() - stream.avail_out);
    ::deflateEnd(&stream);
    return packed;
  }

 private:
  static void write(const ZipItem& item, std::string& out, std::string& central) {
    std::string packed = item.deflate ? deflated(item.content) : item.content;
    uint16_t method = item.method != 0xffff ? item.method : item.deflate ? 8 : 0;
    uint16_t flags = static_cast<uint16_t>(item.flags | (item.descriptor ? 8 : 0));
    uint64_t crc = ::crc32(0, reinterpret_cast<const Bytef*>(item.content.data()),
                           static_cast<uInt>(item.content.size())) ^
                   item.crc_lie;
    uint64_t size = item.content.size() + static_cast<uint64_t>(item.size_lie);
    uint64_t packed_size = packed.size() + static_cast<uint64_t>(item.packed_lie);
    uint64_t local_size = size + static_cast<uint64_t>(item.local_size_lie);
    std::string name = item.local_name.empty() ? item.name : item.local_name;
    uint64_t header = item.header_at >= 0 ? static_cast<uint64_t>(item.header_at) : out.size();
    std::string wide = item.wide ? le(1, 2) + le(16, 2) + le(size, 8) + le(packed_size, 8) : "";
    auto four = [&](uint64_t value) { return le(item.wide ? 0xffffffff : value, 4); };
    auto later = [&](uint64_t value) { return item.descriptor ? le(0, 4) : four(value); };
    const std::string time = le(0x6000, 2) + le(0x5321, 2);  // 2021-09-01 12:00:00
    out += "PK\3\4" + le(20, 2) + le(flags, 2) + le(method, 2) + time +
           (item.descriptor ? le(0, 4) : le(crc, 4)) + later(packed_size) + later(local_size) +
           le(name.size(), 2) + le(wide.size() + item.local_extra.size(), 2) + name + wide +
           item.local_extra + packed;
    if (item.descriptor) out += "PK\7\10" + le(crc, 4) + le(packed_size, 4) + le(size, 4);
    central += "PK\1\2" + le(0x31e, 2) + le(20, 2) + le(flags, 2) + le(method, 2) + time +
               le(crc, 4) + four(packed_size) + four(size) + le(item.name.size(), 2) +
               le(wide.size() + item.extra.size(), 2) + le(0, 2) + le(0, 2) + le(0, 2) +
               le(static_cast<uint64_t>(item.mode) << 16, 4) + le(header, 4) + item.name + wide +
               item.extra;
  }

  std::vector<ZipItem> items_;
};

inline UniqueFd memory_file(const std::string& content) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(::write(fd.get(), content.data(), content.size()),
            static_cast<ssize_t>(content.size()));
  return fd;
}

}  // namespace rtlaunch
