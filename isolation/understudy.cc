#include "isolation/understudy.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "isolation/seccomp_rules.h"
#include "isolation/sys/message.h"
#include "isolation/sys/process.h"

namespace rtlaunch::isolation {
namespace {

// What takes_stdio() and become_command() may call, behind the filter.
constexpr const char* kCallsLeft[] = {
    "recvmsg", "fcntl",  "close",     "rt_sigprocmask", "umask",     "chdir",
    "geteuid", "stat",   "fstat",     "newfstatat",     "openat",    "openat2",
    "pread64", "access", "faccessat", "faccessat2",     "execve",    "brk",
    "mmap",    "munmap", "madvise",   "clock_gettime",  "exit_group"};

// It is one more process of its user's; where there may be few, none waits.
constexpr rlim_t kManyProcesses = 1024;

bool has_room(const Spec& spec) {
  const Controls& controls = spec.controls;
  bool own = controls.resources_want != Want::kOff &&
             std::any_of(controls.resources.begin(), controls.resources.end(),
                         [](const Resource& one) { return one.number == RLIMIT_NPROC; });
  if (own || !spec.limits || spec.limits->resources.size() <= RLIMIT_NPROC) return false;
  return spec.limits->resources[RLIMIT_NPROC].soft >= kManyProcesses;
}

bool allows_the_rest(const Filter& filter) {
  return filter.want == Want::kOff ||
         std::all_of(std::begin(kCallsLeft), std::end(kCallsLeft), [&](const char* name) {
           return verdict(filter.rules, name) == Verdict::kAllowed;
         });
}

bool is_told(int socket) {
  char byte;
  ssize_t size;
  while ((size = ::recv(socket, &byte, 1, 0)) < 0 && errno == EINTR) {
  }
  return size == 1;
}

bool tells(int socket) { return ::send(socket, "x", 1, MSG_NOSIGNAL) == 1; }

// It had none, so they are 0, 1 and 2 at once.
bool takes_stdio(int socket) {
  char byte;
  auto came = sys::receive_message(socket, &byte, 1, 3);
  if (!came || came->size == 0 || came->fds.size() != 3) return false;
  for (int fd = 0; fd < 3; ++fd) {
    if (came->fds[static_cast<size_t>(fd)].release() != fd) return false;
    if (::fcntl(fd, F_SETFD, 0) != 0) return false;
  }
  return true;
}

}  // namespace

// An oom_score_adj would be pid 1's as well. What Landlock forbids to read can't be checked behind
// it, and clocks and user namespaces are the command's from its beginning.
bool Understudy::suits(const Spec& spec) {
  if (!kHasUnderstudies) return false;
  const Controls& controls = spec.controls;
  return controls.files.want == Want::kOff && controls.user_namespace == Want::kOff &&
         controls.time_namespace == Want::kOff && spec.limits && spec.limits->oom_score == 0 &&
         has_room(spec) && allows_the_rest(controls.seccomp);
}

std::unique_ptr<Understudy> Understudy::prepare(Command* command) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return nullptr;
  std::unique_ptr<Understudy> made(new Understudy);
  made->ours_.reset(pair[0]);
  made->theirs_ = pair[1];
  made->command_ = command;
  command->log = &made->log_;
  Status hidden = sys::hide_from_peers();
  Result<pid_t> pid = hidden ? sys::spawn_beside(play, made.get()) : hidden.error();
  ::close(pair[1]);  // or its end would be none; it still has its own
  if (!pid) return nullptr;
  made->pid_ = *pid;
  if (tells(made->ours_.get()) && is_told(made->ours_.get())) return made;
  made->dismiss();
  return nullptr;
}

// In the worker, which has a stack and descriptors of its own.
int Understudy::play(void* argument) {
  auto* self = static_cast<Understudy*>(argument);
  int socket = self->theirs_;
  bool ready = is_told(socket) && sys::close_all_but(&socket, 1) && shut_in(self->command_) &&
               sys::hide_from_peers();
  if (!ready || !tells(socket)) ::_exit(1);
  // Beyond this point it is pid 1's turn, until it sends.
  if (!takes_stdio(socket)) ::_exit(1);
  self->error_ = become_command(self->command_);
  ::_exit(self->error_->exit_code);
}

// It has left our memory when its end of the socket closes, with its exec or its end. Until then
// nothing here may touch the heap.
std::optional<Result<pid_t>> Understudy::perform(Command* command) {
  command_ = command;
  std::vector<Applied> applied = command->log->all();
  applied.insert(applied.end(), log_.all().begin(), log_.all().end());
  const std::vector<int> stdio(std::begin(command->stdio), std::end(command->stdio));
  if (!sys::send_message(ours_.get(), "x", stdio)) return std::nullopt;
  (void)is_told(ours_.get());
  command->log->replace(std::move(applied));
  if (error_) return std::move(*error_);
  return pid_;
}

void Understudy::dismiss() { ::kill(pid_, SIGKILL); }

}  // namespace rtlaunch::isolation
