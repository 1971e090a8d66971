// Closes descriptors that clients have sent, in threads of their own: close(2) of a file on FUSE or
// NFS, or of a lingering socket, may wait for a server of the client's own making, and the daemon's
// one thread must not. One thread a user, so that whoever hangs hangs alone; it ends when it has
// had nothing to do for a while. This is the one place with a lock.
//
//   if (!closer.has_room(uid)) ...                    // too many of his hang: refuse
//   closer.close(uid, std::move(fds));
#pragma once

#include <sys/types.h>

#include <memory>
#include <vector>

#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

// Whether close(2) of what a client has sent may wait for somebody: not for pipes, memory,
// characters, unix sockets, and files on a block device (a fuseblk there is root's). Asks no file
// system.
bool can_hang(int fd);

class Closer {
 public:
  static constexpr size_t kMostWaiting = 256;  // of one user; he gets no more starts then
  static constexpr size_t kMostLanes = 256;

  Closer();
  bool has_room(uid_t uid) const;
  // Those that can't hang (memory, pipes, character devices) are closed at once.
  void close(uid_t uid, std::vector<UniqueFd> fds);

 private:
  struct State;
  static void work_off(std::shared_ptr<State> state, uid_t uid);
  static bool start_thread(const std::shared_ptr<State>& state, uid_t uid);
  std::shared_ptr<State> state_;  // lives as long as a thread that hangs
};

}  // namespace rtlaunch
