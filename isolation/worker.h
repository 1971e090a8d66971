// From the end of the setup to the command itself. The worker is made with borrowed memory, so its
// failure is simply written where pid 1 reads it; no pipe is needed and no page table is copied.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "isolation/caps.h"
#include "isolation/report.h"
#include "isolation/same_pid.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// Everything the worker needs, made ready before it exists.
struct Command {
  Command(const Spec& spec, const int (&stdio)[3], mode_t mask, StepClock* clock, ControlLog* log);

  const Spec& spec;
  int stdio[3];
  mode_t umask;
  Privileges privileges;
  const SamePid* same_pid = nullptr;
  bool bare = false;              // nothing is dropped
  UniqueFd user_namespace;        // that it is to enter
  int told = -1;                  // of a copy of us: see Spec::goes_on
  bool dies_with_parent = false;  // for who is no pid 1, whose end the kernel sees to
  std::vector<char*> argv, env;
  std::vector<std::string> candidates;  // argv[0] along PATH, as execvp(3) would try
  StepClock* clock;                     // the worker's steps are timed with pid 1's
  ControlLog* log;
};

// The files that argv[0] may be, in order, as execvp(3) would try them.
std::vector<std::string> programs_of(const Spec& spec);

// Returns when the command has been exec'ed, with its pid, or with why it couldn't: Error.exit_code
// is 127 when it wasn't found, 126 when it couldn't be run, else 125.
Result<pid_t> start_worker(Command* command);

// The two halves of a worker that is made ahead (understudy.h): what it does whatever the command,
// in a session of its own; and, with its descriptors in place, the rest, which returns only to say
// why it couldn't.
Status shut_in(Command* command);
Error become_command(Command* command);

}  // namespace rtlaunch::isolation
