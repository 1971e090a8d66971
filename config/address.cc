#include "config/address.h"

#include <arpa/inet.h>

#include <array>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <optional>

namespace rtlaunch::config {
namespace {

struct Net {
  int family = AF_INET;
  std::array<unsigned char, 16> bytes = {};
  unsigned length = 0;  // of the prefix, in bits

  unsigned bits() const { return family == AF_INET ? 32 : 128; }
  bool bit(unsigned at) const { return (bytes[at / 8] >> (7 - at % 8) & 1) != 0; }
};

std::optional<unsigned> prefix_length(std::string_view text, unsigned most) {
  if (text.empty() || text.size() > 3 || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  unsigned length = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    length = length * 10 + static_cast<unsigned>(c - '0');
  }
  return length <= most ? std::optional(length) : std::nullopt;
}

std::optional<Net> parse_net(std::string_view text) {
  size_t slash = text.find('/');
  std::string address(text.substr(0, slash));
  Net net;
  if (::inet_pton(AF_INET, address.c_str(), net.bytes.data()) != 1) {
    net.family = AF_INET6;
    if (::inet_pton(AF_INET6, address.c_str(), net.bytes.data()) != 1) return std::nullopt;
  }
  net.length = net.bits();
  if (slash == std::string_view::npos) return net;
  auto length = prefix_length(text.substr(slash + 1), net.bits());
  if (!length) return std::nullopt;
  net.length = *length;
  for (unsigned at = net.length; at < net.bits(); ++at) {
    if (net.bit(at)) return std::nullopt;
  }
  return net;
}

std::string name_of(const Net& net) {
  char text[INET6_ADDRSTRLEN];
  ::inet_ntop(net.family, net.bytes.data(), text, sizeof text);
  return net.length == net.bits() ? text : std::string(text) + "/" + std::to_string(net.length);
}

bool is_label(std::string_view label) {
  if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-')
    return false;
  for (char c : label) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_') return false;
  }
  return true;
}

// As RFC 1123 has them. What looks like an address and is none ("10.0.0.300") is no name either.
bool is_name(std::string_view text) {
  if (text.empty() || text.size() > 253) return false;
  std::string_view last;
  while (true) {
    size_t dot = text.find('.');
    last = text.substr(0, dot);
    if (!is_label(last)) return false;
    if (dot == std::string_view::npos) break;
    text.remove_prefix(dot + 1);
  }
  return last.find_first_not_of("0123456789") != std::string_view::npos;
}

}  // namespace

std::string canonical_host(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) return "";
  if (auto net = parse_net(text)) return name_of(*net);
  if (!is_name(text)) return "";
  std::string name;
  for (unsigned char c : text) name += static_cast<char>(std::tolower(c));
  return name;
}

bool host_within(const std::string& narrow, const std::string& wide) {
  if (narrow == wide) return true;
  auto inner = parse_net(narrow), outer = parse_net(wide);
  if (!inner || !outer || inner->family != outer->family || inner->length < outer->length) {
    return false;
  }
  for (unsigned at = 0; at < outer->length; ++at) {
    if (inner->bit(at) != outer->bit(at)) return false;
  }
  return true;
}

}  // namespace rtlaunch::config
