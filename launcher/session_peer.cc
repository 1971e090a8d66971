#include "launcher/session_peer.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>

#include "isolation/sys/process.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace rtlaunch {
namespace {

constexpr size_t kMostGroups = 65536;  // NGROUPS_MAX (credentials(7))

Error bad(const char* name, const std::string& reason) {
  return Error{"protocol", EINVAL, name, reason, "see launcher/protocol.h of this version"};
}

Result<std::vector<gid_t>> groups_of(int socket) {
  std::vector<gid_t> groups(64);
  while (true) {
    auto size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) == 0) {
      groups.resize(size / sizeof(gid_t));
      return groups;
    }
    if (errno != ERANGE || groups.size() >= kMostGroups) return sys_error("getsockopt", "groups");
    groups.resize(kMostGroups);
  }
}

Error who_has_gone() {
  return Error{"limits",
               ESRCH,
               "",
               "the process that connected is not to be seen from here",
               "keep it alive, and rtlaunchd in a pid namespace that has its clients",
               125};
}

bool belongs_to(pid_t pid, uid_t uid) {
  struct stat info = {};
  return ::stat(("/proc/" + std::to_string(pid)).c_str(), &info) == 0 && info.st_uid == uid;
}

}  // namespace

Result<Peer> peer_of(int socket) {
  struct ucred who = {};
  socklen_t size = sizeof who;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) {
    return sys_error("getsockopt", "peer");
  }
  Peer peer;
  peer.pid = who.pid;
  peer.user = {who.uid, who.gid, TRY(groups_of(socket))};
  return peer;
}

UniqueFd pidfd_of_peer(int socket) {
  int fd = -1;
  socklen_t size = sizeof fd;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) != 0) return {};
  return UniqueFd(fd);
}

Result<sys::Limits> limits_of_peer(int socket, const Peer& peer, const sys::Limits* known) {
  UniqueFd pidfd = pidfd_of_peer(socket);
  bool has_pidfds = pidfd.valid() || errno != ENOPROTOOPT;
  if (peer.pid <= 0 || (has_pidfds && !pidfd.valid())) return who_has_gone();
  Result<sys::Limits> limits = known != nullptr ? *known : sys::limits_of(peer.pid);
  // It has not been reaped yet, so the number was its own all the time.
  bool same =
      has_pidfds ? sys::send_signal(pidfd.get(), 0).ok() : belongs_to(peer.pid, peer.user.uid);
  return same ? std::move(limits) : who_has_gone();
}

Status check_memory_file(int fd, uint64_t most, const char* name) {
  if (::fcntl(fd, F_GET_SEALS) < 0) return bad(name, "is no memfd");
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return sys_error("fstat", name);
  if (!S_ISREG(info.st_mode)) return bad(name, "is no memfd");
  if (static_cast<uint64_t>(info.st_size) <= most) return {};
  return Error{"protocol", EMSGSIZE, name, "is longer than " + std::to_string(most) + " bytes",
               "send less in one request"};
}

Status check_line(int fd) {
  int domain = 0, type = 0;
  socklen_t size = sizeof domain;
  bool fine = ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
  size = sizeof type;
  fine = fine && ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
  if (fine) return {};
  return bad("line", "is no unix socket of packets");
}

}  // namespace rtlaunch
