// The signals that a launcher takes care of while a command runs: read from a signalfd, so that
// they are events like any other. From construction to destruction they are blocked in this
// process.
//
// Who sent one decides what it means. A terminal sends Ctrl-C to the whole foreground group, so the
// command has it already (si_code SI_KERNEL); kill(2) means the launcher alone, so it is passed on.
#pragma once

#include <signal.h>

#include <optional>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

class Signals {
 public:
  static Result<Signals> block();
  Signals(Signals&&) noexcept = default;
  ~Signals();

  int fd() const { return fd_.get(); }
  Status also(int number);  // catches one more
  struct Caught {
    int number;
    bool from_terminal;
  };
  std::optional<Caught> next();  // nothing when none is pending
  // What a child has to have before exec: the mask as it was.
  const sigset_t& mask_before() const { return before_; }

 private:
  Signals() = default;
  UniqueFd fd_;
  sigset_t caught_ = {}, before_ = {};
};

}  // namespace rtlaunch
