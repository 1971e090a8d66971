// Problem: the static launcher hashes a few hundred bytes on its way to a worker. OpenSSL's EVP
// fetches the algorithm from a provider first: 550 us in a static program, a quarter of a warm run.
// Choice: the low-level SHA256_ functions of the same library: the same assembly (SHA-NI), 1.7
// GB/s, ready in 8 us. They are marked deprecated in OpenSSL 3.0, but kept for exactly this use.
// The static launcher asks the CPU for no more than it needs for that (launch_main.cc).
#define OPENSSL_SUPPRESS_DEPRECATED
#include "installers/store/hash.h"

#include <openssl/sha.h>
#include <unistd.h>

#include <cerrno>

extern "C" __attribute__((weak)) void rtlaunch_use_cpu(size_t size);

namespace rtlaunch::store {
namespace {

std::string to_hex(const std::string& raw) {
  static const char kDigits[] = "0123456789abcdef";
  std::string hex(raw.size() * 2, '\0');
  for (size_t i = 0; i < raw.size(); ++i) {
    unsigned char byte = static_cast<unsigned char>(raw[i]);
    hex[2 * i] = kDigits[byte >> 4];
    hex[2 * i + 1] = kDigits[byte & 15];
  }
  return hex;
}

int hex_value(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

}  // namespace

struct Hasher::State {
  SHA256_CTX context;
};

Hasher::Hasher() : state_(std::make_unique<State>()) { SHA256_Init(&state_->context); }
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
Hasher::~Hasher() = default;

Hasher& Hasher::bytes(const void* data, size_t size) {
  if (rtlaunch_use_cpu != nullptr) rtlaunch_use_cpu(size);
  SHA256_Update(&state_->context, data, size);
  return *this;
}

Hasher& Hasher::field(std::string_view text) {
  number(text.size());
  return bytes(text.data(), text.size());
}

Hasher& Hasher::number(uint64_t value) {
  unsigned char encoded[8];
  for (int i = 0; i < 8; i++) encoded[i] = static_cast<unsigned char>(value >> (8 * i));
  return bytes(encoded, sizeof encoded);
}

std::string Hasher::raw() {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256_Final(reinterpret_cast<unsigned char*>(digest.data()), &state_->context);
  return digest;
}

std::string Hasher::hex() { return to_hex(raw()); }

std::string sha256_hex(std::string_view data) {
  return Hasher().bytes(data.data(), data.size()).hex();
}

Result<std::string> sha256_file_raw(int fd, const std::string& name, uint64_t* size) {
  Hasher hash;
  auto buffer = std::make_unique<char[]>(128 << 10);
  off_t at = 0;
  while (true) {
    ssize_t count = ::pread(fd, buffer.get(), 128 << 10, at);
    if (count == 0) break;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sys_error("hash", name);
    hash.bytes(buffer.get(), static_cast<size_t>(count));
    at += count;
  }
  if (size != nullptr) *size = static_cast<uint64_t>(at);
  return hash.raw();
}

Result<std::string> sha256_file(int fd, const std::string& name) {
  return to_hex(TRY(sha256_file_raw(fd, name, nullptr)));
}

std::string hex_of(std::string_view raw) { return to_hex(std::string(raw)); }

std::string raw_of(std::string_view hex) {
  std::string raw;
  if (hex.size() % 2 != 0) return raw;
  for (size_t i = 0; i < hex.size(); i += 2) {
    int high = hex_value(hex[i]), low = hex_value(hex[i + 1]);
    if (high < 0 || low < 0) return "";
    raw += static_cast<char>(high * 16 + low);
  }
  return raw;
}

bool is_hex64(std::string_view text) {
  if (text.size() != 64) return false;
  for (char digit : text) {
    if (hex_value(digit) < 0) return false;
  }
  return true;
}

}  // namespace rtlaunch::store
