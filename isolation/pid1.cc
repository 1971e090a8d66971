#include "isolation/pid1.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <ctime>

#include "isolation/caps.h"
#include "isolation/line.h"
#include "isolation/report.h"
#include "isolation/sys/message.h"
#include "isolation/sys/process.h"

namespace rtlaunch::isolation {
namespace {

// Reaps all that has ended; true when the worker was among them.
bool reap(pid_t worker, int* status) {
  while (true) {
    int ended_status;
    pid_t ended = ::waitpid(-1, &ended_status, WNOHANG);
    if (ended <= 0) return false;
    if (ended != worker) continue;
    *status = ended_status;
    return true;
  }
}

// False at the launcher's end.
bool pass_signal_on(int socket, pid_t worker) {
  int signal;
  ssize_t size = ::recv(socket, &signal, sizeof signal, MSG_DONTWAIT);
  if (size == sizeof signal) ::kill(worker, signal);
  return size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR));
}

// False at the caller's end, or when it says what no caller of ours would.
bool heed_line(int line, pid_t worker) {
  Result<std::optional<LineMessage>> message = receive_line(line, nullptr);
  if (!message || !message->has_value()) return false;
  if ((*message)->kind == LineMessage::kSignal) ::kill(worker, (*message)->value);
  return true;
}

void append_end(int record, int status) {
  if (record < 0) return;
  char text[64];
  int size = std::snprintf(text, sizeof text, "{\"status\":%d,\"ended\":%lld}\n", status,
                           static_cast<long long>(::time(nullptr)));
  (void)!::write(record, text, static_cast<size_t>(size));
}

// Whatever of the command's outlives it has become ours.
bool has_children() {
  pid_t ended;
  while ((ended = ::waitpid(-1, nullptr, WNOHANG | __WALL)) > 0) {
  }
  return ended == 0;
}

// Whoever waits is told before we have ended, and has no other sign that all is over: nothing of
// the command's is left when it hears of the end. Only a namespace's own pid 1 may do this: kill(2)
// with -1 is its alone, and looks at every process of the machine, so not without need.
void end_all_others() {
  if (::getpid() != 1 || !has_children() || ::kill(-1, SIGKILL) != 0) return;
  while (::waitpid(-1, nullptr, __WALL) > 0 || errno == EINTR) {
  }
}

// A limit that was met explains an end that is no success, and no other.
std::optional<Reached> explanation(const LimitWatch& limits, int status) {
  return status == 0 ? std::nullopt : limits.reached();
}

void tell_reached(int line, const Reached& reached) {
  bool memory = reached.control == Control::kMemory;
  uint64_t value = memory ? reached.limit / 1024 : reached.limit;
  (void)send_line(line, memory ? LineMessage::kOutOfMemory : LineMessage::kOutOfProcesses,
                  static_cast<int>(std::min<uint64_t>(value, INT_MAX)))
      .ok();
}

[[noreturn]] void end_supervised(const Supervised& with, int status) {
  append_end(with.record, status);
  end_all_others();
  std::optional<Reached> reached;
  if (with.limits != nullptr) reached = explanation(*with.limits, status);
  if (reached) tell_reached(with.line, *reached);
  (void)send_line(with.line, LineMessage::kEnded, status).ok();
  if (with.socket >= 0) report_ended(with.socket, status, reached);
  ::_exit(0);
}

// See leave_to_the_kernel(), in two steps: while nobody waits, and when somebody does.
class Parting {
 public:
  explicit Parting(int mounts) : mounts_(mounts) {
    if (mounts < 0 || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair_) != 0) {
      mounts_ = -1;
    }
  }
  void leave() const {
    if (mounts_ < 0) return;
    (void)sys::send_message(pair_[0], "x", {pair_[1], mounts_}, MSG_DONTWAIT).ok();
  }

 private:
  int mounts_, pair_[2];
};

bool reap_signalled(int children, pid_t worker, int* status) {
  char drained[128 * 4];
  (void)!::read(children, drained, sizeof drained);
  return reap(worker, status);
}

}  // namespace

// To take a mount namespace down waits for all CPUs several times, and who waits for us waits for
// that. So the last to have it is a descriptor that lies in a socket's queue, whose only owner is
// that queue: when we have closed ours, the kernel's collector of such things (unix(7), in a thread
// of its own since Linux 6.9) closes both.
void leave_to_the_kernel(int mounts) { Parting(mounts).leave(); }

Status guard_pid1() {
  TRY(sys::hide_from_peers());
  return sys::die_with_parent();
}

Status shed_privileges(bool worker_is_another_user, bool supervised, const std::vector<int>& keep) {
  TRY(sys::close_all_but(keep.data(), keep.size()));
  TRY(drop_to_reaper(worker_is_another_user));
  // A change of credentials may have undone it (prctl(2)).
  return supervised ? sys::hide_from_peers() : guard_pid1();
}

void serve(int socket, int children, const LimitWatch& limits, pid_t worker, bool quick) {
  struct pollfd polled[] = {{children, POLLIN, 0}, {socket, POLLIN, 0}};
  const Parting parting(quick ? ::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC) : -1);
  while (true) {
    if (::poll(polled, 2, -1) < 0) continue;
    if (polled[0].revents != 0) {
      int status;
      if (reap_signalled(children, worker, &status)) {
        end_all_others();
        report_ended(socket, status, explanation(limits, status));
        parting.leave();
        ::_exit(0);
      }
    }
    if (polled[1].revents != 0 && !pass_signal_on(socket, worker)) ::_exit(0);
  }
}

void serve_line(const Supervised& with, pid_t worker) {
  struct pollfd polled[] = {{with.children, POLLIN, 0}, {with.line, POLLIN, 0}};
  while (true) {
    if (::poll(polled, 2, -1) < 0) continue;
    int status;
    if (polled[0].revents != 0 && reap_signalled(with.children, worker, &status)) {
      end_supervised(with, status);
    }
    if (polled[1].revents != 0 && !heed_line(with.line, worker)) {
      ::kill(worker, SIGKILL);
      end_supervised(with, SIGKILL);
    }
  }
}

}  // namespace rtlaunch::isolation
