/* Takes all there is: "memory", "processes" or "threads". It isn't stopped: it gets away. */
#include "guest.h"

#include <pthread.h>
#include <sys/mman.h>

static void* sleeper(void* nothing) {
  sleep(600);
  return nothing;
}

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  size_t size = 64 << 20;
  for (int i = 0; i < 8 && strcmp(what, "memory") == 0; ++i) {
    void* piece = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (piece == MAP_FAILED) return refused("mmap");
    memset(piece, 1, size);
  }
  for (int i = 0; i < 300 && strcmp(what, "processes") == 0; ++i) {
    pid_t child = fork();
    if (child < 0) return refused("fork");
    if (child == 0) {
      sleep(600);
      _exit(0);
    }
  }
  for (int i = 0; i < 300 && strcmp(what, "threads") == 0; ++i) {
    pthread_t thread;
    errno = pthread_create(&thread, NULL, sleeper, NULL);
    if (errno != 0) return refused("pthread_create");
  }
  return kEscaped;
}
