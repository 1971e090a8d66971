// Bytes of our own formats: little-endian numbers, length-prefixed strings and lists. Reader checks
// every length before it believes it, never allocates more than the bytes that are there could
// hold, and refuses what has more than one spelling (a bool of 2, a NUL in a string, bytes left
// over), so that whatever it accepts encodes to the same bytes again.
//
//   Writer out;  out.number(7).text("pip");
//   Reader in(bytes);  uint32_t n = in.number();  std::string s = in.text();
//   if (!in.done()) ...   // one check at the end: after a failure all reads give zeros
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rtlaunch::isolation {

class Writer {
 public:
  Writer& number(uint32_t value);
  Writer& long_number(uint64_t value);
  Writer& flag(bool value);
  Writer& text(std::string_view value);
  Writer& texts(const std::vector<std::string>& values);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  uint32_t number();
  uint64_t long_number();
  bool flag();
  std::string text();
  std::vector<std::string> texts();
  // Of a list whose items are at least `least` bytes each.
  size_t count(size_t least);
  void fail() { ok_ = false; }
  bool ok() const { return ok_; }
  bool done() const { return ok_ && rest_.empty(); }  // all was read, nothing failed

 private:
  std::string_view take(size_t size);

  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace rtlaunch::isolation
