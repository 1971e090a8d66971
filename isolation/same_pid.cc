#include "isolation/same_pid.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch::isolation {
namespace {

constexpr pid_t kFirst = 300;  // RESERVED_PIDS: the kernel leaves those below to its own start
constexpr int kTries = 1'000;  // of chosen numbers: some 20 microseconds each
constexpr int kFarTries = 32;  // if most numbers are taken, any will do
constexpr int kGuesses = 500;  // each costs a process; on a quiet machine the first is right
constexpr size_t kInner = 1, kBoth = 2;

// Our own pid as /proc's namespace has it; 0 when it can't be told. Also for a child that borrows
// our memory.
pid_t pid_in(int proc) {
  char text[16] = {};
  ssize_t size = ::readlinkat(proc, "self", text, sizeof text - 1);
  return size > 0 ? static_cast<pid_t>(std::atoi(text)) : 0;
}

uint32_t any_number() {
  uint32_t number = 0;
  if (::getrandom(&number, sizeof number, GRND_NONBLOCK) != sizeof number) return 0x9e3779b9;
  return number;
}

pid_t anywhere(pid_t pid_max) {
  return kFirst + static_cast<pid_t>(any_number() % static_cast<uint32_t>(pid_max - kFirst));
}

// Between a quarter and three quarters of the way around from `here`, where the kernel is now.
pid_t far_from(pid_t here, pid_t pid_max) {
  auto range = static_cast<uint32_t>(pid_max - kFirst);
  uint32_t at = here > kFirst ? static_cast<uint32_t>(here - kFirst) % range : 0;
  uint32_t step = range / 4 + any_number() % (range / 2 + 1);
  return kFirst + static_cast<pid_t>((at + step) % range);
}

Error none_was_free(const char* reason) {
  return Error{"same pid", EAGAIN, "", reason, "try again; raise kernel.pid_max", 125};
}

struct Guess {
  int proc;
  int (*function)(void*);
  void* argument;
  pid_t became = 0;
};

// In the child: goes on only if the guess was right.
int check_guess(void* argument) {
  auto* guess = static_cast<Guess*>(argument);
  guess->became = pid_in(guess->proc);
  if (guess->became != ::getpid()) ::_exit(0);
  return guess->function(guess->argument);
}

int tell_pid(void* argument) {
  auto* guess = static_cast<Guess*>(argument);
  guess->became = pid_in(guess->proc);
  ::_exit(0);
}

void reap(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

// A process for nothing: the kernel's next number is the one after it.
Status look_where_the_kernel_is(Guess* guess) {
  reap(TRY(sys::spawn_borrowing_memory(tell_pid, guess)));
  return {};
}

}  // namespace

Result<Outside> Outside::look() {
  Outside outside;
  outside.pid = ::getpid();
  outside.pidfd = TRY(sys::open_pidfd(outside.pid));
  outside.pid_max = std::atoi(TRY(sys::read_file("/proc/sys/kernel/pid_max", 64)).c_str());
  return outside;
}

Result<SamePid> SamePid::prepare(const Outside& outside) {
  SamePid same_pid;
  same_pid.proc_ = TRY(sys::open_at(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY));
  same_pid.launcher_ = outside.pid;
  same_pid.pid_max_ = outside.pid_max;
  return same_pid;
}

Result<pid_t> SamePid::spawn(int (*function)(void*), void* argument) const {
  Result<pid_t> pid = spawn_chosen(sys::spawn_as, function, argument);
  if (!pid && pid.error().code == EPERM) return spawn_guessed(function, argument);
  return pid;
}

Result<pid_t> SamePid::fork(int (*function)(void*), void* argument) const {
  return spawn_chosen(sys::fork_as, function, argument);
}

Result<pid_t> SamePid::spawn_chosen(Make make, int (*function)(void*), void* argument) const {
  pid_t pid_max = pid_max_;
  pid_t here = pid_in(proc_.get());
  for (int tries = 0; tries < kTries && pid_max > kFirst; ++tries) {
    pid_t number = tries < kFarTries ? far_from(here, pid_max) : anywhere(pid_max);
    Result<pid_t> pid = make(number, kBoth, function, argument);
    if (pid || (pid.error().code != EEXIST && pid.error().code != EINVAL)) return pid;
    if (pid.error().code == EINVAL) pid_max = number;  // it has been lowered since
  }
  return none_was_free("no free number was found");
}

// The guess is compared with what this /proc says: it must be that of whoever started us.
Status SamePid::check_proc() const {
  Result<std::string> stat = sys::read_file_at(proc_.get(), "self/stat", 4096);
  size_t at = stat ? stat->rfind(") ") : std::string::npos;  // pid (name) state ppid
  if (at != std::string::npos && std::atoi(stat->c_str() + at + 4) == launcher_) return {};
  return Error{"same pid",
               ENOTSUP,
               "/proc",
               "it is not that of the pid namespace that rtlaunch runs in",
               "mount it anew: mount -t proc proc /proc",
               125};
}

Result<pid_t> SamePid::spawn_guessed(int (*function)(void*), void* argument) const {
  TRY(check_proc());
  Guess guess{proc_.get(), function, argument};
  for (int left = kGuesses; left > 0; --left) {
    if (guess.became == 0) TRY(look_where_the_kernel_is(&guess));
    pid_t next = guess.became + 1;
    guess.became = 0;
    Result<pid_t> pid = sys::spawn_as(next, kInner, check_guess, &guess);
    if (!pid && pid.error().code != EEXIST && pid.error().code != EINVAL) return pid;
    if (!pid) continue;
    if (guess.became == *pid) return pid;
    reap(*pid);
  }
  return none_was_free("other processes start faster than a number can be guessed");
}

}  // namespace rtlaunch::isolation
