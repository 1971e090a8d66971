#include "installers/zip_inflate.h"

#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>
#include <libdeflate.h>
#include <sys/stat.h>

#include <algorithm>

#include "installers/zip_format.h"

namespace rtlaunch::zip {
namespace {

constexpr uint64_t kWhole = 256 << 10;   // entries up to here are inflated in one go
constexpr uint64_t kWindow = 256 << 10;  // what is read ahead: neighbours are mostly next
constexpr uint64_t kChunk = 128 << 10;   // of a stream

}  // namespace

struct Inflater::Libdeflate {
  libdeflate_decompressor* handle = libdeflate_alloc_decompressor();
  ~Libdeflate() { libdeflate_free_decompressor(handle); }
};

struct Inflater::Isal {
  inflate_state state;
};

Inflater::Inflater(int fd, const std::string& archive) : fd_(fd), archive_(archive) {
  struct stat info;
  if (::fstat(fd, &info) == 0) file_size_ = static_cast<uint64_t>(info.st_size);
}

Inflater::~Inflater() = default;

Error Inflater::broken(const ZipEntry& entry, const std::string& why) const {
  return make_error("unpack", archive_, printable(entry.name) + ": " + why,
                    "download or make the archive again");
}

const uint8_t* Inflater::bytes(uint64_t offset, uint64_t size) {
  if (offset > file_size_ || size > file_size_ - offset) return nullptr;
  if (offset < window_at_ || offset + size > window_at_ + window_size_) {
    window_size_ = std::min(std::max(size, kWindow), file_size_ - offset);
    if (window_.size() < window_size_) window_.resize(window_size_);
    window_at_ = offset;
    if (!read_at(fd_, window_.data(), window_size_, offset)) {
      window_size_ = 0;
      return nullptr;
    }
  }
  return window_.data() + (offset - window_at_);
}

Status Inflater::run(const ZipEntry& entry, const Sink& sink) {
  const uint8_t* header = bytes(entry.header, 30);
  if (header == nullptr || le32(header) != kLocalSignature) return broken(entry, "cut short");
  uint64_t data = entry.header + 30 + le16(header + 26) + le16(header + 28);
  if (entry.method == 0) return stored(entry, data, sink);
  if (entry.size <= kWhole && entry.packed <= kWhole) return whole(entry, data, sink);
  return streamed(entry, data, sink);
}

Status Inflater::whole(const ZipEntry& entry, uint64_t data, const Sink& sink) {
  const uint8_t* packed = bytes(data, entry.packed);
  if (packed == nullptr) return broken(entry, "cut short");
  if (!libdeflate_) libdeflate_ = std::make_unique<Libdeflate>();
  if (output_.size() < entry.size) output_.resize(std::max<uint64_t>(entry.size, 64 << 10));
  size_t size = 0;
  libdeflate_result result = libdeflate_deflate_decompress(
      libdeflate_->handle, packed, entry.packed, output_.data(), entry.size, &size);
  if (result == LIBDEFLATE_INSUFFICIENT_SPACE ||
      (result == LIBDEFLATE_SUCCESS && size < entry.size)) {
    return broken(entry, "holds another number of bytes than it says");
  }
  if (result != LIBDEFLATE_SUCCESS) return broken(entry, "its compressed data is damaged");
  if (::crc32_gzip_refl(0, output_.data(), size) != entry.crc) {
    return broken(entry, "damaged (its checksum is wrong)");
  }
  return sink(output_.data(), size);
}

Status Inflater::stored(const ZipEntry& entry, uint64_t data, const Sink& sink) {
  uint32_t crc = 0;
  for (uint64_t done = 0; done < entry.size;) {
    uint64_t size = std::min(kWindow, entry.size - done);
    const uint8_t* chunk = bytes(data + done, size);
    if (chunk == nullptr) return broken(entry, "cut short");
    crc = ::crc32_gzip_refl(crc, chunk, size);
    TRY(sink(chunk, size));
    done += size;
  }
  if (crc != entry.crc) return broken(entry, "damaged (its checksum is wrong)");
  return {};
}

Status Inflater::streamed(const ZipEntry& entry, uint64_t data, const Sink& sink) {
  if (!isal_) isal_ = std::make_unique<Isal>();
  inflate_state& state = isal_->state;
  ::isal_inflate_init(&state);  // of raw deflate data, without a checksum of its own
  if (output_.size() < kChunk) output_.resize(kChunk);
  uint64_t read = 0, written = 0;
  uint32_t crc = 0;
  while (state.block_state != ISAL_BLOCK_FINISH) {
    if (state.avail_in == 0 && read < entry.packed) {
      uint64_t size = std::min(kChunk, entry.packed - read);
      const uint8_t* chunk = bytes(data + read, size);
      if (chunk == nullptr) return broken(entry, "cut short");
      state.next_in = const_cast<uint8_t*>(chunk);
      state.avail_in = static_cast<uint32_t>(size);
      read += size;
    }
    bool last = read == entry.packed;
    state.next_out = output_.data();
    state.avail_out = static_cast<uint32_t>(kChunk);
    int result = ::isal_inflate(&state);
    uint64_t size = kChunk - state.avail_out;
    bool stuck = size == 0 && state.avail_in == 0 && last;
    if (result < 0 || (state.block_state != ISAL_BLOCK_FINISH && stuck)) {
      return broken(entry, "its compressed data is damaged");
    }
    if (size > entry.size - written) return broken(entry, "holds more bytes than it says");
    crc = ::crc32_gzip_refl(crc, output_.data(), size);
    TRY(sink(output_.data(), size));
    written += size;
  }
  if (written != entry.size) return broken(entry, "holds fewer bytes than it says");
  if (crc != entry.crc) return broken(entry, "damaged (its checksum is wrong)");
  return {};
}

}  // namespace rtlaunch::zip
