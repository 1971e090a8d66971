#include "isolation/sys/process.h"

#include <fcntl.h>
#include <link.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "isolation/sys/priority.h"

namespace rtlaunch::sys {
namespace {

constexpr int kLastCapability = 63;  // dropping one that the kernel lacks gives EINVAL: the end

Error privilege_error(const char* what) { return sys_error("drop privileges", what); }

Error still_held(const char* what) {
  return make_error("drop privileges", what, "still there after having been dropped");
}

}  // namespace

Result<Cloned> clone_process(const CloneOptions& options) {
  int pidfd = -1;
  struct clone_args args = {};
  args.flags = options.namespaces | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = static_cast<uint64_t>(options.exit_signal);
  if (options.cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(options.cgroup);
  }
  long pid = ::syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return sys_error("clone3", "");
  Cloned cloned;
  cloned.pid = static_cast<pid_t>(pid);
  if (pid > 0) cloned.pidfd = UniqueFd(pidfd);
  return cloned;
}

namespace {

alignas(64) char borrower_stack[128 * 1024];

// No C library has a clone3 that takes a stack: the child must not return into our frame.
long clone3_onto_stack(struct clone_args* args, int (*function)(void*), void* argument) {
#if defined(__x86_64__)
  long result = SYS_clone3;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "mov %[argument], %%rdi\n\t"
      "call *%[function]\n\t"
      "ud2\n"
      "1:"
      : "+a"(result)
      : "D"(args), "S"(sizeof *args), [function] "r"(function), [argument] "r"(argument)
      : "rcx", "r11", "memory", "cc");
  return result;
#elif defined(__aarch64__)
  register long number asm("x8") = SYS_clone3;
  register long result asm("x0") = reinterpret_cast<long>(args);
  register size_t size asm("x1") = sizeof *args;
  asm volatile(
      "svc #0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x0, %[argument]\n\t"
      "blr %[function]\n\t"
      "brk #1\n"
      "1:"
      : "+r"(result)
      : "r"(number), "r"(size), [function] "r"(function), [argument] "r"(argument)
      : "memory", "cc");
  return result;
#else
#error "clone3 with a stack isn't written for this machine"
#endif
}

// A child that became another program never returned from its functions: to AddressSanitizer their
// variables still lie on the stack.
void clear_stack([[maybe_unused]] char* stack, [[maybe_unused]] size_t size) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack, size);
#endif
}

// A child that has our memory until it is another program or ends. Not clone(3): ThreadSanitizer
// takes that child for a fork, and ours shares what it keeps of us.
Result<pid_t> spawn_sharing(char* stack, size_t size, struct clone_args args,
                            int (*function)(void*), void* argument, const std::string& object) {
  args.flags |= CLONE_VM;
  args.stack = reinterpret_cast<uint64_t>(stack);
  args.stack_size = size;
  clear_stack(stack, size);
  long pid = clone3_onto_stack(&args, function, argument);
  if (pid > 0) return static_cast<pid_t>(pid);
  errno = static_cast<int>(-pid);
  return sys_error("clone3", object);
}

// We wait for it.
template <size_t kSize>
Result<pid_t> spawn_on(char (&stack)[kSize], struct clone_args args, int (*function)(void*),
                       void* argument, const std::string& object) {
  args.flags |= CLONE_VFORK;
  return spawn_sharing(stack, kSize, args, function, argument, object);
}

// We wait for a child that has our memory, so the quickest is to let it run where we are: another
// CPU would have to be woken, and has nothing of it in its caches. The kernel prefers another. So
// we are bound to this one while it begins, and it first of all lets go of both. What goes wrong
// here costs time, nothing else.
struct Here {
  using Cpus = std::array<unsigned long, 16>;
  int (*function)(void*);
  void* argument;
  Cpus before = {}, after = {};  // where we may run
  bool bound = false;

  static bool look(Cpus* cpus) {
    return ::syscall(SYS_sched_getaffinity, 0, sizeof *cpus, cpus->data()) > 0;
  }
  static bool run(pid_t pid, const Cpus& cpus) {
    return ::syscall(SYS_sched_setaffinity, pid, sizeof cpus, cpus.data()) == 0;
  }

  void bind() {
    Cpus one = {};
    unsigned cpu = 0;
    constexpr unsigned kBits = 8 * sizeof one[0];
    bool known = look(&before) && ::getcpu(&cpu, nullptr) == 0 && cpu / kBits < one.size();
    if (!known) return;
    after = before;
    one[cpu / kBits] = 1ul << cpu % kBits;
    bound = one != before && run(0, one);
  }
  // In the child. Who was where its cpuset lets it be follows that when it changes (cpuset(7)), so
  // is bound to nothing again.
  void let_go() {
    Cpus now = {};
    if (!bound) return;
    after.fill(~0ul);
    if (!run(0, after) || !look(&now) || now != before) {
      after = before;
      (void)run(0, after);
    }
    (void)run(::getppid(), after);
  }
};

int begin_here(void* argument) {
  auto* here = static_cast<Here*>(argument);
  here->let_go();
  return here->function(here->argument);
}

}  // namespace

Result<pid_t> spawn_borrowing_memory(int (*function)(void*), void* argument) {
  struct clone_args args = {};
  args.exit_signal = SIGCHLD;
  Here here{function, argument};
  here.bind();
  Result<pid_t> pid = spawn_on(borrower_stack, args, begin_here, &here, "");
  if (here.bound) (void)Here::run(0, here.after);  // it may have had no time
  return pid;
}

Result<pid_t> spawn_beside(int (*function)(void*), void* argument) {
  constexpr size_t kSize = 128 << 10;
  void* stack = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return sys_error("mmap", "stack");
  struct clone_args args = {};
  args.exit_signal = SIGCHLD;
  return spawn_sharing(static_cast<char*>(stack), kSize, args, function, argument, "");
}

Result<pid_t> spawn_as(pid_t pid, size_t levels, int (*function)(void*), void* argument) {
  const pid_t numbers[] = {pid, pid};
  struct clone_args args = {};
  args.exit_signal = SIGCHLD;
  args.set_tid = reinterpret_cast<uint64_t>(numbers);
  args.set_tid_size = std::min(levels, std::size(numbers));
  return spawn_on(borrower_stack, args, function, argument, std::to_string(pid));
}

namespace {

uint64_t thread_number = 0;  // where the C library has it

}  // namespace

Status remember_thread() {
  void* address = nullptr;
  if (::prctl(PR_GET_TID_ADDRESS, &address) != 0) return sys_error("prctl", "TID_ADDRESS");
  thread_number = reinterpret_cast<uint64_t>(address);
  return {};
}

Result<pid_t> fork_as(pid_t pid, size_t levels, int (*function)(void*), void* argument) {
  const pid_t numbers[] = {pid, pid};
  struct clone_args args = {};
  args.flags = CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;  // as the C library's own fork does
  args.child_tid = thread_number;
  args.exit_signal = SIGCHLD;
  if (levels > 0) args.set_tid = reinterpret_cast<uint64_t>(numbers);
  args.set_tid_size = std::min(levels, std::size(numbers));
  long child = ::syscall(SYS_clone3, &args, sizeof args);
  if (child == 0) ::_exit(function(argument));
  if (child > 0) return static_cast<pid_t>(child);
  return sys_error("clone3", std::to_string(pid));
}

namespace {

struct Exec {
  const ProgramStart& program;
  std::vector<char*> argv, env;
  pid_t parent;
  int* code;
};

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (const std::string& text : strings) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

// They become 0, 1, 2, ...: first out of the way, then into place.
bool take_descriptors(const std::vector<int>& fds) {
  int high[8];
  int count = static_cast<int>(fds.size());
  if (fds.size() > std::size(high)) return false;
  for (int i = 0; i < count; ++i) {
    high[i] = ::fcntl(fds[static_cast<size_t>(i)], F_DUPFD_CLOEXEC, count);
    if (high[i] < 0) return false;
  }
  for (int i = 0; i < count; ++i) {
    if (::dup2(high[i], i) < 0) return false;
  }
  return ::close_range(static_cast<unsigned>(count), UINT_MAX, 0) == 0;
}

void ignore_no_signal() {
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction now;
    if (::sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN) {
      ::signal(signal, SIG_DFL);
    }
  }
  errno = 0;
}

int exec_program(void* argument) {
  auto* exec = static_cast<Exec*>(argument);
  sigset_t none;
  ::sigemptyset(&none);
  (void)set_oom_score(0).ok();
  if (exec->program.idle) step_back();
  if (exec->program.default_signals) ignore_no_signal();
  bool ready = ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && ::getppid() == exec->parent &&
               ::setsid() >= 0 && ::chdir(exec->program.cwd.c_str()) == 0 &&
               take_descriptors(exec->program.fds) &&
               ::sigprocmask(SIG_SETMASK, &none, nullptr) == 0;
  if (ready) ::execve(exec->argv[0], exec->argv.data(), exec->env.data());
  *exec->code = errno == 0 ? ESRCH : errno;
  ::_exit(127);
}

}  // namespace

Result<Cloned> start_program(const ProgramStart& program) {
  alignas(64) static char stack[64 * 1024];
  int pidfd = -1, code = 0;
  Exec exec{program, pointers(program.argv), pointers(program.env), ::getpid(), &code};
  errno = 0;
  struct clone_args args = {};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = static_cast<uint64_t>(program.exit_signal);
  pid_t pid = TRY(spawn_on(stack, args, exec_program, &exec, program.argv[0]));
  Cloned cloned{pid, UniqueFd(pidfd)};
  if (code == 0) return cloned;
  (void)wait_for(pidfd).ok();
  errno = code;
  return sys_error("exec", program.argv[0]);
}

// Set by tools/order.ld; null in programs that are linked without.
extern "C" __attribute__((weak)) char start_code[], start_code_end[];

namespace {

void populate(uintptr_t from, uintptr_t to, int advice) {
  constexpr uintptr_t kPage = 4096;
  from &= ~(kPage - 1);
  to = (to + kPage - 1) & ~(kPage - 1);
  errno = 0;
  if (to > from) (void)::madvise(reinterpret_cast<void*>(from), to - from, advice);
}

// What of the program is only read, segment by segment: a gap between two would stop the call.
// Where the linker has put what a start executes side by side, that is enough, and constants, which
// come first in theirs: to map all takes longer than a start.
int populate_segments(struct dl_phdr_info* program, size_t, void*) {
  constexpr uintptr_t kConstants = 256 << 10;
  bool ordered = start_code != nullptr;
  for (size_t i = 0; i < program->dlpi_phnum; ++i) {
    const auto& segment = program->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
    uintptr_t begin = program->dlpi_addr + segment.p_vaddr, end = begin + segment.p_memsz;
    if (ordered && (segment.p_flags & PF_X) != 0) {
      begin = reinterpret_cast<uintptr_t>(start_code);
      end = reinterpret_cast<uintptr_t>(start_code_end);
    } else if (ordered) {
      end = std::min(end, begin + kConstants);
    }
    populate(begin, end, MADV_POPULATE_READ);
  }
  return 1;  // the first is the program itself
}

// It is deeper while a request is read: a page at a time, as it grows.
void populate_stack() {
  volatile char room[96 << 10];
  for (size_t at = 0; at < sizeof room; at += 4096) room[sizeof room - 1 - at] = 0;
}

}  // namespace

void touch_memory() {
  extern char data_begin asm("__data_start"), data_end asm("end");
  ::dl_iterate_phdr(populate_segments, nullptr);
  populate(reinterpret_cast<uintptr_t>(&data_begin), reinterpret_cast<uintptr_t>(&data_end),
           MADV_POPULATE_WRITE);
  populate_stack();
  // The newest part of the heap; where it begins nobody tells, and a gap stops the call (ENOMEM).
  auto heap_end = reinterpret_cast<uintptr_t>(::sbrk(0));
  for (uintptr_t size = 256 << 10; size >= 16 << 10; size /= 2) {
    populate(heap_end - size, heap_end, MADV_POPULATE_WRITE);
    if (errno == 0) break;
  }
}

Status join_namespaces(int pidfd, uint64_t namespaces) {
  if (::setns(pidfd, static_cast<int>(namespaces)) == 0) return {};
  return sys_error("setns", "");
}

Result<UniqueFd> open_pidfd(pid_t pid) {
  long fd = ::syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) return sys_error("pidfd_open", std::to_string(pid));
  return UniqueFd(static_cast<int>(fd));
}

Status send_signal(int pidfd, int signal) {
  if (::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0) return {};
  return sys_error("kill", std::to_string(signal));
}

Result<int> wait_for(int pidfd) {
  siginfo_t info = {};
  while (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info,
                  WEXITED | __WALL) != 0) {
    if (errno != EINTR) return sys_error("waitid", "");
  }
  if (info.si_code == CLD_EXITED) return W_EXITCODE(info.si_status, 0);
  return info.si_status | (info.si_code == CLD_DUMPED ? WCOREFLAG : 0);
}

Result<UniqueFd> block_signals_but_child() {
  sigset_t all, child;
  ::sigfillset(&all);
  ::sigemptyset(&child);
  ::sigaddset(&child, SIGCHLD);
  ::signal(SIGCHLD, SIG_DFL);
  if (::sigprocmask(SIG_SETMASK, &all, nullptr) != 0) return sys_error("sigprocmask", "");
  int fd = ::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) return sys_error("signalfd", "");
  return UniqueFd(fd);
}

Status unblock_all_signals() {
  sigset_t none;
  ::sigemptyset(&none);
  if (::sigprocmask(SIG_SETMASK, &none, nullptr) != 0) return sys_error("sigprocmask", "");
  return {};
}

Status set_groups(const std::vector<gid_t>& groups) {
  if (::syscall(SYS_setgroups, groups.size(), groups.data()) != 0) {
    return privilege_error("setgroups");
  }
  std::vector<gid_t> held(groups.size() + 1);
  int count = ::getgroups(static_cast<int>(held.size()), held.data());
  if (count != static_cast<int>(groups.size())) return still_held("supplementary groups");
  held.resize(groups.size());
  std::vector<gid_t> wanted = groups;
  std::sort(wanted.begin(), wanted.end());
  std::sort(held.begin(), held.end());
  return held == wanted ? Status() : still_held("supplementary groups");
}

Status set_ids(uid_t uid, gid_t gid, const std::vector<gid_t>& groups) {
  TRY(set_groups(groups));
  if (::syscall(SYS_setresgid, gid, gid, gid) != 0) return privilege_error("setresgid");
  if (::syscall(SYS_setresuid, uid, uid, uid) != 0) return privilege_error("setresuid");
  uid_t real, effective, saved;
  gid_t group, effective_group, saved_group;
  if (::getresuid(&real, &effective, &saved) != 0 || real != uid || effective != uid ||
      saved != uid) {
    return still_held("uid");
  }
  if (::getresgid(&group, &effective_group, &saved_group) != 0 || group != gid ||
      effective_group != gid || saved_group != gid) {
    return still_held("gid");
  }
  return {};
}

Status set_file_ids(uid_t uid, gid_t gid) {
  // Both return the id before, whatever happens; -1 changes nothing and so reads it.
  ::syscall(SYS_setfsgid, gid);
  ::syscall(SYS_setfsuid, uid);
  if (static_cast<gid_t>(::syscall(SYS_setfsgid, -1)) != gid) return still_held("fsgid");
  if (static_cast<uid_t>(::syscall(SYS_setfsuid, -1)) != uid) return still_held("fsuid");
  return {};
}

Status die_with_parent() {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return sys_error("prctl", "PDEATHSIG");
  return {};
}

Status outlive_parent() {
  if (::prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0) != 0) return sys_error("prctl", "PDEATHSIG");
  return {};
}

Status set_oom_score(int score) {
  UniqueFd fd(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  char text[16];
  int size = std::snprintf(text, sizeof text, "%d", score);
  if (fd.valid() && ::write(fd.get(), text, static_cast<size_t>(size)) == size) return {};
  return sys_error("oom_score_adj", text);
}

int thread_count() {
  struct stat info;
  // Its links are itself, its parent and one directory per thread (proc(5)).
  return ::stat("/proc/self/task", &info) == 0 ? static_cast<int>(info.st_nlink) - 2 : 0;
}

Status hide_from_peers() {
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return sys_error("prctl", "DUMPABLE");
  return {};
}

Status show_to_peers() {
  if (::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0) return sys_error("prctl", "DUMPABLE");
  return {};
}

Status drop_bounding_set(uint64_t keep, uint64_t gone) {
  for (int cap = 0; cap <= kLastCapability; ++cap) {
    if ((keep | gone) >> cap & 1) continue;
    if (::prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 0) continue;  // ten times quicker than a drop
    if (::prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0) continue;
    if (errno == EINVAL && cap > CAP_AUDIT_READ) break;
    return privilege_error("bounding set");
  }
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) {
    return privilege_error("ambient set");
  }
  return {};
}

Status set_capabilities(uint64_t keep) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {};
  for (int half = 0; half < 2; ++half) {
    data[half].permitted = data[half].effective = static_cast<uint32_t>(keep >> (32 * half));
  }
  if (::syscall(SYS_capset, &header, data) != 0) return privilege_error("capset");
  return {};
}

Status lock_securebits() {
  constexpr unsigned long kLocked = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                    SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                    SECBIT_NO_CAP_AMBIENT_RAISE |
                                    SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
  if (::prctl(PR_SET_SECUREBITS, kLocked, 0, 0, 0) != 0) return privilege_error("securebits");
  if (::prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) != static_cast<int>(kLocked)) {
    return still_held("securebits");
  }
  return {};
}

Status set_no_new_privs() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return privilege_error("no_new_privs");
  return {};
}

Status check_capabilities(uint64_t most) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return privilege_error("capget");
  for (int half = 0; half < 2; ++half) {
    uint32_t held = data[half].permitted | data[half].effective | data[half].inheritable;
    if (held & ~static_cast<uint32_t>(most >> (32 * half))) return still_held("capabilities");
  }
  for (int cap = 0; cap <= kLastCapability; ++cap) {
    int held = ::prctl(PR_CAPBSET_READ, cap, 0, 0, 0);
    if (held < 0) break;
    if (held == 1 && !(most >> cap & 1)) return still_held("bounding set");
  }
  // An ambient capability is always permitted as well (capabilities(7)), so that was checked too.
  if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return still_held("no_new_privs");
  return {};
}

Status close_all_but(const int* keep, size_t count) {
  std::vector<int> sorted(keep, keep + count);
  std::sort(sorted.begin(), sorted.end());
  unsigned next = 0;
  for (int fd : sorted) {
    if (fd < 0) continue;
    unsigned kept = static_cast<unsigned>(fd);
    if (kept > next && ::close_range(next, kept - 1, 0) != 0) return sys_error("close_range", "");
    next = std::max(next, kept + 1);
  }
  if (::close_range(next, UINT_MAX, 0) != 0) return sys_error("close_range", "");
  return {};
}

Result<UniqueFd> copy_above_stdio(int fd) {
  int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return sys_error("dup", "descriptor " + std::to_string(fd));
  return UniqueFd(copy);
}

}  // namespace rtlaunch::sys
