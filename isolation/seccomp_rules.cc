#include "isolation/seccomp_rules.h"

#include <algorithm>
#include <cstddef>

namespace rtlaunch::isolation {
namespace {

using Names = std::vector<std::string_view>;

const Names kEverybody = {
    // files
    "access", "chdir", "chmod", "chown", "close", "close_range", "copy_file_range", "creat", "dup",
    "dup2", "dup3", "faccessat", "faccessat2", "fadvise64", "fallocate", "fanotify_mark", "fchdir",
    "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl", "fdatasync", "fgetxattr",
    "flistxattr", "flock", "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate",
    "futimesat", "getcwd", "getdents", "getdents64", "getxattr", "getxattrat", "inotify_add_watch",
    "inotify_init", "inotify_init1", "inotify_rm_watch", "ioctl", "lchown", "lgetxattr", "link",
    "linkat", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek", "lsetxattr",
    "lstat", "memfd_create", "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat",
    "openat2", "pipe", "pipe2", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2",
    "read", "readahead", "readlink", "readlinkat", "readv", "removexattr", "removexattrat",
    "rename", "renameat", "renameat2", "rmdir", "sendfile", "setxattr", "setxattrat", "splice",
    "stat", "statfs", "statx", "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "tee",
    "truncate", "umask", "unlink", "unlinkat", "utime", "utimensat", "utimes", "vmsplice", "write",
    "writev",
    // waiting
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
    "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "io_cancel", "io_destroy",
    "io_getevents", "io_pgetevents", "io_setup", "io_submit", "poll", "ppoll", "pselect6", "select",
    "signalfd", "signalfd4", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    // memory
    "brk", "cachestat", "madvise", "map_shadow_stack", "membarrier", "mincore", "mlock", "mlock2",
    "mlockall", "mmap", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap",
    "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages",
    // processes and threads
    "arch_prctl", "clone", "execve", "execveat", "exit", "exit_group", "fork", "futex",
    "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "get_robust_list",
    "get_thread_area", "getcpu", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
    "getrlimit", "getrusage", "getsid", "gettid", "ioprio_get", "ioprio_set", "kill", "pause",
    "personality", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64", "process_mrelease",
    "restart_syscall", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
    "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity",
    "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "set_robust_list",
    "set_thread_area", "set_tid_address", "setpgid", "setpriority", "setrlimit", "setsid",
    "sigaltstack", "tgkill", "tkill", "unshare", "vfork", "wait4", "waitid",
    // who we are, and giving it up
    "capget", "capset", "getegid", "geteuid", "getgid", "getgroups", "getresgid", "getresuid",
    "getuid", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
    "setfsgid", "setfsuid", "setgid", "setgroups", "setregid", "setresgid", "setresuid", "setreuid",
    "setuid",
    // sockets, and ipc (of a namespace of its own)
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink",
    "msgctl", "msgget", "msgrcv", "msgsnd", "recvfrom", "recvmmsg", "recvmsg", "semctl", "semget",
    "semop", "semtimedop", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shmat", "shmctl",
    "shmdt", "shmget", "shutdown", "socket", "socketpair",
    // time, chance, the machine
    "alarm", "clock_getres", "clock_gettime", "clock_nanosleep", "getitimer", "getrandom",
    "gettimeofday", "nanosleep", "setitimer", "sysinfo", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_settime", "times", "uname"};

// NUMA (containerd #13610), own processes (PyTorch #165685 passes CUDA memory by pidfd_getfd; MPI
// and UCX copy by process_vm_*; debuggers and LeakSanitizer trace), servers that chroot.
const Names kNumerical = {"chroot",
                          "get_mempolicy",
                          "mbind",
                          "migrate_pages",
                          "move_pages",
                          "name_to_handle_at",
                          "pidfd_getfd",
                          "process_madvise",
                          "process_vm_readv",
                          "process_vm_writev",
                          "ptrace",
                          "set_mempolicy",
                          "set_mempolicy_home_node"};

const Names kDebugging = {"kcmp", "perf_event_open"};

// Known, and refused by every base (and those above, by bases without them).
const Names kRefused = {"acct",
                        "add_key",
                        "adjtimex",
                        "bpf",
                        "clock_adjtime",
                        "clock_settime",
                        "delete_module",
                        "fanotify_init",
                        "finit_module",
                        "fsconfig",
                        "fsmount",
                        "fsopen",
                        "fspick",
                        "init_module",
                        "io_uring_enter",
                        "io_uring_register",
                        "io_uring_setup",
                        "ioperm",
                        "iopl",
                        "kexec_file_load",
                        "kexec_load",
                        "keyctl",
                        "lookup_dcookie",
                        "modify_ldt",
                        "mount",
                        "mount_setattr",
                        "move_mount",
                        "nfsservctl",
                        "open_by_handle_at",
                        "open_tree",
                        "open_tree_attr",
                        "pivot_root",
                        "quotactl",
                        "quotactl_fd",
                        "reboot",
                        "request_key",
                        "setdomainname",
                        "sethostname",
                        "setns",
                        "settimeofday",
                        "swapoff",
                        "swapon",
                        "syslog",
                        "umount2",
                        "uselib",
                        "userfaultfd",
                        "ustat",
                        "vhangup"};

struct Newer {
  std::string_view name;
  int number;
};
constexpr Newer kNewer[] = {{"io_uring_setup", 425},
                            {"io_uring_enter", 426},
                            {"io_uring_register", 427},
                            {"open_tree", 428},
                            {"move_mount", 429},
                            {"fsopen", 430},
                            {"fsconfig", 431},
                            {"fsmount", 432},
                            {"fspick", 433},
                            {"process_mrelease", 448},
                            {"futex_waitv", 449},
                            {"set_mempolicy_home_node", 450},
                            {"cachestat", 451},
                            {"fchmodat2", 452},
                            {"map_shadow_stack", 453},
                            {"futex_wake", 454},
                            {"futex_wait", 455},
                            {"futex_requeue", 456},
                            {"mseal", 462},
                            {"setxattrat", 463},
                            {"getxattrat", 464},
                            {"listxattrat", 465},
                            {"removexattrat", 466},
                            {"open_tree_attr", 467}};

bool has(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool has(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_numerical(FilterBase base) {
  return base != FilterBase::kStrict && base != FilterBase::kBuild;
}

}  // namespace

// clone3 is refused whatever anybody allows: its flags lie in memory, where no filter can look.
Verdict verdict(const FilterRules& rules, std::string_view name) {
  if (has(rules.deny, name)) return Verdict::kDenied;
  bool guarded = (rules.guards & kGuardNamespaces) != 0;
  if (name == "clone3" && (guarded || rules.base != FilterBase::kOpen)) return Verdict::kUnknown;
  if (rules.base == FilterBase::kOpen) return Verdict::kAllowed;
  if (has(rules.allow, name) || has(kEverybody, name)) return Verdict::kAllowed;
  if (has(kNumerical, name)) {
    return is_numerical(rules.base) ? Verdict::kAllowed : Verdict::kDenied;
  }
  if (has(kDebugging, name)) {
    return rules.base == FilterBase::kDebug ? Verdict::kAllowed : Verdict::kDenied;
  }
  return has(kRefused, name) ? Verdict::kDenied : Verdict::kUnknown;
}

std::vector<std::string_view> known_calls(const FilterRules& rules) {
  Names names = {"clone3"};
  for (const Names* table : {&kEverybody, &kNumerical, &kDebugging, &kRefused}) {
    names.insert(names.end(), table->begin(), table->end());
  }
  for (const auto* own : {&rules.allow, &rules.deny}) {
    for (const std::string& name : *own) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

int newer_call(std::string_view name) {
  for (const Newer& newer : kNewer) {
    if (newer.name == name) return newer.number;
  }
  return -1;
}

}  // namespace rtlaunch::isolation
