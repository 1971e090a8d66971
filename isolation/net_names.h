// Destinations of a way out that are names. They are looked up once, when a network is made or
// entered, outside of it, as its host looks names up (nsswitch.conf(5): its files, its name
// servers), by getent(1) without any rights. The rules then hold their addresses (net_rules.h), and
// the command's /etc/hosts too: it finds the very addresses that it may reach, and needs no name
// server, to which it could tell things.
//
// So whoever answers for a name says where the way out leads; where clouds keep credentials is
// refused whatever he says. What a name becomes later counts for those who start later.
//
//   std::vector<HostName> names = TRY(look_up_names(spec.destinations));
//   TRY(allow_only(numbered(spec.destinations)));
//   TRY(allow_named(named(spec.destinations, names)));
#pragma once

#include <string>
#include <vector>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

struct HostName {
  std::string name;
  std::vector<std::string> addresses;  // as inet_ntop(3) writes them
};

// It is none of address, network and name where it isn't what config/address.h makes of it.
bool is_host_name(const std::string& host);

// Waits for name servers, a few seconds for each name. IPv6 addresses are left out where the host
// doesn't pass IPv6 on. A name without any address is an error that names it.
Result<std::vector<HostName>> look_up_names(const std::vector<Destination>& destinations);

// Those that aren't names.
std::vector<Destination> numbered(const std::vector<Destination>& destinations);
// Those that are, one for each of their addresses.
std::vector<Destination> named(const std::vector<Destination>& destinations,
                               const std::vector<HostName>& names);

// What of `names` isn't in `known`, which gets it.
std::vector<HostName> learn(const std::vector<HostName>& names, std::vector<HostName>* known);

// Lines of hosts(5).
std::string hosts_lines(const std::vector<HostName>& names);

}  // namespace rtlaunch::isolation
