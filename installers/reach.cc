#include "installers/reach.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <regex>

namespace rtlaunch::installers {
namespace {

struct Scheme {
  std::string_view name;
  uint16_t port;
};
constexpr Scheme kSchemes[] = {{"https", 443}, {"http", 80}, {"ssh", 22}, {"git", 9418}};

bool is_one_of(char c, std::string_view others) {
  return ::isalnum(static_cast<unsigned char>(c)) != 0 || others.find(c) != std::string_view::npos;
}

std::optional<uint16_t> parse_port(std::string_view text) {
  uint16_t port = 0;
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (code != std::errc() || end != text.data() + text.size() || port == 0) return {};
  return port;
}

bool is_host(std::string_view host, bool bracketed) {
  return !host.empty() && host.size() < 256 && std::all_of(host.begin(), host.end(), [&](char c) {
    return is_one_of(c, bracketed ? ":.%" : "-._");
  });
}

// "host", "host:port", "[address]:port"; `port` when there is none.
std::optional<Place> parse_authority(std::string_view text, uint16_t port) {
  size_t end = text.starts_with('[') ? text.find(']') : std::min(text.find(':'), text.size());
  bool bracketed = text.starts_with('[');
  if (end == std::string_view::npos) return {};
  Place place;
  place.host = bracketed ? text.substr(1, end - 1) : text.substr(0, end);
  if (!is_host(place.host, bracketed)) return {};
  std::transform(place.host.begin(), place.host.end(), place.host.begin(), ::tolower);
  while (place.host.ends_with('.')) place.host.pop_back();
  text.remove_prefix(end + (bracketed ? 1 : 0));
  place.port = port;
  if (!text.empty()) {
    auto given = text[0] == ':' ? parse_port(text.substr(1)) : std::nullopt;
    if (!given) return {};
    place.port = *given;
  }
  if (place.host.empty() || place.port == 0) return {};
  return place;
}

uint16_t port_of_scheme(std::string_view scheme) {
  size_t plus = scheme.find('+');
  if (plus != std::string_view::npos) scheme.remove_prefix(plus + 1);
  for (const Scheme& known : kSchemes)
    if (known.name == scheme) return known.port;
  return 0;
}

constexpr bool is_in(uint32_t address, uint32_t network, int bits) {
  return (address >> (32 - bits)) == (network >> (32 - bits));
}

Reachable kind_of_v4(uint32_t a) {
  constexpr uint32_t kAlibaba = 0x646464c8, kOracle = 0xc00000c0;  // beside 169.254.169.254
  if (is_in(a, 0xa9fe0000, 16) || a == kAlibaba || a == kOracle) return Reachable::kForbidden;
  if (is_in(a, 0, 8) || is_in(a, 0xe0000000, 3)) return Reachable::kForbidden;
  bool own = is_in(a, 0x7f000000, 8) || is_in(a, 0x0a000000, 8) || is_in(a, 0xac100000, 12) ||
             is_in(a, 0xc0a80000, 16) || is_in(a, 0x64400000, 10);
  return own ? Reachable::kPrivate : Reachable::kAnybody;
}

uint32_t word(const uint8_t* bytes) {
  return uint32_t(bytes[0]) << 24 | uint32_t(bytes[1]) << 16 | uint32_t(bytes[2]) << 8 | bytes[3];
}

Reachable kind_of_v6(const struct in6_addr& address) {
  const uint8_t* b = address.s6_addr;
  constexpr uint8_t kNat64[12] = {0, 0x64, 0xff, 0x9b};
  if (IN6_IS_ADDR_LOOPBACK(&address)) return Reachable::kPrivate;
  if (IN6_IS_ADDR_UNSPECIFIED(&address)) return Reachable::kForbidden;
  if (IN6_IS_ADDR_V4MAPPED(&address) || IN6_IS_ADDR_V4COMPAT(&address) ||
      std::memcmp(b, kNat64, sizeof kNat64) == 0) {
    return kind_of_v4(word(b + 12));
  }
  if (b[0] == 0x20 && b[1] == 0x02) return kind_of_v4(word(b + 2));  // 6to4
  if (IN6_IS_ADDR_LINKLOCAL(&address) || IN6_IS_ADDR_MULTICAST(&address))
    return Reachable::kForbidden;
  struct in6_addr known;
  for (const char* metadata : {"fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe"}) {
    ::inet_pton(AF_INET6, metadata, &known);
    if (IN6_ARE_ADDR_EQUAL(&known, &address)) return Reachable::kForbidden;
  }
  return (b[0] & 0xfe) == 0xfc || IN6_IS_ADDR_SITELOCAL(&address) ? Reachable::kPrivate
                                                                  : Reachable::kAnybody;
}

}  // namespace

std::string shown(const Place& place) {
  bool v6 = place.host.find(':') != std::string::npos;
  return (v6 ? "[" + place.host + "]" : place.host) + ":" + std::to_string(place.port);
}

std::optional<Place> parse_place(std::string_view text) { return parse_authority(text, 0); }

std::optional<Place> place_of(std::string_view url) {
  size_t scheme = url.find("://");
  if (scheme == std::string_view::npos) return {};
  std::string name(url.substr(0, scheme));
  std::transform(name.begin(), name.end(), name.begin(), ::tolower);
  uint16_t port = port_of_scheme(name);
  if (port == 0) return {};
  std::string_view rest = url.substr(scheme + 3);
  rest = rest.substr(0, rest.find_first_of("/?#\\"));
  size_t sign = rest.rfind('@');
  if (sign != std::string_view::npos) rest.remove_prefix(sign + 1);
  return parse_authority(rest, port);
}

void add_places_in(std::string_view text, Places* places) {
  for (size_t at = 0; (at = text.find("://", at)) != std::string_view::npos; at += 3) {
    size_t start = at;
    while (start > 0 && is_one_of(text[start - 1], "+")) --start;
    size_t end = std::min(text.find_first_of(" \t\r\n\"'<>,;()`", at), text.size());
    if (auto place = place_of(text.substr(start, end - start))) places->insert(*place);
  }
}

void add_sources_in(std::string_view text, Places* places) {
  static const std::regex kSource(
      R"re((?:@[ \t]*|\b(?:git|url|index)[ \t]*=[ \t]*["'])((?:git\+)?[a-z]+://[^ \t\r\n"'<>;,]+))re");
  std::cregex_iterator end;
  for (std::cregex_iterator at(text.data(), text.data() + text.size(), kSource); at != end; ++at)
    if (auto place = place_of((*at)[1].str())) places->insert(*place);
}

Reachable kind_of_address(const struct sockaddr* address) {
  if (address->sa_family == AF_INET)
    return kind_of_v4(ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr));
  if (address->sa_family == AF_INET6)
    return kind_of_v6(reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  return Reachable::kForbidden;
}

std::optional<Reachable> kind_of_host(const std::string& host) {
  if (host == "localhost" || host.ends_with(".localhost")) return Reachable::kPrivate;  // RFC 6761
  struct in6_addr v6;
  if (::inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), &v6) == 1)
    return kind_of_v6(v6);
  struct in_addr v4;
  // inet_aton's liberties (0251.254.43518, 2852039166) are those of whoever resolves the name.
  if (::inet_aton(host.c_str(), &v4) != 0) return kind_of_v4(ntohl(v4.s_addr));
  return {};
}

}  // namespace rtlaunch::installers
