#include "launcher/ray/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::ray {
namespace {

constexpr size_t kMostLine = 256 << 10;
constexpr size_t kMostOutput = 16 << 20;
constexpr int kLeast = 19;           // of setpriority(2)
constexpr auto kToDie = seconds(5);  // after SIGKILL

struct Pipe {
  UniqueFd ours, theirs;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return sys_error("pipe", "");
  Pipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  ::fcntl(pipe.ours.get(), F_SETFL, O_NONBLOCK);
  return pipe;
}

// A program that runs, and what it says.
struct Child {
  Watched process, err;  // a pidfd, and a pipe
  UniqueFd out;          // a file in memory: whoever fills it waits for nobody
};

std::vector<std::string> as_strings(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> strings;
  for (const auto& [name, value] : variables) strings.push_back(name + "=" + value);
  return strings;
}

Result<Child> start(asio::io_context& io, ChildStart what) {
  UniqueFd in = TRY(sys::memory_file(what.input));
  UniqueFd out = TRY(sys::memory_file(""));
  Pipe err = TRY(make_pipe());
  sys::ProgramStart program;
  program.argv = std::move(what.argv);
  program.env = as_strings(what.variables);
  program.fds = {in.get(), out.get(), err.theirs.get()};
  program.cwd = what.cwd;
  program.default_signals = true;
  sys::Cloned cloned = TRY(sys::start_program(program));
  if (what.unhurried) (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(cloned.pid), kLeast);
  return Child{Watched(io, std::move(cloned.pidfd)), Watched(io, std::move(err.ours)),
               std::move(out)};
}

// Whole lines; what is too long for one is dropped.
class Lines {
 public:
  template <typename OnLine>
  void add(const char* data, size_t size, const OnLine& on_line) {
    rest_.append(data, size);
    size_t from = 0;
    for (size_t end; (end = rest_.find('\n', from)) != std::string::npos; from = end + 1) {
      on_line(rest_.substr(from, end - from));
    }
    rest_.erase(0, from);
    if (rest_.size() > kMostLine) rest_.clear();
  }

 private:
  std::string rest_;
};

// Reads what is there now. False at the end.
template <typename Take>
bool read_some(Watched& from, const Take& take) {
  char buffer[16384];
  while (true) {
    ssize_t count = ::read(from.fd(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN;
    if (count == 0) return false;
    take(buffer, static_cast<size_t>(count));
  }
}

// Until its end, or until the time is up; false then.
template <typename Take>
awaitable<bool> read_to_end(Watched& from, Clock::time_point deadline, Take take) {
  while (read_some(from, take)) {
    Clock::duration left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) co_return false;
    co_await from.wait(Watched::kRead, std::min<Clock::duration>(left, std::chrono::hours(1)));
  }
  co_return true;
}

Error time_is_up() { return Error{"child", kTimeIsUp, "", "the time was up", "", 125}; }

}  // namespace

awaitable<Result<ChildEnded>> run_child(asio::io_context& io, ChildStart what,
                                        Clock::time_point deadline, OnLine on_line) {
  auto child = start(io, std::move(what));
  if (!child) co_return child.error();
  Lines lines;
  ChildEnded ended;
  auto take_line = [&](const char* data, size_t size) { lines.add(data, size, on_line); };
  bool in_time = co_await read_to_end(child->err, deadline, take_line);
  if (in_time) in_time = co_await child->process.wait(Watched::kRead, kToDie);
  if (!in_time) {
    (void)sys::send_signal(child->process.fd(), SIGKILL).ok();
    co_await child->process.wait(Watched::kRead, kToDie);
  }
  auto status = sys::wait_for(child->process.fd());
  if (!in_time) co_return time_is_up();
  if (!status) co_return status.error();
  ended.status = *status;
  auto said = ::lseek(child->out.get(), 0, SEEK_SET) == 0
                  ? sys::read_all(child->out.get(), "stdout", kMostOutput)
                  : Result<std::string>(sys_error("lseek", "stdout"));
  if (!said) co_return said.error();
  ended.out = std::move(*said);
  co_return ended;
}

}  // namespace rtlaunch::ray
