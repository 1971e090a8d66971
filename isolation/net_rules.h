// Who may be reached from a network of its own: an nf_tables ruleset inside it, where nobody has
// the right to change it, dropped with it. Everything that leaves and isn't allowed is refused
// (ICMP: administratively prohibited, so that nobody waits) and counted.
//
// Written as nf_tables' own messages, with libnl: our programs are static, Debian has no static
// libmnl for libnftnl, and `nft -f` takes 16 ms where this takes less than one.
//
// Needs CAP_NET_ADMIN over the network that the thread is in. Rests on nf_tables of Linux 5.12
// (inet nat, tables that belong to a socket).
#pragma once

#include <optional>
#include <vector>

#include "isolation/net.h"
#include "isolation/net_link.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// In the network itself. Loopback, answers, and neighbour discovery pass; where clouds keep their
// machines' credentials never; `destinations`, which must be addresses or networks, pass.
Status allow_only(const std::vector<Destination>& destinations);

// The same for more of them, at any time later. Metadata stays refused.
Status allow_named(const std::vector<Destination>& destinations);

// Packets that were refused, in the network that we are in.
Result<uint64_t> count_refused();

// In the host's network: what comes from the cable leaves with the host's own address. It lasts as
// long as the descriptor that it returns.
Result<UniqueFd> translate_addresses(const Cable& cable);

}  // namespace rtlaunch::isolation
