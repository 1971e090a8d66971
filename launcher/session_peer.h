// Who is at the other end of a unix socket, as the kernel has it from connect(2): SO_PEERCRED,
// SO_PEERGROUPS (Linux 4.13), SO_PEERPIDFD (6.5; without it there is no pidfd). And what kind of
// thing a client has sent us, found out without touching it: a descriptor of a file system that
// hangs (FUSE, NFS) must not hang the daemon, so nothing here calls fstat(2) before it is known to
// be memory.
#pragma once

#include <sys/types.h>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

struct Peer {
  isolation::User user;
  pid_t pid = 0;  // 0: of a pid namespace that we don't see
};
Result<Peer> peer_of(int socket);
UniqueFd pidfd_of_peer(int socket);  // invalid where the kernel hasn't it
// Of the process that has connected, which must still be there. Where there is no pidfd, the owner
// of its /proc entry has to be the peer's user: its number may be another's by now. `known`: what
// they were just now.
Result<sys::Limits> limits_of_peer(int socket, const Peer& peer,
                                   const sys::Limits* known = nullptr);

// A memfd (or another file in memory) of at most `most` bytes.
Status check_memory_file(int fd, uint64_t most, const char* name);
// A unix socket of type SOCK_SEQPACKET.
Status check_line(int fd);

}  // namespace rtlaunch
