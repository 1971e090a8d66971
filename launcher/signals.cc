#include "launcher/signals.h"

#include <sys/signalfd.h>
#include <unistd.h>

namespace rtlaunch {

Result<Signals> Signals::block() {
  Signals signals;
  ::sigemptyset(&signals.caught_);
  for (int number :
       {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM, SIGPIPE}) {
    ::sigaddset(&signals.caught_, number);
  }
  if (::sigprocmask(SIG_BLOCK, &signals.caught_, &signals.before_) != 0) {
    return sys_error("sigprocmask", "");
  }
  signals.fd_.reset(::signalfd(-1, &signals.caught_, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.fd_.valid()) return sys_error("signalfd", "");
  return signals;
}

Status Signals::also(int number) {
  ::sigaddset(&caught_, number);
  if (::sigprocmask(SIG_BLOCK, &caught_, nullptr) != 0) return sys_error("sigprocmask", "");
  if (::signalfd(fd_.get(), &caught_, 0) < 0) return sys_error("signalfd", "");
  return {};
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
