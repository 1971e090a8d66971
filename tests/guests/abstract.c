/* Connects to the abstract unix socket whose name is given. */
#include "guest.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(int argc, char** argv) {
  struct sockaddr_un address = {AF_UNIX, ""};
  if (argc < 2) return kBroken;
  strncpy(address.sun_path + 1, argv[1], sizeof address.sun_path - 2);
  socklen_t size = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argv[1]);
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd < 0) return kBroken;
  if (connect(fd, (struct sockaddr*)&address, size) == 0) return kEscaped;
  return refused("connect");
}
