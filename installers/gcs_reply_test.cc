#include "installers/gcs_reply.h"

#include <gtest/gtest.h>

#include <random>

namespace rtlaunch {
namespace {

std::string varint(uint64_t value) {
  std::string text;
  for (; value > 0x7f; value >>= 7) text += static_cast<char>(value | 0x80);
  return text + static_cast<char>(value);
}
std::string block(int field, const std::string& content) {
  return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(content.size()) + content;
}
std::string number(int field, uint64_t value) {
  return varint(static_cast<uint64_t>(field) << 3) + varint(value);
}
std::string framed(const std::string& message) {
  std::string frame(1, '\0');
  for (int shift = 24; shift >= 0; shift -= 8) frame += static_cast<char>(message.size() >> shift);
  return frame + message;
}

// Fed in pieces of `size`; "error" or the value.
std::string read(const std::string& bytes, size_t size, int64_t* code = nullptr) {
  std::string value;
  GcsReply reply([&](std::string_view piece) { return value += piece, Status(); });
  for (size_t at = 0; at < bytes.size(); at += size) {
    if (!reply.take(std::string_view(bytes).substr(at, size))) return "error";
  }
  if (code != nullptr) *code = reply.code();
  return reply.finish() ? value : "error";
}

TEST(GcsReply, HandsOnTheValueHoweverItComes) {
  std::string value(1000, 'v');
  std::string bytes = framed(block(1, number(1, 0) + block(2, "fine")) + number(9, 300) +
                             block(8, "skipped") + block(2, value));
  for (size_t size : {1, 2, 7, 64, 100'000}) EXPECT_EQ(read(bytes, size), value) << size;
}

TEST(GcsReply, ReadsTheStatus) {
  int64_t code = 0;
  EXPECT_EQ(read(framed(block(1, number(1, 17) + block(2, "Failed to find the key"))), 3, &code),
            "");
  EXPECT_EQ(code, 17);
  EXPECT_EQ(read(framed(""), 1, &code), "");
  EXPECT_EQ(code, 0);
}

TEST(GcsReply, RefusesWhatIsNoAnswer) {
  std::string good = framed(block(2, "value"));
  EXPECT_EQ(read(good.substr(0, good.size() - 1), 100), "error");
  EXPECT_EQ(read(good + "x", 100), "error");
  EXPECT_EQ(read("\x01" + good.substr(1), 100), "error");
  EXPECT_EQ(read(framed(varint(2 << 3 | 2) + varint(1000) + "short"), 100), "error");
  EXPECT_EQ(read(framed(std::string(20, '\xff')), 100), "error");
  EXPECT_EQ(read("", 1), "error");
}

TEST(GcsReply, WhatTheSinkSaysEndsIt) {
  GcsReply reply([](std::string_view) { return Status(make_error("disk", "", "full")); });
  Status taken = reply.take(framed(block(2, "value")));
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().reason, "full");
}

TEST(GcsReply, SurvivesNonsense) {
  std::mt19937 random(7);
  std::string good = framed(block(1, number(1, 17)) + block(2, std::string(100, 'v')));
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = good;
    for (int changes = 0; changes < 3; ++changes) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    EXPECT_LE(read(bytes, 1 + random() % 50).size(), bytes.size());
  }
}

}  // namespace
}  // namespace rtlaunch
