#include "launcher/ray/parent.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "isolation/sys/files.h"

namespace rtlaunch::ray {
namespace {

constexpr auto kPoll = milliseconds(400);
constexpr auto kLong = std::chrono::hours(24);

Status redirect(const std::string& path, int fd) {
  if (path.empty()) return {};
  UniqueFd file = TRY(sys::open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY, 0644));
  if (::dup2(file.get(), fd) < 0) return sys_error("dup2", path);
  return {};
}

void reset_signals() {
  for (int signal : {SIGINT, SIGPIPE, SIGXFSZ, SIGHUP}) std::signal(signal, SIG_IGN);
  std::signal(SIGCHLD, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// A pipe or socket: /dev/null and files are at their end from the start.
bool is_line(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode));
}

}  // namespace

Status settle_in(const std::string& stdout_path, const std::string& stderr_path) {
  ::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  reset_signals();
  TRY(redirect(stdout_path, STDOUT_FILENO));
  return redirect(stderr_path, STDERR_FILENO);
}

void set_title(int argc, char** argv, const char* title) {
  ::prctl(PR_SET_NAME, title);
  if (argc == 0) return;
  char* last = argv[argc - 1];
  size_t room = static_cast<size_t>(last + std::strlen(last) - argv[0]);
  std::memset(argv[0], 0, room);
  std::memcpy(argv[0], title, std::min(room, std::strlen(title)));
}

awaitable<void> wait_for_parents_end(asio::io_context& io, bool by_stdin) {
  pid_t parent = ::getppid();
  if (!by_stdin || !is_line(STDIN_FILENO)) {
    while (::getppid() == parent) co_await sleep_for(io, kPoll);
    co_return;
  }
  Watched line(io, UniqueFd(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)));
  char buffer[256];
  for (;;) {
    bool ready = co_await line.wait(Watched::kRead, kLong);
    ssize_t count = ready ? ::read(line.fd(), buffer, sizeof buffer) : 1;
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) co_return;
  }
}

}  // namespace rtlaunch::ray
