/* Makes system calls by number: call [EXPECTED-ERRNO] NUMBER[,ARGUMENT]... ...
   Each NUMBER with its arguments (0 where none is given, "p" for a page of zeros) is a call of its
   own, in a child of its own. One that fails otherwise than with EXPECTED-ERRNO (or, without one,
   with EPERM, ENOSYS, EAFNOSUPPORT or EPROTONOSUPPORT) got away; so did one that succeeds. */
#include "guest.h"

#include <sys/syscall.h>
#include <sys/wait.h>

static char page[4096];

static int is_refusal(int expected, int code) {
  if (expected != 0) return code == expected;
  return code == EPERM || code == ENOSYS || code == EAFNOSUPPORT || code == EPROTONOSUPPORT;
}

static long make(char* text) {
  long number = strtol(text, &text, 0), arguments[6] = {0};
  for (int i = 0; i < 6 && *text == ','; ++i) {
    ++text;
    if (*text == 'p') {
      arguments[i] = (long)page;
      ++text;
    } else {
      arguments[i] = (long)strtoull(text, &text, 0);
    }
  }
  return syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
                 arguments[5]);
}

int main(int argc, char** argv) {
  int first = 1, expected = 0;
  if (argc > 1 && argv[1][0] == 'E') expected = atoi(argv[first++] + 1);
  for (int i = first; i < argc; ++i) {
    int status;
    pid_t child = fork();
    if (child < 0) return kBroken;
    if (child == 0) {
      alarm(10);
      if (make(argv[i]) == -1 && is_refusal(expected, errno)) _exit(kRefused);
      printf("%s: %s\n", argv[i], strerror(errno));
      fflush(stdout);
      _exit(kEscaped);
    }
    if (waitpid(child, &status, 0) != child) return kBroken;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != kRefused) {
      printf("%s: not refused\n", argv[i]);
      return kEscaped;
    }
  }
  return kRefused;
}
