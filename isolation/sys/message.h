// Bytes and descriptors in one message of a unix socket (SCM_RIGHTS, unix(7)). EINTR is tried
// again, SIGPIPE never comes, descriptors are close-on-exec at birth. Errors are sendmsg(2)'s and
// recvmsg(2)'s, with step "send" or "receive": what they mean, the protocol knows.
//
//   TRY(sys::send_message(socket, "x", {fd}));
//   char byte;
//   sys::Received got = TRY(sys::receive_message(socket, &byte, 1, 1));   // got.fds.front()
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {

inline constexpr size_t kMostFdsInMessage = 253;  // SCM_MAX_FD

// How much went: of a stream it may be less. `flags`: MSG_DONTWAIT. E2BIG: too many descriptors.
Result<size_t> send_message(int socket, std::string_view bytes, const std::vector<int>& fds,
                            int flags = 0);

struct Received {
  size_t size = 0;  // 0: the other side has ended
  std::vector<UniqueFd> fds;
  bool bytes_cut = false, fds_cut = false;  // more came than there was room for; it is gone
};
// Of descriptors there is room for `most_fds` (by the kernel's rounding perhaps one more).
Result<Received> receive_message(int socket, void* buffer, size_t size, size_t most_fds,
                                 int flags = 0);

}  // namespace rtlaunch::sys
