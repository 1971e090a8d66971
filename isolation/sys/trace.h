// A command and all that it starts, watched system call by system call (ptrace(2)): for learning
// what it uses, not for keeping it from anything. It runs as it would without us, slower.
//
//   int status = TRY(sys::trace({"python3", "main.py"}, [](const sys::TracedCall& call) { ... }));
//
// Rests on PTRACE_SEIZE and PTRACE_GET_SYSCALL_INFO (Linux 5.3). Single-threaded callers only. When
// the command has ended what it left behind goes with the caller.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::sys {

struct TracedCall {
  enum class When { kEntry, kExit, kExec };  // kExec: another program has just begun; no numbers
  When when = When::kEntry;
  pid_t pid = 0;  // a thread's; it stands still meanwhile
  long number = -1;
  uint64_t arguments[6] = {};
  int64_t result = 0;  // kExit: -errno for an error

  // The memory of who calls: "" where there is none.
  std::string text(uint64_t address) const;
  std::string bytes(uint64_t address, size_t size) const;
};

// The command's wait status. An Error: it didn't begin, or can't be watched.
Result<int> trace(const std::vector<std::string>& argv,
                  const std::function<void(const TracedCall&)>& on_call);

}  // namespace rtlaunch::sys
