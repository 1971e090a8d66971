// What is said to a zygote (zygote.h): one packet of a SOCK_SEQPACKET connection, and its answer.
//   request  text "rtlaunch zygote 1", flags bare and recorded, u64 blocked (isolation/wire.h);
//            descriptors:
//            mount namespace, pid namespace, document (isolation/spec_wire.h), stdin, stdout,
//            stderr, line (isolation/line.h), record if the flag says so, leases...
//   answer   "+PID", of the worker's parent, when the worker is one, and a line for each control
//            that was wanted: "+NAME" when it was applied, else "-NAME WHY"; else why there is
//            no worker, and that it never ran
// Both are of one build; a request of another is refused.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/controls.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

struct ZygoteRequest {
  bool bare = false;           // no sandbox
  uint64_t blocked = 0;        // bare: the worker's signal mask
  UniqueFd mounts, processes;  // who asks has these: nobody inside a sandbox does
  UniqueFd document;           // a memfd
  int input = 0, output = 1, error = 2;
  UniqueFd line;    // the worker's parent's end
  int record = -1;  // its worker's file (workers.h)
  std::vector<int> leases;
};

Status send_zygote_request(int socket, const ZygoteRequest& request);
// Those that are numbers are the caller's to close.
Result<ZygoteRequest> receive_zygote_request(int socket);

// The answer for a worker that runs, and what it says; pid1 0: it is none.
struct ZygoteAnswer {
  pid_t pid1 = 0;
  std::vector<isolation::Applied> applied;
};
std::string started_answer(const ZygoteAnswer& answer);
ZygoteAnswer parse_answer(std::string_view text);

// A namespace of ours: "mnt", "pid".
Result<UniqueFd> own_namespace(const char* name);

}  // namespace rtlaunch
