// The line: a SOCK_SEQPACKET connection between whoever waits for a command and the pid 1 of its
// sandbox, when the two are no parent and child. It outlives daemon and spawner, so that neither's
// death disturbs a running command, and it ties the command's life to its caller's both ways.
//
// The wire is versioned by kVersion in every message, since a client may be older than the daemon.
// All numbers are little-endian 32-bit; a message is one packet.
//   pid 1 → caller   {version, kGoing, 0}        set-up is done, the exec comes next
//                    {version, kStarted, 0}      exec has happened; carries the upper's descriptor
//                                                (SCM_RIGHTS) when Spec asks for a report of it
//                    {version, kOutOfMemory, KiB} or {version, kOutOfProcesses, number}: before
//                                                kEnded, the limit that the command met (0:
//                                                unknown)
//                    {version, kEnded, status}   the command's wait status; pid 1 ends after it
//   caller → pid 1   {version, kSignal, number}  for the command (not for its children)
// End of file from the caller: all in the sandbox is killed. From pid 1: before kGoing nothing of
// the command has run and it may be tried again; after kGoing and before kEnded, pid 1 was killed.
// A failed exec is told by the spawner with its Error; the line then ends without kStarted.
//
// Rests on unix(7), pid_namespaces(7).
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

struct LineMessage {
  static constexpr uint32_t kVersion = 1;
  enum Kind : uint32_t {
    kGoing = 1,
    kStarted = 2,
    kEnded = 3,
    kSignal = 4,
    kOutOfMemory = 5,
    kOutOfProcesses = 6,
  };
  uint32_t version = kVersion;
  uint32_t kind = 0;
  int32_t value = 0;
};

// {the caller's end, pid 1's end}, both close-on-exec.
Result<std::pair<UniqueFd, UniqueFd>> make_line();

// A caller passed it in: that it is a socket of this kind, and nothing that could block or
// surprise.
Status check_line(int line);

// Never blocks: three small messages fit into any queue, unless somebody filled it on purpose, and
// then EAGAIN.
Status send_line(int line, LineMessage::Kind kind, int value, int fd = -1);

// Nothing at end of file. `fd` (may be null) takes a descriptor that came along. Blocks unless the
// socket doesn't. EPROTO: no message of ours.
Result<std::optional<LineMessage>> receive_line(int line, UniqueFd* fd);

}  // namespace rtlaunch::isolation
