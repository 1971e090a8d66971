// Takes one request's descriptors from the daemon to the child that they are for, in a short-lived
// process of its own. Whoever has had a descriptor closes it at last, and close(2) of a file on
// FUSE or NFS waits for its server (FLUSH), killed or not: the courier may wait for ever, the
// spawner may not. It never has what it would have to close; the courier, at the end, has nothing
// else.
//
//   Courier courier = TRY(Courier::send(socket));     // the request is still in the socket
//   SpawnRequest request = TRY(courier.request());    // without the caller's descriptors
//   TRY(courier.deliver(launch.fd(), id_map));        // as send_start() would
//
// Its end is reaped by who reaps all (SIGCHLD). request() and deliver() wait for it, for what it
// does till then concerns nobody's file system; they give up after some seconds.
#pragma once

#include "isolation/sys/process.h"
#include "launcher/spawner.h"

namespace rtlaunch {

class Courier {
 public:
  static Result<Courier> send(int socket);
  Courier(Courier&&) noexcept = default;
  Courier& operator=(Courier&&) noexcept = default;
  // With record or target only.
  Result<SpawnRequest> request();
  Status deliver(int child, int id_map);

 private:
  Courier(UniqueFd pidfd, UniqueFd socket) : pidfd_(std::move(pidfd)), socket_(std::move(socket)) {}
  Status wait();
  UniqueFd pidfd_, socket_;  // at the end of the socket it has nothing left to do
};

}  // namespace rtlaunch
