#include "installers/gcs_reply.h"

#include <algorithm>

namespace rtlaunch {
namespace {

constexpr size_t kFrameSize = 5;
constexpr size_t kMostStatus = 1 << 20;
constexpr size_t kMostVarint = 10;
enum Wire : uint64_t { kVarintWire = 0, kEightBytes = 1, kBlock = 2, kFourBytes = 5 };

Error malformed(const std::string& what) {
  return make_error("gcs", "", "the answer of Ray's key-value store is malformed: " + what,
                    "check that the address is that of Ray's GCS, and its version");
}

// The number at the start of `bytes`, which is taken off; false when it isn't whole.
bool take_varint(std::string_view& bytes, uint64_t& value) {
  value = 0;
  for (size_t i = 0; i < std::min(bytes.size(), kMostVarint); ++i) {
    value |= uint64_t{static_cast<unsigned char>(bytes[i]) & 0x7fu} << (7 * i);
    if ((bytes[i] & 0x80) != 0) continue;
    bytes.remove_prefix(i + 1);
    return true;
  }
  return false;
}

}  // namespace

Status GcsReply::take(std::string_view bytes) {
  while (!bytes.empty()) {
    if (framed_ && message_left_ == 0) return malformed("it goes on behind its end");
    if (at_ == At::kSkip || at_ == At::kStatus || at_ == At::kValue) {
      TRY(take_block(bytes));
      continue;
    }
    if (framed_) --message_left_;
    TRY(take_small(bytes[0]));
    bytes.remove_prefix(1);
  }
  return {};
}

// One byte of the frame's head or of a number.
Status GcsReply::take_small(char byte) {
  small_ += byte;
  if (at_ == At::kFrame) {
    if (small_.size() < kFrameSize) return {};
    if (small_[0] != 0) return malformed("it is compressed");
    for (size_t i = 1; i < kFrameSize; ++i) {
      message_left_ = message_left_ << 8 | static_cast<unsigned char>(small_[i]);
    }
    framed_ = true;
    at_ = At::kTag;
    small_.clear();
    return {};
  }
  if ((byte & 0x80) != 0) return small_.size() < kMostVarint ? Status() : malformed("a number");
  std::string_view whole = small_;
  uint64_t value = 0;
  take_varint(whole, value);
  small_.clear();
  if (at_ == At::kTag) return begin_field(value);
  if (at_ == At::kLength) return begin_block(value);
  at_ = At::kTag;  // a number of a field that is none of ours
  return {};
}

Status GcsReply::begin_field(uint64_t tag) {
  field_ = tag >> 3;
  switch (tag & 7) {
    case kVarintWire:
      at_ = At::kVarint;
      return {};
    case kBlock:
      at_ = At::kLength;
      return {};
    case kEightBytes:
    case kFourBytes:
      field_ = 0;
      return begin_block((tag & 7) == kEightBytes ? 8 : 4);
    default:
      return malformed("a field of an unknown kind");
  }
}

Status GcsReply::begin_block(uint64_t size) {
  if (size > message_left_) return malformed("a field is longer than all of it");
  block_left_ = size;
  at_ = field_ == 1 ? At::kStatus : field_ == 2 ? At::kValue : At::kSkip;
  if (at_ == At::kStatus && size > kMostStatus) return malformed("its status is too long");
  if (at_ == At::kValue) value_size_ = size;
  if (size == 0) at_ = At::kTag;
  return {};
}

Status GcsReply::take_block(std::string_view& bytes) {
  std::string_view piece = bytes.substr(0, block_left_);
  bytes.remove_prefix(piece.size());
  block_left_ -= piece.size();
  message_left_ -= piece.size();
  if (at_ == At::kValue) TRY(on_value_(piece));
  if (at_ == At::kStatus) status_ += piece;
  if (block_left_ > 0) return {};
  bool status = at_ == At::kStatus;
  at_ = At::kTag;
  return status ? read_status() : Status();
}

Status GcsReply::read_status() {
  std::string_view rest = status_;
  while (!rest.empty()) {
    uint64_t tag = 0, value = 0;
    bool number = take_varint(rest, tag) && take_varint(rest, value);
    if (!number || ((tag & 7) != kVarintWire && (tag & 7) != kBlock))
      return malformed("its status");
    if ((tag & 7) == kVarintWire) {
      if (tag >> 3 == 1) code_ = static_cast<int64_t>(value);
      continue;
    }
    if (value > rest.size()) return malformed("its status");
    if (tag >> 3 == 2) message_ = rest.substr(0, value);
    rest.remove_prefix(value);
  }
  return {};
}

Status GcsReply::finish() const {
  bool whole = framed_ && message_left_ == 0 && at_ == At::kTag && small_.empty();
  return whole ? Status() : malformed("it ended too early");
}

}  // namespace rtlaunch
