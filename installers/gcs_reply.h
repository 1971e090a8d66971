// An answer of Ray's key-value store, taken apart as it comes in: 5 bytes of gRPC's framing, then a
// protobuf message {1: GcsStatus{1: code, 2: message}, 2: value}. The value is handed on in pieces;
// nothing but the status is kept.
//
//   GcsReply reply([&](std::string_view piece) { return write(piece); });
//   while (...) TRY(reply.take(bytes));
//   TRY(reply.finish());   // reply.code(): 0, or 17 for a key that isn't there
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "isolation/sys/result.h"

namespace rtlaunch {

class GcsReply {
 public:
  using OnValue = std::function<Status(std::string_view piece)>;
  explicit GcsReply(OnValue on_value) : on_value_(std::move(on_value)) {}

  Status take(std::string_view bytes);  // an Error: it is no such answer, or on_value's
  Status finish() const;                // an Error: it ended too early
  int64_t code() const { return code_; }
  const std::string& message() const { return message_; }
  uint64_t value_size() const { return value_size_; }  // known once it has begun

 private:
  enum class At { kFrame, kTag, kVarint, kLength, kSkip, kStatus, kValue };
  Status take_small(char byte);
  Status take_block(std::string_view& bytes);
  Status begin_field(uint64_t tag);
  Status begin_block(uint64_t size);
  Status read_status();

  OnValue on_value_;
  At at_ = At::kFrame;
  std::string small_;   // of a frame's head or a number, until it is whole
  std::string status_;  // the message with the code
  uint64_t message_left_ = 0, block_left_ = 0, field_ = 0, value_size_ = 0;
  bool framed_ = false;
  int64_t code_ = 0;
  std::string message_;
};

}  // namespace rtlaunch
