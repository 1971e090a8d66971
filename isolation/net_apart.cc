#include "isolation/net_apart.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "isolation/net.h"
#include "isolation/net_link.h"
#include "isolation/sys/files.h"
#include "isolation/sys/message.h"
#include "isolation/sys/process.h"
#include "isolation/userns.h"

namespace rtlaunch::isolation {
namespace {

struct Maker {
  bool rootless;
  uid_t uid;  // as outside
  gid_t gid;
  int to, listener_to;
};

Status hand_over(const Maker& maker) {
  UniqueFd network = TRY(sys::open_at(AT_FDCWD, "/proc/self/ns/net", O_RDONLY)), user;
  std::vector<int> fds = {network.get()};
  if (maker.rootless) {
    user = TRY(sys::open_at(AT_FDCWD, "/proc/self/ns/user", O_RDONLY));
    fds.push_back(user.get());
  }
  auto sent = sys::send_message(maker.to, "n", fds);
  return sent ? Status() : Status(std::move(sent.error()));
}

// In the namespaces, which are empty.
Status furnish(const Maker& maker) {
  if (maker.rootless) TRY(map_own_ids(maker.uid, maker.gid));
  TRY(raise_loopback());
  TRY(open_door(maker.listener_to));
  return hand_over(maker);
}

[[noreturn]] void run(const Maker& maker) {
  Status made = furnish(maker);
  ::_exit(made.ok() ? 0 : made.error().code != 0 ? made.error().code : EPERM);  // all below 256
}

Status ended(int pidfd) {
  int status = TRY(sys::wait_for(pidfd));
  if (status == 0) return {};
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
  return explain_setup(Error{"network", code, "one of its own", "", "", 125}, is_rootless());
}

}  // namespace

Result<NetworkApart> make_network_apart(int listener_to) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return sys_error("socketpair", "");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  bool rootless = is_rootless();
  Maker maker{rootless, ::geteuid(), ::getegid(), theirs.get(), listener_to};
  uint64_t namespaces = CLONE_NEWNET | (rootless ? uint64_t(CLONE_NEWUSER) : 0);
  auto cloned = sys::clone_process({.namespaces = namespaces});
  if (!cloned) return explain_clone(std::move(cloned.error()), rootless);
  if (cloned->pid == 0) run(maker);
  theirs.reset();
  char byte;
  auto came = sys::receive_message(ours.get(), &byte, 1, 2);
  TRY(ended(cloned->pidfd.get()));
  if (!came) return std::move(came.error());
  if (came->fds.size() != (rootless ? 2u : 1u))
    return make_error("network", "one of its own", "it was not handed over");
  NetworkApart apart{UniqueFd(), std::move(came->fds[0])};
  if (rootless) apart.user = std::move(came->fds[1]);
  return apart;
}

}  // namespace rtlaunch::isolation
