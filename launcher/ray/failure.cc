#include "launcher/ray/failure.h"

#include <string_view>

namespace rtlaunch::ray {
namespace {

constexpr size_t kMostLines = 10;
constexpr size_t kMostBytes = 64 << 10;
constexpr int64_t kDefaultTimeout = 600;

// Bytes of the character that begins here; 0 when none does.
size_t character_at(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  size_t size = byte(0) < 0x80   ? 1
                : byte(0) < 0xc2 ? 0
                : byte(0) < 0xe0 ? 2
                : byte(0) < 0xf0 ? 3
                : byte(0) < 0xf5 ? 4
                                 : 0;
  if (size == 0 || size > text.size()) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  bool overlong = (byte(0) == 0xe0 && byte(1) < 0xa0) || (byte(0) == 0xf0 && byte(1) < 0x90);
  bool beyond = (byte(0) == 0xed && byte(1) > 0x9f) || (byte(0) == 0xf4 && byte(1) > 0x8f);
  return overlong || beyond ? 0 : size;
}

}  // namespace

std::string trimmed_text(const std::string& text, size_t lines, size_t bytes) {
  std::string result;
  std::string_view rest = text;
  while (!rest.empty() && result.size() < bytes) {
    if (rest[0] == '\n' && --lines == 0) break;
    size_t size = character_at(rest);
    bool control = size == 1 && static_cast<unsigned char>(rest[0]) < 0x20 && rest[0] != '\n';
    result += size == 0 || control ? std::string("?") : std::string(rest.substr(0, size));
    rest.remove_prefix(size == 0 ? 1 : size);
  }
  if (!rest.empty()) result += " [...]";
  return result;
}

std::string failure_text(const Error& error) {
  std::string text = error.step.empty() ? error.reason : error.message();
  if (!error.cure.empty()) text += "\n" + error.cure;
  return trimmed_text(text, kMostLines, kMostBytes);
}

std::string on_node(const std::string& node_ip, const std::string& text) {
  return "[Node " + (node_ip.empty() ? "unknown" : node_ip) + "] " + text;
}

Error too_late(std::chrono::seconds limit, const std::string& at) {
  Error error;
  error.reason = "Failed to install runtime_env within the timeout of " +
                 std::to_string(limit.count()) +
                 " seconds. "
                 "Consider increasing the timeout in the runtime_env config. For example: \n"
                 "    runtime_env={\"config\": {\"setup_timeout_seconds\": 1800}, ...}\n"
                 "If not provided, the default timeout is " +
                 std::to_string(kDefaultTimeout) + " seconds. ";
  if (!at.empty()) error.reason += "\nIt was at: " + at;
  return error;
}

}  // namespace rtlaunch::ray
