// The network that a command has. A namespace of its own has interfaces, addresses, ports, routes,
// firewall rules and abstract unix sockets of its own (network_namespaces(7)); what leads out of it
// is made by whoever made it, or nothing.
//
//   kHost    the host's
//   kNone    its own, with nothing but lo: what is inside reaches itself. Rootless as well
//   kJoined  one that its launcher has made and holds open (Spec::network_fd). Root only
//
// A door: with kNone, `listener_to` is a socket (unix, with messages) over which pid 1 sends a
// listening TCP socket, 127.0.0.1:kDoorPort inside. Whoever accepts on it stands outside and serves
// those inside: the only way out is what it does for them (installers/forwarder.h).
//
// An open namespace is kept by its processes and descriptors alone, so nothing is left when they
// end, however they end.
#pragma once

#include <cstdint>

#include "isolation/sandbox.h"

namespace rtlaunch::isolation {

inline constexpr uint16_t kDoorPort = 3128;

// For pid 1, in its user namespace: enters the network of the Spec, and opens the door.
Status enter_network(const Spec& spec);

// The other side of the door: waits for what pid 1 sends over the socket that `listener_to` is
// paired with. Not valid: it ended.
Result<UniqueFd> receive_listener(int socket);

}  // namespace rtlaunch::isolation
