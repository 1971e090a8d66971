// The cable from a network of its own to the host's: a veth pair, made by netlink (libnl). Its far
// end is born inside, so the pair ends with the namespace, however that ends, and no step of the
// making leaves half of it behind.
//
// Root only. Single-threaded: sockets belong to the namespace that the thread was in.
#pragma once

#include <cstdint>
#include <string>

#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// Both ends have addresses that are routed nowhere: two of 198.18.0.0/15 (RFC 2544), two of a
// fd72:746c::/64 (RFC 4193).
struct Cable {
  std::string name;  // of the host's end, "rtl42"
  std::string inside_v4, outside_v4, inside_v6, outside_v6;
};
inline constexpr const char* kInsideName = "eth0";

// In the host's network: a cable to the namespace `network`, this end of it ready.
Result<Cable> make_cable(int network);
// In that namespace: the other end ready, and everything routed through it.
Status connect_inside(const Cable& cable);
// The cable of the network that we are in, as seen from inside: without a name.
Result<Cable> cable_inside();
Status raise_loopback();  // with it 127.0.0.1 and ::1 are there

}  // namespace rtlaunch::isolation
