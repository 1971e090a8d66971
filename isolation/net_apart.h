// A network like kNone's (net.h) for a program of ours that is in no sandbox but asks what
// strangers name: nothing but lo, and a door at which somebody serves it who stands outside.
// Rootless it belongs to a user namespace in which the caller is who he was (map_own_ids), and
// whoever is to be in the network enters both, the user namespace first.
//
//   NetworkApart apart = TRY(make_network_apart(forwarder.listener_to()));
//   program.user_namespace = apart.user.get(), program.network = apart.network.get();
//   Output output = TRY(sys::run_program(program));
//
// It is kept by its descriptors and by who is in it. Costs a process for a moment, so keep it; for
// a process with one thread. Errors: those of making namespaces (userns.h), with their cure.
#pragma once

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

struct NetworkApart {
  UniqueFd user;  // not valid: root's own
  UniqueFd network;
};
// `listener_to`: as in Spec.
Result<NetworkApart> make_network_apart(int listener_to);

}  // namespace rtlaunch::isolation
