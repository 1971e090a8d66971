// Runs a helper program to its end and keeps what it says: uv, an interpreter's probe. Not for
// untrusted code, which goes through isolation/sandbox.h. The program dies with the calling thread
// (PR_SET_PDEATHSIG), inherits only 0-2, and reads `input` (a memfd) as its stdin. In a process
// that acts for a caller (caller.h) it runs as the caller, without a way back.
//
//   Output output = TRY(sys::run_program({.argv = {uv, "--version"}, .env = {"HOME=/"}}));
#pragma once

#include <poll.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {

struct Program {
  std::vector<std::string> argv;  // argv[0] is a path
  std::vector<std::string> env;   // "KEY=VALUE", all of it
  std::string cwd = "/";
  std::string input = {};  // given to it as stdin
  std::optional<int64_t> timeout_ms = {};
  int nice = 0;
  // Hears what it writes to stderr as it comes, in the calling thread.
  std::function<void(std::string_view)> hear = {};
  // Instead of poll(2), by somebody who has other descriptors to look after; may return 0 early.
  std::function<int(pollfd* fds, nfds_t count, int timeout_ms)> wait = ::poll;
  std::optional<uint32_t> umask = {};  // else ours
  int out = -1;                        // a descriptor for its stdout; else Output has it
  bool powerless = false;              // of root's: as nobody, without a way back
  // Namespaces that it is to be in, the user namespace first (isolation/net_apart.h); -1: ours.
  int user_namespace = -1, network = -1;
};

struct Output {
  int status = 0;        // as waitpid(2) gives it
  std::string out, err;  // each cut after 16 MiB
  bool ok() const { return status == 0; }
};

// Errors: can't be started; ETIMEDOUT (it is then killed).
Result<Output> run_program(const Program& program);

// A file in memory that holds `content`, read from its start: a stdin for secrets.
Result<UniqueFd> memory_file(std::string_view content);

}  // namespace rtlaunch::sys
