// The network that a command has. A namespace of its own has interfaces, addresses, ports, routes,
// firewall rules and abstract unix sockets of its own (network_namespaces(7)); what leads out of it
// is made by whoever made it, or nothing.
//
//   kHost    the host's
//   kNone    its own, with nothing but lo: what is inside reaches itself. Rootless as well
//   kJob     the same, shared by the workers of one job
//   kEgress  the same with a way out: a cable to the host (net_link.h), through which nothing but
//            `destinations` is reached (net_rules.h; names: net_names.h). Where these aren't the
//            host's own addresses the host has to forward packets (net.ipv4.ip_forward), with its
//            own address
//   kJoined  one that its launcher has made and holds open (Spec::network_fd)
// The last three are root's.
//
// Shared: who comes first makes it and leaves word in `networks`, a folder that only root may
// write: a file per job with a line for each pid 1 that is in it (its pid, when it started, the
// number of the namespace). Who comes later enters that of one who still lives. The host's side of
// a way out is made by each for himself; what names have become since then is added to its rules.
//
// A door: with kNone, `listener_to` is a socket (unix, with messages) over which pid 1 sends a
// listening TCP socket, 127.0.0.1:kDoorPort inside. Whoever accepts on it stands outside and serves
// those inside: the only way out is what it does for them (installers/forwarder.h).
//
// An open namespace is kept by its processes and descriptors alone, so nothing is left when they
// end, however they end.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "isolation/net_names.h"
#include "isolation/sandbox.h"

namespace rtlaunch::isolation {

inline constexpr uint16_t kDoorPort = 3128;

struct WayOut {
  UniqueFd translation;         // open as long as anybody is to get out
  std::vector<HostName> names;  // for the command's /etc/hosts
};

// One with a way out that leads nowhere yet, made before it is known for whom. Root.
struct SpareNetwork {
  UniqueFd network, translation;
};
Result<SpareNetwork> make_network_ahead();

// For pid 1, in its user namespace: enters the network of the Spec, and opens the door. `spare`:
// one that may be used for it.
Result<WayOut> enter_network(const Spec& spec, bool rootless,
                             std::optional<SpareNetwork> spare = {});

// The network that this process is in, which lasts as long as the descriptor. Root.
Result<UniqueFd> open_network(pid_t pid);

// Packets that this network refused to let out, since it was made: of all who are in it. Root, and
// a thread that may be in another network for a moment; it aborts where it can't get back.
Result<uint64_t> refused_packets(int network);

// Opens the door of the network that we are in; -1: none is wanted.
Status open_door(int listener_to);

// The other side of the door: waits for what pid 1 sends over the socket that `listener_to` is
// paired with. Not valid: it ended.
Result<UniqueFd> receive_listener(int socket);

}  // namespace rtlaunch::isolation
