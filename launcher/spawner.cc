// The daemon's side of the spawner.
#include "launcher/spawner.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "launcher/spawn_wire.h"

namespace rtlaunch {

Result<Spawner> Spawner::run(const SpawnerConfig& config) {
  auto [ours, theirs] = TRY(make_spawner_pair());
  UniqueFd null = TRY(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
  sys::Cloned started = TRY(
      sys::start_program({.argv = {config.program, "--tools", config.tools, "--store", config.store,
                                   "--runtime", config.runtime, "--cgroup", config.cgroup,
                                   "--start-seconds", std::to_string(config.start_seconds)},
                          .env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
                          .fds = {null.get(), null.get(), STDERR_FILENO, theirs.get()}}));
  Spawner spawner;
  spawner.socket_ = std::move(ours);
  spawner.pidfd_ = std::move(started.pidfd);
  return spawner;
}

Spawner& Spawner::operator=(Spawner&& other) noexcept {
  if (this == &other) return *this;
  Spawner old(std::move(*this));
  socket_ = std::move(other.socket_);
  pidfd_ = std::move(other.pidfd_);
  return *this;
}

Spawner::~Spawner() {
  socket_.reset();
  if (!pidfd_.valid()) return;
  struct pollfd ended = {pidfd_.get(), POLLIN, 0};
  if (::poll(&ended, 1, 1000) <= 0) (void)sys::send_signal(pidfd_.get(), SIGKILL).ok();
  (void)sys::wait_for(pidfd_.get()).ok();
}

Status Spawner::send(const SpawnRequest& request) {
  std::vector<int> fds;
  std::string bytes = encode_request(request, &fds);
  if (bytes.size() > kMostPacket) {
    return Error{"spawner", E2BIG, "request", "too many groups, layers or arguments", "", 125};
  }
  return send_packet(socket_.get(), bytes, fds);
}

Result<std::optional<SpawnReply>> Spawner::receive() {
  std::optional<Packet> packet = TRY(receive_packet(socket_.get()));
  if (!packet) return std::optional<SpawnReply>();
  return std::optional<SpawnReply>(TRY(decode_reply(std::move(*packet))));
}

}  // namespace rtlaunch
