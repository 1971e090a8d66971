// What daemon and spawner say to each other: one packet of a SOCK_SEQPACKET pair per request or
// reply, encoded with isolation/wire.h, descriptors by SCM_RIGHTS. Both are of one build, so there
// is no version, but nothing is believed: lengths, digests and descriptors are checked.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"
#include "launcher/spawner.h"

namespace rtlaunch {

struct Packet {
  std::string bytes;
  std::vector<UniqueFd> fds;
};

inline constexpr size_t kMostPacket = 512 << 10;  // groups, digests and arguments; the rest is fds

// With queues that hold a packet of kMostPacket. Both ends close-on-exec.
Result<std::pair<UniqueFd, UniqueFd>> make_spawner_pair();

// Never blocks; EAGAIN: the queue is full. EPIPE: the other side is gone.
Status send_packet(int socket, std::string_view bytes, const std::vector<int>& fds);
// Nothing when there is none now; EPIPE at the end.
Result<std::optional<Packet>> receive_packet(int socket);

// What the next request begins with; it stays where it is, and so do its descriptors.
struct RequestHead {
  uint64_t id = 0;
  SpawnRequest::Kind kind = SpawnRequest::Kind::kStart;
  bool may_hang = false;
};
Result<std::optional<RequestHead>> peek_request(int socket);
void drop_request(int socket);  // its descriptors never become ours

std::string encode_request(const SpawnRequest& request, std::vector<int>* fds);
Result<SpawnRequest> decode_request(Packet packet);
std::string encode_reply(const SpawnReply& reply);  // the pidfd is its one descriptor
Result<SpawnReply> decode_reply(Packet packet);

}  // namespace rtlaunch
