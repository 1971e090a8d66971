// What clients and rtlaunchd say to each other over its unix stream socket. launcher/README.md
// describes it for other languages; this header is the truth.
//
// A frame is a 4-byte little-endian length and that many bytes of JSON, one object, at most
// kMaxFrame. Descriptors travel by SCM_RIGHTS with a frame's first byte, at most kMaxFds, close-on-
// exec. A client may have one request under way per connection; the daemon answers in order.
// Requests have "op"; answers have "ok" (true, or false with "error"), events before an answer have
// "event". Unknown ops and unknown keys are refused, by name.
//
//   hello     {"op", "version": 1, "client": "rtlaunch 0.1.0"}
//             → {"ok", "version": 1, "server", "store", "tools", "pid"}; must come first. Another
//             version: ok false, with the versions that are spoken.
//   lookup    {"op", "keys": [hex...]} → {"records": [record or null...]}      of the caller's
//   scope make      {"op", "fields": [name...]} + fd: the build request (request.h, a memfd)
//             → events {"event": "progress", ...} and {"event": "made", "field"}, then the answer
//   start     {"op", "keys": [hex...], "env": id, "name"} + fds: document (an encoded Spec, memfd),
//             stdin, stdout, stderr, line (isolation/line.h)
//             → {"worker", "pid", "steps": [[name, microseconds]...]}
//             Layers that the document names must belong to records of `keys`. A layer that is
//             gone: error with code ESTALE; plan again.
//   remember  {"op", "key", "name", "layers", "data"}   an env record (`rtlaunch env ls`), layers
//             only of the caller's own records
//   env       {"op", "id"} → {"record"}                  id: a key's prefix, or a hold's name
//   hold      {"op", "name", "env": id, "ttl": seconds, 0 for ever}; the same name again renews
//   release   {"op", "name"}
//   holds     {"op"} → {"holds": [{"name", "env", "uid", "expires"}...]}
//   pin       {"op", "env": id, "pinned": bool}
//   ps        {"op", "all": bool} → {"workers": [...]}   the caller's own; root sees everybody's
//   logs      {"op", "worker", "follow": bool} → events {"event": "log", "line"}, then the answer
//   enter     {"op", "worker"} + fds as start → {"pid"}  the caller's own workers, or root
//   kill      {"op", "worker", "signal"}
//   status    {"op"} → {...}
//   limits    {"op", "max_bytes", "min_free", "max_inodes", "max_age"}  root; null keeps
//   collect   {"op"}                                                     root; in the background
//
// An error is {"step", "errno", "object", "reason", "cure", "exit_code", "again": bool}: `again`
// says that the same request may simply be sent again (a restart was under way, a queue full).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::protocol {

inline constexpr int kVersion = 1;
inline constexpr size_t kMaxFrame = 1 << 20;
inline constexpr size_t kMaxFds = 8;
inline constexpr char kDefaultSocket[] = "/run/rtlaunch/rtlaunchd.sock";

// A frame's bytes, length first.
std::string framed(std::string_view json);

// Takes frames out of a byte stream, whatever pieces it comes in.
class FrameReader {
 public:
  // Nothing until a whole frame is there. Error: too long, or descriptors that belong to no frame.
  void feed(std::string_view bytes);
  Result<std::optional<std::string>> next();
  bool in_frame() const { return !buffer_.empty(); }  // a client that stops here is slow or gone

 private:
  std::string buffer_;
};

// sendmsg/recvmsg with descriptors. Non-blocking sockets: EAGAIN is an Error with that code.
Result<size_t> send_with_fds(int socket, std::string_view bytes, const std::vector<int>& fds);
// 0 at end of file. More than kMaxFds, or MSG_CTRUNC: an Error, and all of them are closed.
Result<size_t> receive_with_fds(int socket, char* buffer, size_t size, std::vector<UniqueFd>* fds);

// The error of an answer, both ways. Reasons and cures carry no secret already.
std::string error_answer(const Error& error, bool again);

}  // namespace rtlaunch::protocol
