// From an entry of a zip to its bytes, for one thread: small entries in one go (libdeflate), big
// ones as a stream (ISA-L, as quick as libdeflate), both with the size and CRC checked. Memory: at
// most 1 MiB, touched only as far as it is needed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "installers/zip.h"

namespace rtlaunch::zip {

class Inflater {
 public:
  using Sink = std::function<Status(const void* data, size_t size)>;

  Inflater(int fd, const std::string& archive);
  ~Inflater();
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  // Hands all of the entry's bytes to `sink`, in order. The local header has been checked by
  // Zip::open(); only the length of what stands before the data is read here.
  Status run(const ZipEntry& entry, const Sink& sink);

 private:
  struct Libdeflate;
  struct Isal;
  // Bytes of the file, valid until the next call; nullptr when they can't be read.
  const uint8_t* bytes(uint64_t offset, uint64_t size);
  Status whole(const ZipEntry& entry, uint64_t data, const Sink& sink);
  Status stored(const ZipEntry& entry, uint64_t data, const Sink& sink);
  Status streamed(const ZipEntry& entry, uint64_t data, const Sink& sink);
  Error broken(const ZipEntry& entry, const std::string& why) const;

  int fd_;
  std::string archive_;
  uint64_t file_size_ = 0;
  uint64_t window_at_ = 0, window_size_ = 0;
  std::vector<uint8_t> window_, output_;
  std::unique_ptr<Libdeflate> libdeflate_;
  std::unique_ptr<Isal> isal_;
};

}  // namespace rtlaunch::zip
