#include "isolation/wire.h"

namespace rtlaunch::isolation {

Writer& Writer::number(uint32_t value) {
  char bytes[4];
  for (int i = 0; i < 4; ++i) bytes[i] = static_cast<char>(value >> 8 * i);
  bytes_.append(bytes, sizeof bytes);
  return *this;
}

Writer& Writer::long_number(uint64_t value) {
  return number(static_cast<uint32_t>(value)).number(static_cast<uint32_t>(value >> 32));
}

Writer& Writer::flag(bool value) {
  bytes_ += value ? '\1' : '\0';
  return *this;
}

Writer& Writer::text(std::string_view value) {
  number(static_cast<uint32_t>(value.size()));
  bytes_ += value;
  return *this;
}

Writer& Writer::texts(const std::vector<std::string>& values) {
  number(static_cast<uint32_t>(values.size()));
  for (const std::string& value : values) text(value);
  return *this;
}

std::string_view Reader::take(size_t size) {
  if (!ok_ || size > rest_.size()) {
    ok_ = false;
    return {};
  }
  std::string_view taken = rest_.substr(0, size);
  rest_.remove_prefix(size);
  return taken;
}

uint32_t Reader::number() {
  uint32_t value = 0;
  int shift = 0;
  for (char byte : take(4)) {
    value |= uint32_t{static_cast<unsigned char>(byte)} << shift;
    shift += 8;
  }
  return value;
}

uint64_t Reader::long_number() {
  uint64_t low = number();
  return low | uint64_t{number()} << 32;
}

bool Reader::flag() {
  std::string_view byte = take(1);
  if (!ok_) return false;
  if (byte[0] != '\0' && byte[0] != '\1') ok_ = false;
  return ok_ && byte[0] == '\1';
}

std::string Reader::text() {
  std::string_view bytes = take(number());
  if (bytes.find('\0') != std::string_view::npos) ok_ = false;
  return ok_ ? std::string(bytes) : std::string();
}

size_t Reader::count(size_t least) {
  size_t items = number();
  if (items > rest_.size() / least) ok_ = false;
  return ok_ ? items : 0;
}

std::vector<std::string> Reader::texts() {
  std::vector<std::string> values;
  size_t items = count(4);
  values.reserve(items);
  for (size_t i = 0; i < items && ok_; ++i) values.push_back(text());
  return values;
}

}  // namespace rtlaunch::isolation
