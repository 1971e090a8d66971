#include "isolation/sys/trace.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <map>

#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {
namespace {

constexpr long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |
                          PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;

// Waits until it is watched; its exec is the first that is seen of it.
[[noreturn]] void become(const std::vector<std::string>& argv, int gate) {
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  char byte;
  if (::read(gate, &byte, 1) == 1) ::execvp(words[0], words.data());
  ::_exit(errno == ENOENT ? 127 : 126);
}

class Tracer {
 public:
  explicit Tracer(const std::function<void(const TracedCall&)>& on_call) : on_call_(on_call) {}

  Result<int> follow(pid_t first) {
    int status = 0;
    for (;;) {
      pid_t pid = ::waitpid(-1, &status, __WALL);
      if (pid < 0 && errno == EINTR) continue;
      if (pid < 0) return sys_error("audit", "wait");
      bool ended = WIFEXITED(status) || WIFSIGNALED(status);
      if (ended && pid == first) return status;
      if (!ended) go_on(pid, status);
    }
  }

 private:
  void go_on(pid_t pid, int status) {
    int signal = WSTOPSIG(status), event = status >> 16;
    if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {  // it was stopped, as by Ctrl-Z
      (void)::ptrace(PTRACE_LISTEN, pid, nullptr, nullptr);
      return;
    }
    if (signal == (SIGTRAP | 0x80)) tell_call(pid);
    if (event == PTRACE_EVENT_EXEC) {
      TracedCall call = calls_[pid];
      call.when = TracedCall::When::kExec, call.pid = pid;
      on_call_(call);
    }
    bool its_own = event == 0 && signal != (SIGTRAP | 0x80);
    (void)::ptrace(PTRACE_SYSCALL, pid, nullptr, its_own ? static_cast<long>(signal) : 0L);
  }

  void tell_call(pid_t pid) {
    struct __ptrace_syscall_info info = {};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) <= 0) return;
    TracedCall& call = calls_[pid];
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
      call = {};
      call.pid = pid;
      call.number = static_cast<long>(info.entry.nr);
      std::copy(std::begin(info.entry.args), std::end(info.entry.args), call.arguments);
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT) {
      call.when = TracedCall::When::kExit;
      call.result = info.exit.rval;
    }
    on_call_(call);
  }

  const std::function<void(const TracedCall&)>& on_call_;
  std::map<pid_t, TracedCall> calls_;
};

}  // namespace

std::string TracedCall::bytes(uint64_t address, size_t size) const {
  std::string data(size, '\0');
  struct iovec ours = {data.data(), size};
  struct iovec theirs = {reinterpret_cast<void*>(address), size};  // NOLINT: of their memory
  ssize_t count = address == 0 ? 0 : ::process_vm_readv(pid, &ours, 1, &theirs, 1, 0);
  data.resize(count > 0 ? static_cast<size_t>(count) : 0);
  return data;
}

// Page by page: what follows the text may not be there.
std::string TracedCall::text(uint64_t address) const {
  constexpr uint64_t kPage = 4096;
  std::string found;
  while (found.size() < PATH_MAX) {
    uint64_t from = address + found.size();
    std::string piece = bytes(from, kPage - from % kPage);
    found += piece.substr(0, piece.find('\0'));
    if (piece.empty() || piece.find('\0') != std::string::npos) break;
  }
  return found;
}

Result<int> trace(const std::vector<std::string>& argv,
                  const std::function<void(const TracedCall&)>& on_call) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return sys_error("audit", "pipe");
  UniqueFd gate(fds[0]), ours(fds[1]);
  pid_t pid = ::fork();
  if (pid < 0) return sys_error("audit", "fork");
  if (pid == 0) {
    ours.reset();
    become(argv, gate.get());
  }
  if (::ptrace(PTRACE_SEIZE, pid, nullptr, kOptions) != 0) {
    Error error = sys_error("audit", argv[0]);
    error.reason = "this host lets nobody watch another process";
    error.cure = "see kernel.yama.ptrace_scope, or run it where ptrace is allowed";
    return error;
  }
  (void)!::write(ours.get(), "x", 1);
  return Tracer(on_call).follow(pid);
}

}  // namespace rtlaunch::sys
