#include "installers/zip_format.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

namespace rtlaunch::zip {
namespace {

constexpr uint64_t kWindow = 64 << 10;
constexpr uint32_t kFull = 0xffffffff;

// What bytes 128-255 mean in a name without the UTF-8 flag, as Python's zipfile reads them.
constexpr char16_t kCp437[] =
    u"ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐"
    u"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0";
static_assert(sizeof kCp437 / sizeof kCp437[0] == 129);

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    unsigned char c = static_cast<unsigned char>(text[i]);
    size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : 3;
    if (more == 3 && (c < 0xf0 || c > 0xf4)) return false;
    if (i + more >= text.size()) return false;
    for (size_t k = 1; k <= more; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
    }
    unsigned char second = more > 0 ? static_cast<unsigned char>(text[i + 1]) : 0;
    if ((c == 0xe0 && second < 0xa0) || (c == 0xed && second >= 0xa0) ||
        (c == 0xf0 && second < 0x90) || (c == 0xf4 && second >= 0x90)) {
      return false;
    }
    i += more + 1;
  }
  return true;
}

void append_utf8(std::string& text, char16_t c) {
  if (c < 0x800) {
    text += static_cast<char>(0xc0 | c >> 6);
  } else {
    text += static_cast<char>(0xe0 | c >> 12);
    text += static_cast<char>(0x80 | (c >> 6 & 0x3f));
  }
  text += static_cast<char>(0x80 | (c & 0x3f));
}

// macOS writes UTF-8 without the flag, so the flag is asked only for what isn't UTF-8.
std::string decode_name(const std::string& raw) {
  if (is_utf8(raw)) return raw;
  std::string text;
  for (char byte : raw) {
    unsigned char c = static_cast<unsigned char>(byte);
    if (c < 0x80) {
      text += byte;
    } else {
      append_utf8(text, kCp437[c - 0x80]);
    }
  }
  return text;
}

int64_t dos_time(uint16_t time, uint16_t date) {
  struct tm parts = {};
  parts.tm_year = (date >> 9) + 80;
  parts.tm_mon = (date >> 5 & 15) - 1;
  parts.tm_mday = date & 31;
  parts.tm_hour = time >> 11;
  parts.tm_min = time >> 5 & 63;
  parts.tm_sec = (time & 31) * 2;
  if (parts.tm_mon < 0 || parts.tm_mon > 11 || parts.tm_mday == 0) return 0;
  return ::timegm(&parts);
}

const char* method_name(uint16_t method) {
  switch (method) {
    case 9:
      return "deflate64";
    case 12:
      return "bzip2";
    case 14:
      return "lzma";
    case 93:
      return "zstd";
    case 95:
      return "xz";
    case 99:
      return "AES encryption";
    default:
      return "an unknown method";
  }
}

}  // namespace

bool read_at(int fd, void* data, size_t size, uint64_t offset) {
  uint8_t* to = static_cast<uint8_t*>(data);
  while (size > 0) {
    ssize_t count = ::pread(fd, to, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = EIO;
    if (count <= 0) return false;
    to += count;
    offset += static_cast<uint64_t>(count);
    size -= static_cast<size_t>(count);
  }
  return true;
}

DirectoryReader::DirectoryReader(int fd, const std::string& archive, uint64_t start, uint64_t size,
                                 uint64_t prefix)
    : fd_(fd), archive_(archive), next_(start), end_(start + size), prefix_(prefix) {}

Error DirectoryReader::refuse(const std::string& why) const {
  return make_error("unpack", archive_,
                    (entry_.name.empty() ? "" : printable(entry_.name) + ": ") + why,
                    "download or make the archive again");
}

const uint8_t* DirectoryReader::bytes(uint64_t offset, uint64_t size) {
  if (size > end_ - offset) return nullptr;
  if (offset < window_at_ || offset + size > window_at_ + window_size_) {
    window_size_ = std::min(std::max(size, kWindow), end_ - offset);
    window_.resize(window_size_);
    window_at_ = offset;
    if (!read_at(fd_, window_.data(), window_size_, offset)) {
      window_size_ = 0;
      return nullptr;
    }
  }
  return window_.data() + (offset - window_at_);
}

Result<const ZipEntry*> DirectoryReader::next() {
  entry_ = {};
  const uint8_t* record = bytes(next_, 46);
  if (record == nullptr || le32(record) != kCentralSignature) {
    return refuse("its directory is damaged or cut short");
  }
  uint64_t size = 46ull + le16(record + 28) + le16(record + 30) + le16(record + 32);
  record = bytes(next_, size);
  if (record == nullptr) return refuse("its directory is damaged or cut short");
  next_ += size;
  TRY(parse(record));
  return &entry_;
}

Status DirectoryReader::parse(const uint8_t* record) {
  uint16_t name_size = le16(record + 28), extra_size = le16(record + 30);
  entry_.raw_name.assign(reinterpret_cast<const char*>(record + 46), name_size);
  entry_.name = decode_name(entry_.raw_name);
  entry_.flags = le16(record + 8);
  entry_.method = le16(record + 10);
  entry_.mtime = dos_time(le16(record + 12), le16(record + 14));
  entry_.crc = le32(record + 16);
  entry_.packed = le32(record + 20);
  entry_.size = le32(record + 24);
  entry_.header = le32(record + 42);
  TRY(parse_extra(record + 46 + name_size, extra_size));
  if (entry_.header > end_) return refuse("lies outside the archive");
  entry_.header += prefix_;
  if (le16(record + 34) != 0 && le16(record + 34) != 0xffff) {
    return refuse("lies in another part of a zip of several parts");
  }
  return classify(le32(record + 38));
}

Status DirectoryReader::parse_extra(const uint8_t* extra, uint64_t size) {
  while (size >= 4) {
    uint16_t id = le16(extra), length = le16(extra + 2);
    if (length > size - 4u) break;  // padding, as some tools leave it; a lost zip64 shows below
    const uint8_t* field = extra + 4;
    if (id == 1) {
      uint64_t left = length;
      for (uint64_t* value : {&entry_.size, &entry_.packed, &entry_.header}) {
        if (*value != kFull) continue;
        if (left < 8) return refuse("its zip64 sizes are missing");
        *value = le64(field);
        field += 8;
        left -= 8;
      }
    } else if (id == 0x5455 && length >= 5 && (field[0] & 1)) {
      entry_.mtime = static_cast<int32_t>(le32(field + 1));
    }
    extra += 4 + length;
    size -= 4u + length;
  }
  return {};
}

Status DirectoryReader::classify(uint32_t attributes) {
  uint32_t unix_mode = attributes >> 16;
  entry_.mode = unix_mode & 0777;
  bool slash = !entry_.name.empty() && entry_.name.back() == '/';
  uint32_t type = unix_mode & S_IFMT;
  if (slash || type == S_IFDIR) {
    entry_.type = ZipEntry::Type::kDirectory;
    if (!slash) entry_.name += '/';
    if (entry_.size != 0) return refuse("a directory with content");
  } else if (type == S_IFLNK) {
    entry_.type = ZipEntry::Type::kLink;
  } else if (type == S_IFCHR || type == S_IFBLK || type == S_IFIFO || type == S_IFSOCK) {
    return refuse("a device, pipe or socket");
  }
  if (entry_.flags & (1 | 1 << 6 | 1 << 13)) {
    return make_error("unpack", archive_, printable(entry_.name) + ": is encrypted",
                      "make the archive again without a password");
  }
  if (entry_.method != 0 && entry_.method != 8) {
    return make_error("unpack", archive_,
                      printable(entry_.name) + ": compressed with " + method_name(entry_.method),
                      "make the archive again with deflate, what `zip` does unless told otherwise");
  }
  if (entry_.method == 0 && entry_.size != entry_.packed) return refuse("its sizes don't add up");
  return {};
}

Status check_local(const uint8_t* header, const ZipEntry& entry, const std::string& archive) {
  auto differs = [&](const char* what) {
    return make_error("unpack", archive,
                      printable(entry.name) + ": the archive contradicts itself (" + what + ")",
                      "download or make the archive again");
  };
  if (le32(header) != kLocalSignature) return differs("no local header where one should be");
  if (le16(header + 26) != entry.raw_name.size() ||
      std::memcmp(header + 30, entry.raw_name.data(), entry.raw_name.size()) != 0) {
    return differs("two names for one entry");
  }
  if (le16(header + 8) != entry.method) return differs("two methods for one entry");
  if (le16(header + 6) & (1 | 1 << 6 | 1 << 13)) return differs("encrypted or not");
  bool later = le16(header + 6) & 8;  // the numbers follow the data
  auto same = [&](uint32_t local, uint64_t central) {
    return local == central || local == kFull || (later && local == 0);
  };
  if (!same(le32(header + 18), entry.packed) || !same(le32(header + 22), entry.size)) {
    return differs("two sizes for one entry");
  }
  if (le32(header + 14) != entry.crc && !(later && le32(header + 14) == 0)) {
    return differs("two checksums for one entry");
  }
  return {};
}

}  // namespace rtlaunch::zip
