#include "launcher/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

namespace rtlaunch {

Result<Signals> Signals::block() {
  sigset_t caught;
  ::sigemptyset(&caught);
  for (int number :
       {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM, SIGPIPE}) {
    ::sigaddset(&caught, number);
  }
  Signals signals;
  if (::sigprocmask(SIG_BLOCK, &caught, &signals.before_) != 0) return sys_error("sigprocmask", "");
  signals.fd_.reset(::signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.fd_.valid()) return sys_error("signalfd", "");
  return signals;
}

Signals::~Signals() {
  if (!fd_.valid()) return;
  while (next()) {
  }
  ::sigprocmask(SIG_SETMASK, &before_, nullptr);
}

std::optional<Signals::Caught> Signals::next() {
  struct signalfd_siginfo info;
  if (::read(fd_.get(), &info, sizeof info) != sizeof info) return std::nullopt;
  return Caught{static_cast<int>(info.ssi_signo), info.ssi_code == SI_KERNEL};
}

}  // namespace rtlaunch
