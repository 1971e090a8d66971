// Processes and what they are allowed: clone3(2), pidfds, credentials, capabilities. Everything
// here acts on the calling thread by raw system calls (glibc's setuid family would signal other
// threads, and the worker borrows its parent's memory until it execs). Single-threaded processes
// only.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {

// --- making them ---

struct Cloned {
  pid_t pid = 0;   // 0: this is the child
  UniqueFd pidfd;  // in the parent
};
struct CloneOptions {
  uint64_t namespaces = 0;  // CLONE_NEW*
  int cgroup = -1;          // a cgroup2 directory it is born in (CLONE_INTO_CGROUP)
  int exit_signal = 0;      // 0: its end sends no signal, wait for it with wait_for(pidfd)
};
// fork; no signal handler of ours is left in the child.
Result<Cloned> clone_process(const CloneOptions& options);

// Runs function(argument) in a child that shares our memory, while we are stopped until it execs or
// ends (CLONE_VM|CLONE_VFORK): no page table is copied. What it writes, we see; it must not return
// but by _exit. It has its own descriptors, credentials and signal mask.
Result<pid_t> spawn_borrowing_memory(int (*function)(void*), void* argument);
// The same, but we go on. What the C library keeps (the heap, errno) is for one of us at a time:
// who is not to run waits in a system call. The child's stack is never given back.
Result<pid_t> spawn_beside(int (*function)(void*), void* argument);
// spawn_borrowing_memory() as `pid` in our own pid namespace and in as many above it as `levels`
// says (clone3(2) set_tid). EEXIST: somebody has that number; EINVAL: a namespace has none so high;
// EPERM: we lack CAP_CHECKPOINT_RESTORE over one of them.
Result<pid_t> spawn_as(pid_t pid, size_t levels, int (*function)(void*), void* argument);
// A copy of us, for a process that goes on with what it has loaded, as after fork(2) but without
// the C library's handlers for it: function(argument) runs on the copy of our stack and must not
// return. `pid` and `levels` as above; levels 0: any number. remember_thread() has been called by
// the process that the C library started.
Result<pid_t> fork_as(pid_t pid, size_t levels, int (*function)(void*), void* argument);
// Where the C library keeps the number of this thread, which is another in each copy of us.
Status remember_thread();

struct ProgramStart {
  std::vector<std::string> argv;  // argv[0] is a path
  std::vector<std::string> env;   // all of it
  std::vector<int> fds;           // become 0, 1, 2, ...; all others are closed; 8 at most
  int exit_signal = 0;
  bool idle = false;  // step_back(): nobody waits for it
  std::string cwd = "/";
  bool default_signals = false;  // none is ignored, whatever we ignore
};
// Starts a program in a session of its own that dies with this thread (PDEATHSIG); returns
// once it has been exec'ed. oom_score_adj is 0, whatever ours is.
Result<Cloned> start_program(const ProgramStart& program);

// Maps the program's code and gives us copies of its data, heap and stack now, in a few calls,
// instead of page by page when they are needed (MADV_POPULATE_READ and _WRITE, Linux 5.14). No more
// than a kindness.
void touch_memory();

// setns(2) into the CLONE_NEW* namespaces of a process; for the pid namespace that means the
// children to come.
Status join_namespaces(int pidfd, uint64_t namespaces);

// --- watching and ending them ---

Result<UniqueFd> open_pidfd(pid_t pid);
Status send_signal(int pidfd, int signal);
// Reaps; the status as waitpid(2) gives it.
Result<int> wait_for(int pidfd);
// A signalfd(2) for SIGCHLD; blocks every signal.
Result<UniqueFd> block_signals_but_child();
Status unblock_all_signals();

// --- who they are ---

// setgroups, setresgid, setresuid, read back.
Status set_ids(uid_t uid, gid_t gid, const std::vector<gid_t>& groups);
Status set_groups(const std::vector<gid_t>& groups);
// setfsgid(2) and setfsuid(2), read back: whose rights files are opened with. A user that isn't
// root has none of the capabilities over files meanwhile. Clears PDEATHSIG and dumpable.
Status set_file_ids(uid_t uid, gid_t gid);
Status die_with_parent();  // PR_SET_PDEATHSIG SIGKILL; gone after any change of credentials
Status outlive_parent();   // the opposite
Status hide_from_peers();  // PR_SET_DUMPABLE 0: no ptrace, /proc/PID/fd is root's
Status show_to_peers();    // the opposite, as after an exec
// How likely the OOM killer takes us, for us and children to come: oom_score_adj, proc(5).
Status set_oom_score(int score);
int thread_count();  // of this process, by /proc/self/task

// --- capabilities: bit sets by CAP_* number (capabilities(7)) ---

// With the ambient set. Those in `gone` are taken for dropped already; check_capabilities() looks.
Status drop_bounding_set(uint64_t keep, uint64_t gone);
Status set_capabilities(uint64_t keep);  // permitted and effective; inheritable empty
Status lock_securebits();                // uid 0 gives nothing any more, for ever
Status set_no_new_privs();
// Fails when any of the five sets holds more than `most`, or no_new_privs is off.
Status check_capabilities(uint64_t most);

// --- descriptors ---

// Closes all but those in `keep` (any order, -1 is ignored).
Status close_all_but(const int* keep, size_t count);
// A copy with a number above 2, close-on-exec.
Result<UniqueFd> copy_above_stdio(int fd);

}  // namespace rtlaunch::sys
