#include "launcher/spawn_courier.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>

#include "launcher/spawn_wire.h"
#include "launcher/spawn_worker.h"

namespace rtlaunch {
namespace {

constexpr int kPatienceMs = 5000;

Error lost() {
  return Error{"spawner", EAGAIN, "descriptors", "they were lost on their way", "try again", 125};
}

bool comes(int socket) {
  struct pollfd polled = {socket, POLLIN, 0};
  return ::poll(&polled, 1, kPatienceMs) > 0;
}

Result<SpawnRequest> receive_request(int socket) {
  std::optional<Packet> packet = TRY(receive_packet(socket));
  if (!packet) return lost();
  return decode_request(std::move(*packet));
}

// The caller's descriptors stay here.
Status show(int socket, SpawnRequest& request) {
  SpawnRequest shown;
  shown.id = request.id;
  shown.kind = request.kind;
  shown.caller = request.caller;
  if (request.record.valid()) shown.record.reset(::fcntl(request.record.get(), F_DUPFD_CLOEXEC, 3));
  shown.target = std::move(request.target);
  std::vector<int> fds;
  std::string bytes = encode_request(shown, &fds);
  return send_packet(socket, bytes, fds);
}

Status hand_over(int socket, const SpawnRequest& request) {
  std::optional<Packet> packet = TRY(receive_packet(socket));
  if (!packet || packet->fds.empty()) return lost();
  int id_map = packet->fds.size() > 1 ? packet->fds[1].get() : -1;
  Status sent = send_start(packet->fds[0].get(), request, id_map, false);
  int32_t code = sent ? 0 : sent.error().code;
  return send_packet(socket, {reinterpret_cast<const char*>(&code), sizeof code}, {});
}

bool is_whole(const SpawnRequest& request) {
  return request.document.valid() && request.line.valid() && request.input.valid() &&
         request.output.valid() && request.error.valid();
}

// What is not the caller's is closed first, so that nobody else waits for its end.
[[noreturn]] void carry(int from, int socket) {
  (void)sys::die_with_parent().ok();
  Result<SpawnRequest> request = receive_request(from);
  if (request && is_whole(*request) && show(socket, *request) && comes(socket)) {
    (void)hand_over(socket, *request).ok();
  }
  int keep[3] = {-1, -1, -1};
  if (request) {
    const UniqueFd* stdio[] = {&request->input, &request->output, &request->error};
    for (size_t i = 0; i < std::size(keep); ++i) keep[i] = stdio[i]->get();
  }
  (void)sys::close_all_but(keep, std::size(keep)).ok();
  ::_exit(0);
}

}  // namespace

Result<Courier> Courier::send(int socket) {
  auto [ours, theirs] = TRY(make_spawner_pair());
  sys::Cloned cloned = TRY(sys::clone_process({.exit_signal = SIGCHLD}));
  if (cloned.pid == 0) {
    ours.reset();
    carry(socket, theirs.get());
  }
  return Courier(std::move(cloned.pidfd), std::move(ours));
}

Status Courier::wait() {
  if (comes(socket_.get())) return {};
  (void)sys::send_signal(pidfd_.get(), SIGKILL).ok();
  return lost();
}

Result<SpawnRequest> Courier::request() {
  TRY(wait());
  Result<SpawnRequest> request = receive_request(socket_.get());
  return request ? std::move(request) : Result<SpawnRequest>(lost());
}

Status Courier::deliver(int child, int id_map) {
  std::vector<int> fds = {child};
  if (id_map >= 0) fds.push_back(id_map);
  TRY(send_packet(socket_.get(), "to", fds));
  TRY(wait());
  auto packet = receive_packet(socket_.get());
  int32_t code = 0;
  if (!packet || !*packet || (*packet)->bytes.size() != sizeof code) return lost();
  (*packet)->bytes.copy(reinterpret_cast<char*>(&code), sizeof code);
  return code == 0 ? Status() : Status(Error{"spawner", code, "send", "", "", 125});
}

}  // namespace rtlaunch
