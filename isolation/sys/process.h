// Processes and what they are allowed: clone3(2), pidfds, credentials, capabilities. Everything
// here acts on the calling thread by raw system calls (glibc's setuid family would signal other
// threads, and the worker borrows its parent's memory until it execs). Single-threaded processes
// only.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {

// --- making them ---

struct Cloned {
  pid_t pid = 0;   // 0: this is the child
  UniqueFd pidfd;  // in the parent
};
// fork with CLONE_NEW* `namespaces`. No signal handler of ours is left in the child, and its end
// sends no SIGCHLD: wait for it with wait_for(pidfd).
Result<Cloned> clone_process(uint64_t namespaces);

// Runs function(argument) in a child that shares our memory, while we are stopped until it execs or
// ends (CLONE_VM|CLONE_VFORK): no page table is copied. What it writes, we see; it must not return
// but by _exit. It has its own descriptors, credentials and signal mask.
Result<pid_t> spawn_borrowing_memory(int (*function)(void*), void* argument);

// --- watching and ending them ---

Status send_signal(int pidfd, int signal);
// Reaps; the status as waitpid(2) gives it.
Result<int> wait_for(int pidfd);
// A signalfd(2) for SIGCHLD; blocks every signal.
Result<UniqueFd> block_signals_but_child();
Status unblock_all_signals();

// --- who they are ---

Status set_ids(uid_t uid, gid_t gid);  // setgroups({}), setresgid, setresuid, read back
Status die_with_parent();              // PR_SET_PDEATHSIG SIGKILL
Status hide_from_peers();              // PR_SET_DUMPABLE 0: no ptrace, /proc/PID/fd is root's

// --- capabilities: bit sets by CAP_* number (capabilities(7)) ---

Status drop_bounding_set(uint64_t keep);  // with the ambient set
Status set_capabilities(uint64_t keep);   // permitted and effective; inheritable empty
Status lock_securebits();                 // uid 0 gives nothing any more, for ever
Status set_no_new_privs();
// Fails when any of the five sets holds more than `most`, or no_new_privs is off.
Status check_capabilities(uint64_t most);

// --- descriptors ---

// Closes all but those in `keep` (any order, -1 is ignored).
Status close_all_but(const int* keep, size_t count);
// A copy with a number above 2, close-on-exec.
Result<UniqueFd> copy_above_stdio(int fd);

}  // namespace rtlaunch::sys
