// The caller's terminal, for a command that runs in a session of its own because a daemon started
// it: the command gets a pseudo-terminal, and this copies between the two, as ssh and sudo do.
//
//   stdin and stdout are terminals  the command has all of it: keys go through as they are, so that
//                                   Ctrl-C, Ctrl-Z, an editor and a shell inside work
//   one of them is not              what is written to a terminal goes through the pseudo-terminal,
//                                   which also carries Ctrl-C to all of the command's processes;
//                                   keys are left to whom they are for, the pager at the end of a
//                                   pipe
//   none is                         nothing is done, and signals are passed on one by one
//
// The terminal is as it was when this ends, and while we are stopped. Belongs to one thread.
#pragma once

#include <poll.h>
#include <sys/types.h>
#include <termios.h>

#include <optional>
#include <string>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

class Relay {
 public:
  static Result<Relay> open();
  Relay(Relay&&) noexcept = default;
  ~Relay();

  int stdio(int number) const;  // what the command gets as 0, 1, 2
  void begin();                 // the command runs
  // Two entries of poll(2): what is to be read or written now; then to be served.
  void fill(struct pollfd* two) const;
  void serve(const struct pollfd* polls);
  // A signal that the terminal sent to us: true when the pseudo-terminal has passed it on.
  bool pass_on(int signal);
  // Ctrl-Z: the command stops, then we do; returns when both go on. Without a session of the
  // command's that is known here: false, nothing is done.
  bool suspend();
  void resumed();  // after SIGCONT: the terminal may have been changed
  void end();      // copies what the command wrote last

 private:
  Relay() = default;
  void read_keys();
  void write_keys();
  bool copy_output();
  bool is_suspend_key(char key) const;
  void follow_size() const;
  void take_terminal();
  void give_back();
  pid_t session() const;

  UniqueFd master_, slave_;
  bool given_[3] = {};  // which of 0-2 are the pseudo-terminal's
  int terminal_ = -1;   // one of 0-2
  bool keys_ = false;   // we read them
  bool taken_ = false;  // the terminal is in raw mode
  std::optional<termios> before_;
  std::string pending_;  // keys that the pseudo-terminal couldn't take yet
};

}  // namespace rtlaunch
