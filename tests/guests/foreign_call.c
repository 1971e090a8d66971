/* Makes calls of another architecture's: i386's getpid, or x32's. Where they are possible, or fail,
   it lives on. */
#include "guest.h"

#include <sys/syscall.h>

int main(int argc, char** argv) {
#if defined(__x86_64__)
  long result;
  if (argc > 1 && strcmp(argv[1], "x32") == 0) {
    syscall(0x40000000 + SYS_getpid);
  } else {
    asm volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
  }
#else
  (void)argc, (void)argv;
#endif
  return kEscaped;
}
