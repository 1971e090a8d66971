// What a build may reach on the network: places that are named by whoever asked for it (indexes,
// find-links, URLs of requirements and of VCS), and places that the indexes name in turn for their
// files. Names and ports decide who is let through; the address that a name turns out to have is
// looked at as well, since names can be made to point anywhere.
#pragma once

#include <sys/socket.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace rtlaunch::installers {

struct Place {
  std::string host;  // small letters; an IPv6 address without brackets
  uint16_t port = 0;
  auto operator<=>(const Place&) const = default;
};
using Places = std::set<Place>;

// "host:port", "[::1]:443".
std::string shown(const Place& place);
// Of "host:port", as CONNECT has it. Nothing if it is anything else.
std::optional<Place> parse_place(std::string_view text);
// Of a URL, "git+https://user@host/…" as well; without a port that of its scheme.
std::optional<Place> place_of(std::string_view url);
// Of every URL in a text: requirement lines, options, an index's page.
void add_places_in(std::string_view text, Places* places);
// Of the URLs that a project's own files (pyproject.toml, setup.cfg) name as sources of packages:
// those behind an @, or of a key git, url or index.
void add_sources_in(std::string_view text, Places* places);

// kForbidden: where clouds keep their machines' credentials, link-local and what is no host.
// kPrivate: loopback and networks that aren't routed (RFC 1918, 4193, 6598).
enum class Reachable { kAnybody, kPrivate, kForbidden };
Reachable kind_of_address(const struct sockaddr* address);
// The same of an address in words, and of localhost; nothing for another name.
std::optional<Reachable> kind_of_host(const std::string& host);

}  // namespace rtlaunch::installers
