#include "isolation/net_names.h"

#include <algorithm>
#include <sstream>

#include "config/address.h"
#include "isolation/sys/files.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::isolation {
namespace {

constexpr int64_t kMostMs = 15'000;  // resolv.conf(5) waits ten seconds for two servers
constexpr size_t kMostAddresses = 64;

bool is_address(const std::string& text) {
  return config::host_within(text, "0.0.0.0/0") || config::host_within(text, "::/0");
}

bool passes_ipv6_on() {
  auto said = sys::read_file("/proc/sys/net/ipv6/conf/all/forwarding");
  return said && *said != "0\n";
}

void add(const std::string& address, std::vector<std::string>* to) {
  if (std::find(to->begin(), to->end(), address) == to->end()) to->push_back(address);
}

// An address at the start of each line. A scope ("fe80::1%eth0") makes it none.
std::vector<std::string> addresses_in(const std::string& said) {
  bool ipv6 = passes_ipv6_on();
  std::vector<std::string> addresses;
  std::istringstream lines(said);
  for (std::string line; std::getline(lines, line) && addresses.size() < kMostAddresses;) {
    std::string address = config::canonical_host(line.substr(0, line.find(' ')));
    if (!is_address(address)) continue;
    if (ipv6 || address.find(':') == std::string::npos) add(address, &addresses);
  }
  return addresses;
}

Error unknown_name(const std::string& name, const char* reason) {
  return make_error("network", name, reason,
                    "a destination's name is looked up on this host when a command starts: check "
                    "the policy's spelling with `getent ahosts NAME`");
}

Result<HostName> look_up(const std::string& name) {
  auto said = sys::run_program({.argv = {"/usr/bin/getent", "ahosts", name},
                                .env = {"PATH=/usr/bin:/bin", "LC_ALL=C"},
                                .timeout_ms = kMostMs,
                                .powerless = true});
  if (!said) return unknown_name(name, "its addresses can't be looked up");
  std::vector<std::string> addresses = addresses_in(said->out);
  if (addresses.empty()) return unknown_name(name, "no address is known for this name");
  return HostName{name, std::move(addresses)};
}

HostName* find(std::vector<HostName>* names, const std::string& name) {
  auto found = std::find_if(names->begin(), names->end(),
                            [&](const HostName& one) { return one.name == name; });
  return found == names->end() ? nullptr : &*found;
}

}  // namespace

bool is_host_name(const std::string& host) {
  return config::canonical_host(host) == host && !host.empty() && !is_address(host);
}

Result<std::vector<HostName>> look_up_names(const std::vector<Destination>& destinations) {
  std::vector<HostName> names;
  for (const Destination& destination : destinations) {
    if (!is_host_name(destination.host) || find(&names, destination.host) != nullptr) continue;
    names.push_back(TRY(look_up(destination.host)));
  }
  return names;
}

std::vector<Destination> numbered(const std::vector<Destination>& destinations) {
  std::vector<Destination> left = destinations;
  std::erase_if(left, [](const Destination& one) { return is_host_name(one.host); });
  return left;
}

std::vector<Destination> named(const std::vector<Destination>& destinations,
                               const std::vector<HostName>& names) {
  std::vector<Destination> all;
  for (const Destination& destination : destinations) {
    for (const HostName& name : names) {
      if (name.name != destination.host) continue;
      for (const std::string& address : name.addresses) {
        all.push_back(destination);
        all.back().host = address;
      }
    }
  }
  return all;
}

std::vector<HostName> learn(const std::vector<HostName>& names, std::vector<HostName>* known) {
  std::vector<HostName> fresh;
  for (const HostName& name : names) {
    if (find(known, name.name) == nullptr) known->push_back({name.name, {}});
    HostName* old = find(known, name.name);
    HostName one{name.name, {}};
    for (const std::string& address : name.addresses) {
      size_t before = old->addresses.size();
      add(address, &old->addresses);
      if (old->addresses.size() > before) one.addresses.push_back(address);
    }
    if (!one.addresses.empty()) fresh.push_back(std::move(one));
  }
  return fresh;
}

std::string hosts_lines(const std::vector<HostName>& names) {
  std::string lines;
  for (const HostName& name : names) {
    for (const std::string& address : name.addresses) lines += address + " " + name.name + "\n";
  }
  return lines;
}

}  // namespace rtlaunch::isolation
