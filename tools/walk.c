/* Runs or watches programs one instruction at a time, and says where in a program's text they have
 * been.
 *
 *   walk PROGRAM OUT COMMAND...      COMMAND and its children, as long as they are PROGRAM
 *   walk PROGRAM OUT -p PID...       those who run, and their children; until SIGTERM
 *
 * Makes OUT when it watches, and fills it at the end: each address of PROGRAM, in the order in
 * which they were first come to. PROGRAM is linked to fixed addresses. ptrace(2). */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST = 0x400000, LAST = 0x4000000 };

static unsigned char been[LAST - FIRST];
static uint32_t *order;
static size_t places, watched;
static struct stat program;
static volatile sig_atomic_t over;

static const long options =
    PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;

static void end(int signal) {
  (void)signal;
  over = 1;
}

static int runs_program(pid_t pid) {
  char path[64];
  struct stat status;
  snprintf(path, sizeof path, "/proc/%d/exe", pid);
  return stat(path, &status) == 0 && status.st_dev == program.st_dev &&
         status.st_ino == program.st_ino;
}

static void note(pid_t pid) {
  errno = 0;
  unsigned long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
  if (errno != 0 || at < FIRST || at >= LAST || been[at - FIRST]) return;
  been[at - FIRST] = 1;
  order[places++] = at;
}

/* Who is no longer the program goes on alone. */
static void go_on(pid_t pid, int status) {
  int signal = WSTOPSIG(status), event = status >> 16;
  if (event == PTRACE_EVENT_EXEC && !runs_program(pid)) {
    ptrace(PTRACE_DETACH, pid, 0, 0);
    --watched;
    return;
  }
  if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE)
    ++watched;
  if (event == 0 && signal == SIGTRAP) note(pid);
  ptrace(PTRACE_SINGLESTEP, pid, 0, event != 0 || signal == SIGTRAP ? 0 : signal);
}

static void watch(void) {
  int status;
  pid_t pid;
  while (watched > 0 && !over) {
    if ((pid = waitpid(-1, &status, __WALL)) < 0) continue;
    if (WIFSTOPPED(status))
      go_on(pid, status);
    else
      --watched;
  }
}

static void run(char **command) {
  pid_t pid = fork();
  if (pid == 0) {
    raise(SIGSTOP);
    execvp(command[0], command);
    _exit(127);
  }
  waitpid(pid, NULL, WUNTRACED);
  if (ptrace(PTRACE_SEIZE, pid, 0, options) != 0) exit(1);
  kill(pid, SIGCONT);
  ptrace(PTRACE_INTERRUPT, pid, 0, 0);
  ++watched;
}

static void seize(pid_t pid) {
  if (ptrace(PTRACE_SEIZE, pid, 0, options) != 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) != 0)
    exit(1);
  ++watched;
}

int main(int count, char **words) {
  struct sigaction act = {.sa_handler = end};
  FILE *out;
  if (count < 4 || stat(words[1], &program) != 0) return 2;
  sigaction(SIGTERM, &act, NULL);
  order = malloc(sizeof *order * (LAST - FIRST));
  if (strcmp(words[3], "-p") != 0)
    run(words + 3);
  else
    for (int i = 4; i < count; ++i) seize(atoi(words[i]));
  if (order == NULL || (out = fopen(words[2], "we")) == NULL) return 1;
  watch();
  for (size_t i = 0; i < places; ++i) fprintf(out, "%x\n", order[i]);
  return fclose(out) != 0;
}
