#include "isolation/pid1.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/caps.h"
#include "isolation/report.h"
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

}  // namespace

Status guard_pid1() {
  TRY(sys::hide_from_peers());
  return sys::die_with_parent();
}

Status shed_privileges(bool worker_is_another_user, int socket, int children,
                       const std::vector<int>& leases) {
  std::vector<int> keep = leases;
  keep.insert(keep.end(), {socket, children});
  TRY(sys::close_all_but(keep.data(), keep.size()));
  TRY(drop_to_reaper(worker_is_another_user));
  return guard_pid1();  // a change of credentials may have undone it (prctl(2))
}

void serve(int socket, int children, pid_t worker) {
  struct pollfd polled[] = {{children, POLLIN, 0}, {socket, POLLIN, 0}};
  while (true) {
    if (::poll(polled, 2, -1) < 0) continue;
    if (polled[0].revents != 0) {
      char drained[128 * 4];
      (void)!::read(children, drained, sizeof drained);
      int status;
      if (reap(worker, &status)) {
        report_ended(socket, status);
        ::_exit(0);
      }
    }
    if (polled[1].revents != 0 && !pass_signal_on(socket, worker)) ::_exit(0);
  }
}

}  // namespace rtlaunch::isolation
