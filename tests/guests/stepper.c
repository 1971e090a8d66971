/* Kills somebody at the Nth system call that a group of processes and their children make together.
 *
 *   stepper N VICTIM[,VICTIM...] PID...     VICTIM 0: whoever makes that call
 *
 * Says "ready" when it watches all PIDs; "killed CALL PID" when it has killed, once the victims are
 * dead and while whoever made the call waits before it; "counted M" at SIGTERM, when there were
 * only M calls. It ends after either, and whoever it watched goes on. ptrace(2). */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long wanted, counted;
static char *victims;

static void kill_and_wait(pid_t pid) {
  int pidfd = syscall(SYS_pidfd_open, pid, 0);
  struct pollfd ended = {pidfd, POLLIN, 0};
  int status;
  kill(pid, SIGKILL);
  /* Its threads that we watch are dead only when we have taken note. */
  for (int i = 0; i < 5000 && pidfd >= 0 && poll(&ended, 1, 1) == 0; ++i) {
    while (waitpid(-1, &status, WNOHANG | __WALL) > 0) continue;
  }
}

static void finish(pid_t pid, long call) {
  char text[1000];
  snprintf(text, sizeof text, "%s", victims);
  for (char *one = strtok(text, ","); one != NULL; one = strtok(NULL, ",")) {
    if (atoi(one) != 0)
      kill_and_wait(atoi(one));
    else
      kill(pid, SIGKILL);
  }
  printf("killed %ld %d\n", call, pid);
  exit(0);
}

static void look(pid_t pid, int status) {
  int signal = 0;
  if (!WIFSTOPPED(status)) return;
  if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
    struct __ptrace_syscall_info info;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) > 0 &&
        info.op == PTRACE_SYSCALL_INFO_ENTRY && ++counted == wanted) {
      finish(pid, (long)info.entry.nr);
    }
  } else if (status >> 16 == 0) {
    signal = WSTOPSIG(status);
  }
  ptrace(PTRACE_SYSCALL, pid, 0, signal);
}

int main(int argc, char **argv) {
  sigset_t awaited;
  int status, got = 0;
  if (argc < 4) return 2;
  wanted = atol(argv[1]);
  victims = argv[2];
  sigemptyset(&awaited);
  sigaddset(&awaited, SIGCHLD);
  sigaddset(&awaited, SIGTERM);
  sigprocmask(SIG_BLOCK, &awaited, NULL);
  setvbuf(stdout, NULL, _IOLBF, 0);
  long options =
      PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE;
  for (int i = 3; i < argc; ++i) {
    if (ptrace(PTRACE_SEIZE, atoi(argv[i]), 0, options) != 0 ||
        ptrace(PTRACE_INTERRUPT, atoi(argv[i]), 0, 0) != 0 ||
        waitpid(atoi(argv[i]), &status, __WALL) < 0 ||
        ptrace(PTRACE_SYSCALL, atoi(argv[i]), 0, 0) != 0) {
      fprintf(stderr, "stepper: %s: %s\n", argv[i], strerror(errno));
      return 1;
    }
  }
  puts("ready");
  while (got != SIGTERM) {
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;) look(pid, status);
    got = sigwaitinfo(&awaited, NULL);
  }
  printf("counted %ld\n", counted);
  return 0;
}
