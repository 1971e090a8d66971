// Beside a command that runs: signals and the terminal are passed on until it ends. With a host
// that shares our terminal with it there is little to do; else there is a Relay between the two.
//
//   Attendant attendant = TRY(Attendant::prepare(host.shares_terminal(), signals));
//   attendant.connect(spec);             // what the command gets as 0, 1, 2
//   ... start ...
//   int status = TRY(attendant.wait_for(*running));
#pragma once

#include <optional>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "launcher/host.h"
#include "launcher/relay.h"
#include "launcher/signals.h"

namespace rtlaunch {

class Attendant {
 public:
  static Result<Attendant> prepare(bool shares_terminal, Signals& signals);
  Attendant(Attendant&&) noexcept = default;
  ~Attendant();  // the terminal is ours again

  void connect(isolation::Spec& spec) const;
  // The command has its own copies of stdin and stdout: ours would keep a pipe open after it has
  // closed it. To be called once it runs, and only then.
  Status let_go_of_stdio();
  // Its wait status.
  Result<int> wait_for(Running& running);

 private:
  Attendant(Signals& signals, pid_t group) : signals_(&signals), group_(group) {}
  void pass_on(const Signals::Caught& caught, Running& running);
  void stop_with(Running& running);

  Signals* signals_;
  pid_t group_;                 // that the terminal is to be given back to
  std::optional<Relay> relay_;  // none: the command shares our terminal
};

}  // namespace rtlaunch
