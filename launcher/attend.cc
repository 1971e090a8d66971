#include "launcher/attend.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "isolation/sys/files.h"

namespace rtlaunch {
namespace {

constexpr int kShortMs = 50;

}  // namespace

Result<Attendant> Attendant::prepare(bool shares_terminal, Signals& signals) {
  Attendant attendant(signals, shares_terminal ? ::tcgetpgrp(STDIN_FILENO) : -1);
  if (shares_terminal) return attendant;
  attendant.relay_.emplace(TRY(Relay::open()));
  TRY(signals.also(SIGTSTP));
  TRY(signals.also(SIGCONT));
  return attendant;
}

// A shell with job control makes its own group the terminal's foreground, and that group is gone
// now: the terminal comes back to us, as it would to the shell that had started it.
Attendant::~Attendant() {
  if (group_ <= 0 || group_ != ::getpgrp()) return;
  sigset_t stop, before;
  ::sigemptyset(&stop);
  ::sigaddset(&stop, SIGTTOU);
  ::sigprocmask(SIG_BLOCK, &stop, &before);
  ::tcsetpgrp(STDIN_FILENO, group_);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
}

void Attendant::connect(isolation::Spec& spec) const {
  if (!relay_) return;
  spec.stdin_fd = relay_->stdio(0);
  spec.stdout_fd = relay_->stdio(1);
  spec.stderr_fd = relay_->stdio(2);
}

Status Attendant::let_go_of_stdio() {
  if (relay_) relay_->begin();
  UniqueFd null;
  for (int fd : {STDIN_FILENO, STDOUT_FILENO}) {
    if (::isatty(fd)) continue;
    if (!null.valid()) null = TRY(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
    if (::dup2(null.get(), fd) < 0) return sys_error("dup2", "/dev/null");
  }
  return {};
}

// Ctrl-Z where keys don't reach the command.
void Attendant::stop_with(Running& running) {
  if (relay_->suspend()) return;
  (void)running.send(SIGSTOP).ok();
  ::kill(0, SIGSTOP);
  (void)running.send(SIGCONT).ok();
}

void Attendant::pass_on(const Signals::Caught& caught, Running& running) {
  if (caught.number == SIGPIPE) return;
  if (!relay_) {
    if (!caught.from_terminal) (void)running.send(caught.number).ok();
    return;
  }
  if (caught.number == SIGCONT) return relay_->resumed();
  if (caught.number == SIGTSTP) return stop_with(running);
  if (caught.from_terminal && relay_->pass_on(caught.number)) return;
  (void)running.send(caught.number).ok();
}

Result<int> Attendant::wait_for(Running& running) {
  int timeout = kShortMs;
  while (true) {
    struct pollfd polls[4] = {{signals_->fd(), POLLIN, 0}, {running.done_fd(), POLLIN, 0}};
    if (relay_) relay_->fill(polls + 2);
    int ready = ::poll(polls, relay_ ? 4 : 2, timeout);
    if (ready < 0 && errno != EINTR) return sys_error("poll", "");
    if (ready == 0) running.runs_long();
    if (ready == 0) timeout = -1;
    while (auto caught = signals_->next()) pass_on(*caught, running);
    if (relay_) relay_->serve(polls + 2);
    if (polls[1].revents == 0) continue;
    int status = TRY(running.wait());
    if (relay_) relay_->end();
    return status;
  }
}

}  // namespace rtlaunch
