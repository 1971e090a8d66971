// A layer's blob as the tar archive that it is: read, hashed, decompressed (gzip by ISA-L, zstd,
// bzip2 and xz by libarchive; plain as it is) and hashed again, in a thread of its own beside
// whoever reads. Both digests are only known at the end; nothing may be published before finish().
//
//   ImageStream stream(std::move(fd), "layer 2");
//   while (size_t count = TRY(stream.next(&data))) ...
//   ImageStream::Digests digests = TRY(stream.finish());   // reads what is left, too
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "installers/store/hash.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::installers {

class ImageStream {
 public:
  // `name` is what the blob is called in errors. `most`: bytes it may unpack to.
  ImageStream(UniqueFd fd, std::string name, uint64_t most);
  ImageStream(const ImageStream&) = delete;
  ~ImageStream();

  // Bytes of the archive, valid until the next call; 0 at the end.
  Result<size_t> next(const void** data);
  struct Digests {
    std::string blob, diff_id;  // hex
  };
  Result<Digests> finish();
  uint64_t bytes() const { return bytes_; }  // handed out so far

 private:
  void run();
  Status pump();
  Status pump_gzip(std::string_view start);
  Status pump_by_libarchive();
  Status pump_plain(std::string_view start);
  Result<std::string_view> read();  // the blob's next bytes; "" at its end
  Status give(const void* data, size_t size);
  bool put(std::vector<char> chunk);
  Error broken(const std::string& why) const;

  UniqueFd fd_;
  const std::string name_;
  const uint64_t most_;
  std::vector<char> input_;
  store::Hasher blob_, diff_;
  uint64_t unpacked_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<char>> ready_;
  bool ended_ = false, abandoned_ = false;
  Status failure_;

  std::vector<char> current_;
  uint64_t bytes_ = 0;
  std::thread thread_;  // last: it uses all the others
};

}  // namespace rtlaunch::installers
