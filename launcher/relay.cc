#include "launcher/relay.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "isolation/sys/files.h"

namespace rtlaunch {
namespace {

constexpr int kLastOutputMs = 500;
constexpr size_t kMostPending = 1 << 16;

// A background process that sets a terminal is stopped; here we know what we do.
class NoStop {
 public:
  NoStop() {
    sigset_t stop;
    ::sigemptyset(&stop);
    ::sigaddset(&stop, SIGTTOU);
    ::sigprocmask(SIG_BLOCK, &stop, &before_);
  }
  ~NoStop() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

bool in_foreground(int terminal) { return ::tcgetpgrp(terminal) == ::getpgrp(); }

// True when SIGTSTP would do what it does to most: field SigIgn or SigCgt has its bit otherwise.
bool stops_by_default(pid_t pid) {
  auto text = sys::read_file("/proc/" + std::to_string(pid) + "/status", 1 << 16);
  if (!text) return false;
  for (const char* field : {"SigIgn:\t", "SigCgt:\t"}) {
    size_t at = text->find(field);
    if (at == std::string::npos) return false;
    unsigned long long set = std::strtoull(text->c_str() + at + 8, nullptr, 16);
    if ((set >> (SIGTSTP - 1) & 1) != 0) return false;
  }
  return true;
}

}  // namespace

Result<Relay> Relay::open() {
  Relay relay;
  bool input = ::isatty(STDIN_FILENO), output = ::isatty(STDOUT_FILENO);
  relay.keys_ = input && output;
  relay.given_[0] = relay.keys_;
  relay.given_[1] = output;
  relay.given_[2] = ::isatty(STDERR_FILENO);
  for (int fd = 2; fd >= 0; --fd) {
    if (relay.given_[fd]) relay.terminal_ = fd;
  }
  if (relay.terminal_ < 0) return relay;
  termios settings;
  struct winsize size = {};
  if (::tcgetattr(relay.terminal_, &settings) != 0) return sys_error("terminal", "");
  relay.before_ = settings;
  if (!relay.keys_) settings.c_oflag &= ~static_cast<tcflag_t>(OPOST);  // the real one does it
  (void)::ioctl(relay.terminal_, TIOCGWINSZ, &size);
  int master, slave;
  if (::openpty(&master, &slave, nullptr, &settings, &size) != 0) return sys_error("openpty", "");
  relay.master_.reset(master);
  relay.slave_.reset(slave);
  ::fcntl(master, F_SETFD, FD_CLOEXEC);
  ::fcntl(slave, F_SETFD, FD_CLOEXEC);
  ::fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
  return relay;
}

Relay::~Relay() { give_back(); }

int Relay::stdio(int number) const { return given_[number] ? slave_.get() : number; }

void Relay::begin() {
  slave_.reset();
  take_terminal();
}

void Relay::take_terminal() {
  if (!keys_ || taken_ || !master_.valid() || !in_foreground(terminal_)) return;
  termios raw = *before_;
  ::cfmakeraw(&raw);
  taken_ = ::tcsetattr(terminal_, TCSADRAIN, &raw) == 0;
}

void Relay::give_back() {
  if (!taken_ || !master_.valid()) return;
  NoStop guard;
  (void)::tcsetattr(terminal_, TCSADRAIN, &*before_);
  taken_ = false;
}

void Relay::fill(struct pollfd* two) const {
  bool reads_keys = taken_ && pending_.empty();
  int output = master_.valid() && !slave_.valid() ? master_.get() : -1;
  short events = static_cast<short>(pending_.empty() ? POLLIN : POLLIN | POLLOUT);
  two[0] = {output, events, 0};
  two[1] = {reads_keys ? terminal_ : -1, POLLIN, 0};
}

void Relay::serve(const struct pollfd* polls) {
  if ((polls[0].revents & POLLOUT) != 0) write_keys();
  // Nobody has the other end open now; end() asks once more.
  if ((polls[0].revents & (POLLIN | POLLHUP)) != 0 && !copy_output()) {
    give_back();
    master_.reset();
  }
  if (polls[1].revents != 0) read_keys();
}

bool Relay::copy_output() {
  char buffer[16384];
  ssize_t count = ::read(master_.get(), buffer, sizeof buffer);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  int to = taken_ || keys_ ? STDOUT_FILENO : terminal_;
  return count > 0 && sys::write_all(to, {buffer, static_cast<size_t>(count)}, "terminal").ok();
}

bool Relay::is_suspend_key(char key) const {
  termios now;
  if (::tcgetattr(master_.get(), &now) != 0 || (now.c_lflag & ISIG) == 0) return false;
  return key == static_cast<char>(now.c_cc[VSUSP]) && key != 0;
}

void Relay::read_keys() {
  char buffer[4096];
  ssize_t count = ::read(terminal_, buffer, sizeof buffer);
  if (count <= 0) {
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    return give_back();
  }
  bool suspends = count == 1 && is_suspend_key(buffer[0]);
  if (suspends && suspend()) return;
  pending_.append(buffer, static_cast<size_t>(count));
  write_keys();
}

void Relay::write_keys() {
  ssize_t count = ::write(master_.get(), pending_.data(), pending_.size());
  if (count > 0) pending_.erase(0, static_cast<size_t>(count));
  if (pending_.size() > kMostPending) pending_.clear();  // nobody reads: as a terminal, forget
}

bool Relay::pass_on(int signal) {
  if (!master_.valid()) return false;
  if (signal == SIGWINCH) return follow_size(), true;
  cc_t key = signal == SIGINT ? before_->c_cc[VINTR] : signal == SIGQUIT ? before_->c_cc[VQUIT] : 0;
  if (key == 0 || session() <= 0) return false;
  return ::write(master_.get(), &key, 1) == 1;
}

void Relay::follow_size() const {
  struct winsize size;
  if (::ioctl(terminal_, TIOCGWINSZ, &size) == 0) (void)::ioctl(master_.get(), TIOCSWINSZ, &size);
}

// Of the command, as it is called out here.
pid_t Relay::session() const {
  pid_t session = -1;
  return master_.valid() && ::ioctl(master_.get(), TIOCGSID, &session) == 0 ? session : -1;
}

// A session without a parent in it can't be stopped by SIGTSTP (its group is orphaned), so it takes
// SIGSTOP. A shell inside has its own way with Ctrl-Z and is left to it.
bool Relay::suspend() {
  pid_t leader = session(), group = -1;
  if (leader <= 0 || ::ioctl(master_.get(), TIOCGPGRP, &group) != 0 || group != leader ||
      !stops_by_default(leader) || ::kill(-leader, SIGSTOP) != 0) {
    return false;
  }
  bool had_it = taken_;
  give_back();
  ::kill(0, SIGSTOP);  // as the terminal would: with all of our group
  if (had_it) take_terminal();
  follow_size();
  ::kill(-leader, SIGCONT);
  return true;
}

void Relay::resumed() {
  if (!keys_ || !master_.valid()) return;
  taken_ = false;
  take_terminal();
  follow_size();
}

void Relay::end() {
  slave_.reset();
  struct pollfd last = {master_.get(), POLLIN, 0};
  while (master_.valid() && ::poll(&last, 1, kLastOutputMs) > 0) {
    if (!copy_output()) break;
  }
  give_back();
}

}  // namespace rtlaunch
