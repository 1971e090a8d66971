// What pid 1 of a sandbox and the launcher say to each other, over a SOCK_SEQPACKET pair that
// nobody else has. From pid 1, each once:
//   failed    a step of the launch went wrong; pid 1 ends after it
//   started   the command runs: how long each step took, which controls were applied, and the
//             upper's descriptor if asked for
//   ended     the command's wait status; pid 1 ends after it, and all else with it
// From the launcher: an int, the signal to send to the command. The end of the connection is the
// launcher's end: pid 1 ends too.
// Both sides are one program (pid 1 is a fork), so structs go over the wire as they are.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "isolation/cgroup_limits.h"
#include "isolation/controls.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// Times the steps of a launch and gives a failed one its name.
//   TRY(clock.took("pivot", sys::pivot_into(root)));
class StepClock {
 public:
  static constexpr int kMost = 40;
  struct Step {
    const char* name;  // a literal: the same address in launcher and pid 1
    int64_t nanoseconds;
  };

  StepClock();
  void restart();  // forgets what it has: the launch begins now
  void resume();   // the clock itself was set: the next step begins now
  // `name` is a literal. The time since the last call (or the constructor) is the step's.
  Status took(const char* name, Status status);
  const Step* begin() const { return steps_; }
  const Step* end() const { return steps_ + count_; }
  int count() const { return count_; }

 private:
  int64_t last_;
  int count_ = 0;
  Step steps_[kMost];
};

struct Pair {
  UniqueFd launcher, pid1;
};
Result<Pair> make_report_pair();

// pid 1's side. Losing the launcher is no error here: pid 1 sees it at its next poll.
void report_failed(int socket, const Error& error);
void report_started(int socket, const StepClock& clock, const ControlLog& log, int upper);
void report_ended(int socket, int wait_status, const std::optional<Reached>& reached);

// The launcher's side.
struct Started {
  std::vector<StepClock::Step> steps;
  std::vector<Applied> applied;
  UniqueFd upper;
};
// Waits for `started`, or returns the Error that pid 1 sent. An Error with step "" and code EPIPE
// when pid 1 ended without a word.
Result<Started> receive_start(int socket);
struct Ended {
  int status = -1;  // or -1 when pid 1 ended (or was killed) without saying
  std::optional<Reached> reached;
};
Ended receive_end(int socket);

}  // namespace rtlaunch::isolation
