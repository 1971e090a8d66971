#include "isolation/sys/run_program.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {
namespace {

constexpr size_t kOutputLimit = 16 << 20;

struct Pipe {
  UniqueFd read, write;
};

Result<Pipe> make_pipe() {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return sys_error("pipe2", "");
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (const std::string& s : strings) result.push_back(const_cast<char*>(s.c_str()));
  result.push_back(nullptr);
  return result;
}

struct Child {
  pid_t pid;
  pid_t parent;
  int in, out, err, failure;
};

// Other ids than root's take all capabilities along.
bool become_nobody_after_fork() {
  constexpr id_t kNobody = 65534;
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::setgroups(0, nullptr) == 0 &&
         ::setresgid(kNobody, kNobody, kNobody) == 0 && ::setresuid(kNobody, kNobody, kNobody) == 0;
}

// As long as we have the right to. What is gained in a user namespace ends with the exec: the uid
// is mapped to itself and isn't root's.
bool enter_namespaces_after_fork(const Program& program) {
  return (program.user_namespace < 0 || ::setns(program.user_namespace, CLONE_NEWUSER) == 0) &&
         (program.network < 0 || ::setns(program.network, CLONE_NEWNET) == 0);
}

[[noreturn]] void exec_after_fork(const Program& program, const Child& child, char** argv,
                                  char** env) {
  bool ready = enter_namespaces_after_fork(program);
  ready =
      ready && (program.powerless ? become_nobody_after_fork() : become_caller_after_fork() == 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // after that: a change of ids forgets it
  if (::getppid() != child.parent) ::_exit(127);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (program.umask) ::umask(*program.umask);
  if (program.nice != 0) ::setpriority(PRIO_PROCESS, 0, program.nice);
  ready = ready && ::dup2(child.in, 0) == 0 && ::dup2(child.out, 1) == 1 &&
          ::dup2(child.err, 2) == 2 && ::chdir(program.cwd.c_str()) == 0;
  if (ready) ::execve(argv[0], argv, env);
  int code = errno;
  [[maybe_unused]] ssize_t n = ::write(child.failure, &code, sizeof code);
  ::_exit(127);
}

int64_t now_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}

// Appends what there is to read; false at the end.
bool drain(int fd, std::string& text) {
  char buffer[16384];
  ssize_t n = ::read(fd, buffer, sizeof buffer);
  if (n < 0) return errno == EINTR || errno == EAGAIN;
  if (n == 0) return false;
  if (text.size() < kOutputLimit) text.append(buffer, size_t(n));
  return true;
}

// Reads both ends until they close; false when the time is over.
bool collect(Pipe& out, Pipe& err, const Program& program, Output& output) {
  std::optional<int64_t> timeout_ms = program.timeout_ms;
  int64_t deadline = timeout_ms ? now_ms() + *timeout_ms : 0;
  pollfd fds[2] = {{out.read.get(), POLLIN, 0}, {err.read.get(), POLLIN, 0}};
  std::string* texts[2] = {&output.out, &output.err};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    int64_t left = timeout_ms ? deadline - now_ms() : -1;
    if (timeout_ms && left <= 0) return false;
    int n = program.wait(fds, 2, int(left));
    size_t heard = output.err.size();
    for (int i = 0; i < 2 && n > 0; ++i)
      if (fds[i].revents != 0 && !drain(fds[i].fd, *texts[i])) fds[i].fd = -1;
    if (program.hear && output.err.size() > heard)
      program.hear(std::string_view(output.err).substr(heard));
  }
  return true;
}

int reap(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

Result<UniqueFd> memory_file(std::string_view content) {
  UniqueFd fd(::memfd_create("input", MFD_CLOEXEC));
  if (!fd.valid()) return sys_error("memfd_create", "");
  TRY(write_all(fd.get(), content, "memfd"));
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return sys_error("lseek", "memfd");
  return fd;
}

Result<Output> run_program(const Program& program) {
  Pipe out = TRY(make_pipe()), err = TRY(make_pipe()), failure = TRY(make_pipe());
  UniqueFd in = TRY(memory_file(program.input));
  std::vector<char*> argv = pointers(program.argv), env = pointers(program.env);
  Child child{0, ::getpid(), in.get(), out.write.get(), err.write.get(), failure.write.get()};
  if (program.out >= 0) child.out = program.out;
  child.pid = ::fork();
  if (child.pid < 0) return sys_error("fork", program.argv[0]);
  if (child.pid == 0) exec_after_fork(program, child, argv.data(), env.data());
  out.write.reset(), err.write.reset(), failure.write.reset();
  Output output;
  bool in_time = collect(out, err, program, output);
  if (!in_time) ::kill(child.pid, SIGKILL);
  output.status = reap(child.pid);
  int code = 0;
  if (::read(failure.read.get(), &code, sizeof code) == sizeof code) {
    errno = code;
    return sys_error("exec", program.argv[0]);
  }
  if (!in_time) {
    errno = ETIMEDOUT;
    return sys_error("run_program", program.argv[0]);
  }
  return output;
}

}  // namespace rtlaunch::sys
