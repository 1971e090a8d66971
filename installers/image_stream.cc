#include "installers/image_stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <isa-l/igzip_lib.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

namespace rtlaunch::installers {
namespace {

constexpr size_t kChunk = 1 << 20;
constexpr size_t kAhead = 8;  // chunks

bool is_gzip(std::string_view start) { return start.starts_with("\x1f\x8b"); }
// Of zstd's frames some hold nothing, and may come first.
bool is_zstd(std::string_view start) {
  bool empty =
      start.size() > 4 && (start[0] & 0xf0) == 0x50 && start.substr(1, 3) == "\x2a\x4d\x18";
  return empty || start.starts_with("\x28\xb5\x2f\xfd");
}
bool is_seldom(std::string_view start) {
  bool bzip2 = start.starts_with("BZh") && start.substr(4, 6) == "1AY&SY";
  return bzip2 || start.starts_with("\xfd\x37zXZ");
}

}  // namespace

ImageStream::ImageStream(UniqueFd fd, std::string name, uint64_t most)
    : fd_(std::move(fd)), name_(std::move(name)), most_(most), thread_([this] { run(); }) {}

ImageStream::~ImageStream() {
  {
    std::lock_guard lock(mutex_);
    abandoned_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Error ImageStream::broken(const std::string& why) const {
  return make_error("image", name_, why, "pull or make the image again");
}

// --- the thread that reads ---

void ImageStream::run() {
  Status pumped = pump();
  std::lock_guard lock(mutex_);
  failure_ = std::move(pumped);
  ended_ = true;
  changed_.notify_all();
}

Status ImageStream::pump() {
  input_.resize(kChunk);
  std::string_view start = TRY(read());
  if (is_gzip(start)) return pump_gzip(start);
  if (is_zstd(start) || is_seldom(start)) return pump_by_libarchive();
  return pump_plain(start);
}

Result<std::string_view> ImageStream::read() {
  ssize_t count;
  do {
    count = ::read(fd_.get(), input_.data(), input_.size());
  } while (count < 0 && errno == EINTR);
  if (count < 0) return sys_error("image", name_);
  blob_.bytes(input_.data(), static_cast<size_t>(count));
  return std::string_view(input_.data(), static_cast<size_t>(count));
}

// Several gzip files one after the other are one.
Status ImageStream::pump_gzip(std::string_view start) {
  auto state = std::make_unique<inflate_state>();
  std::vector<char> output(kChunk);
  auto begin = [&] {
    ::isal_inflate_init(state.get());
    state->crc_flag = ISAL_GZIP;
  };
  begin();
  std::string_view input = start;
  bool within = true;  // a member that isn't whole yet
  while (true) {
    if (input.empty()) input = TRY(read());
    if (input.empty()) return within ? Status(broken("it is cut short")) : Status();
    if (!within) begin();
    within = true;
    state->next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(input.data()));
    state->avail_in = static_cast<uint32_t>(input.size());
    do {
      state->next_out = reinterpret_cast<uint8_t*>(output.data());
      state->avail_out = static_cast<uint32_t>(output.size());
      if (::isal_inflate(state.get()) < 0) return broken("its compressed data is damaged");
      TRY(give(output.data(), output.size() - state->avail_out));
    } while (state->block_state != ISAL_BLOCK_FINISH &&
             (state->avail_in > 0 || state->avail_out == 0));
    within = state->block_state != ISAL_BLOCK_FINISH;
    input.remove_prefix(input.size() - state->avail_in);
  }
}

// libarchive reads the file itself, so it is read once more for its digest.
Status ImageStream::pump_by_libarchive() {
  while (!TRY(read()).empty()) {
  }
  if (::lseek(fd_.get(), 0, SEEK_SET) != 0) return sys_error("image", name_);
  std::unique_ptr<archive, int (*)(archive*)> raw(::archive_read_new(), ::archive_read_free);
  ::archive_read_support_filter_zstd(raw.get());
  ::archive_read_support_filter_bzip2(raw.get());
  ::archive_read_support_filter_xz(raw.get());
  ::archive_read_support_format_raw(raw.get());
  archive_entry* entry = nullptr;
  if (::archive_read_open_fd(raw.get(), fd_.get(), kChunk) != ARCHIVE_OK ||
      ::archive_read_next_header(raw.get(), &entry) != ARCHIVE_OK) {
    return broken("its compressed data is damaged");
  }
  std::vector<char> output(kChunk);
  while (true) {
    la_ssize_t count = ::archive_read_data(raw.get(), output.data(), output.size());
    if (count == 0) return {};
    if (count < 0) return broken("its compressed data is damaged");
    TRY(give(output.data(), static_cast<size_t>(count)));
  }
}

Status ImageStream::pump_plain(std::string_view start) {
  for (std::string_view input = start; !input.empty(); input = TRY(read())) {
    TRY(give(input.data(), input.size()));
  }
  return {};
}

Status ImageStream::give(const void* data, size_t size) {
  if (size == 0) return {};
  unpacked_ += size;
  if (unpacked_ > most_) {
    return broken("it unpacks to more than " + std::to_string(most_) + " bytes");
  }
  diff_.bytes(data, size);
  const char* bytes = static_cast<const char*>(data);
  if (put(std::vector<char>(bytes, bytes + size))) return {};
  return broken("nobody reads it any more");
}

bool ImageStream::put(std::vector<char> chunk) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ready_.size() < kAhead || abandoned_; });
  if (abandoned_) return false;
  ready_.push_back(std::move(chunk));
  changed_.notify_all();
  return true;
}

// --- whoever takes it ---

Result<size_t> ImageStream::next(const void** data) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || ended_; });
  if (ready_.empty()) {
    if (!failure_.ok()) return failure_.error();
    return size_t{0};
  }
  current_ = std::move(ready_.front());
  ready_.pop_front();
  changed_.notify_all();
  *data = current_.data();
  bytes_ += current_.size();
  return current_.size();
}

Result<ImageStream::Digests> ImageStream::finish() {
  const void* rest;
  while (TRY(next(&rest)) != 0) {
  }
  thread_.join();
  return Digests{blob_.hex(), diff_.hex()};
}

}  // namespace rtlaunch::installers
