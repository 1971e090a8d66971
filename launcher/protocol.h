// What clients and rtlaunchd say to each other over its unix stream socket. launcher/README.md
// describes it for other languages; this header is the truth.
//
// A frame is a 4-byte little-endian length and that many bytes of JSON, one object, at most
// kMaxFrame. Descriptors travel by SCM_RIGHTS with a frame's first byte, at most kMaxFds, close-on-
// exec. A client may have one request under way per connection, and send its first one right behind
// hello; the daemon answers in order. What comes while make or logs is under way ends the
// connection, and so does an end of file: who still waits for an answer keeps both halves open.
// Requests have "op"; answers have "ok" (true, or false with "error"), events before an answer have
// "event" and no "ok"; a client passes over events that it doesn't know. Unknown ops and unknown
// keys are refused, by name. A key whose value is null counts as not given.
//
//   hello     {"op", "version": 1, "client": "rtlaunch 0.1.0"}
//             → {"ok", "version": 1, "server", "store", "plugins", "tools", "pid"}; must come
//             first. Another version: ok false, and {"versions": [1]} beside the error says what is
//             spoken.
//   lookup    {"op", "keys": [hex...]} → {"records": [record or null...]}      in the caller's
//   scope
//             record: {"kind", "name", "layers": [hex...], "data": text of JSON}
//   make      {"op", "fields": [name...]} + fd: the build request (request.h, a memfd)
//             → events {"event": "queued"} while other builds come first, {"event": "progress",
//             "layer", "phase", "object", "done", "total"} and {"event": "made", "field"}, then the
//             answer. Progress is dropped, never kept, for a client that reads slowly.
//   start     {"op", "keys": [hex...], "env": id, "name", "shape", ASKED} + fds: document (an
//   encoded Spec, memfd),
//             stdin, stdout, stderr, line (isolation/line.h)
//             → {"worker", "pid", "profile", "steps": [[name, microseconds]...],
//             "controls": [[name, applied, why not]...]}
//             Layers that the document names must belong to records of `keys`. A layer or record
//             that is gone: error with code ESTALE; plan again. "env" and "name" may be absent.
//             "user": [uid, gid], root's alone: run as that one, for whom the layers' files are
//             then his own (an image's User); where the policy has uids, it stays one of those.
//             ASKED, all of which may be left out: "profile": name, "controls": {name: text},
//             "job", "labels": {name: text}. The policy decides what is given for it (EPERM: less);
//             the document is held to that. "assumed": {"store", "plugins": as in hello's answer,
//             key: digest_of() its record (assumed.h)...}, what the document was written for
//             without asking; ESTALE, and nothing was looked at further, if one is another.
//             "shape": what the document was written for (launcher/shield.h); EREMCHG: the policy
//             gives another one, ask for it.
//   grant     {"op", "keys", "env", "name", "shape", ASKED} → {"profile", "shield": text}   root;
//   what
//             `start` would hold the document to (launcher/shield.h), for who starts a copy of a
//             process of his own; refused as `start` would refuse it
//   profile   {"op", ASKED} → {"profile", "shared": bool, "home": bool, "environment": [...] or
//             null, "shape", "verdict": {...}}   what a start would get, and from which rule
//   remember  {"op", "key", "name", "layers", "data"}   an env record (`rtlaunch env ls`), data the
//             text of JSON, layers only of the caller's own records, which `keys` names: [hex...]
//   env       {"op", "id"} → {"key", "record"}           id: a key's prefix (at least 4 digits), or
//             a hold's name
//   envs      {"op"} → events {"event": "env", "env": {"id", "name", "bytes", "created",
//   "last_used",
//             "in_use", "kept_by", "layers": [hex...], "what"}}, then the answer; the caller's own,
//             root gets everybody's
//   forget    {"op", "ids": [prefix...]} → {"removed": [{"id", "bytes", "layers_kept"}...]}   the
//             caller's environments, and what only they need
//   hold      {"op", "name", "env": id, "ttl": seconds, 0 for ever}; the same name again renews
//   release   {"op", "name"}
//   holds     {"op"} → {"holds": [{"name", "env", "uid", "ttl", "expires"}...]}
//   adopt     {"op"}   root; a record has been written by somebody else (workers.h): look at it
//   pin       {"op", "env": id, "pinned": bool}          root; a pin has no owner, others hold
//   ps        {"op", "all": bool} → {"workers": [{"id", "uid", "name", "env", "pid", "since",
//             "state", "cpu_us", "memory", "processes", "status", "ended"}...]}; the caller's own,
//             root sees everybody's; `all`: the ended ones too. Times in microseconds since 1970.
//   logs      {"op", "worker", "follow": bool} → events {"event": "log", "line": {...}}, then the
//             answer; without "worker" all that the caller may see. Follows till the worker ended.
//   enter     {"op", "worker"} + fds as start → {"pid", "steps", "controls"}  own workers, or root
//   kill      {"op", "worker", "signal"}   to the worker's pid 1: SIGKILL ends all, others are
//             forwarded to the command
//   status    {"op"} → {"status": {...}}   the daemon's own numbers; of no other user's workers
//   limits    {"op", "max_bytes", "min_free", "max_inodes", "max_age"}  root; absent keeps
//             → {"max_bytes", ...} as they are now; 0 for none
//   collect   {"op"}                                                     root; in the background
//
// `worker` may be a prefix of an id, of at least 4 digits.
// An error is {"step", "errno", "object", "reason", "cure", "exit_code", "again": bool}: `again`
// says that the same request may simply be sent again (a restart was under way, a queue full).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::protocol {

inline constexpr int kVersion = 1;
inline constexpr size_t kMaxFrame = 1 << 20;
inline constexpr size_t kMaxFds = 8;
inline constexpr size_t kStartFds = 5;  // document, stdin, stdout, stderr, line
inline constexpr char kDefaultSocket[] = "/run/rtlaunch/rtlaunchd.sock";

// A frame's bytes, length first.
std::string framed(std::string_view json);

// Takes frames out of a byte stream, whatever pieces it comes in.
class FrameReader {
 public:
  explicit FrameReader(size_t most = kMaxFrame) : most_(most) {}
  void allow(size_t most) { most_ = most; }
  void feed(std::string_view bytes) { buffer_ += bytes; }
  // Nothing until a whole frame is there. Error EMSGSIZE: too long; the stream is of no use then.
  Result<std::optional<std::string>> next();
  bool has_frame() const;                             // next() would have one, or an error
  bool in_frame() const { return !buffer_.empty(); }  // a client that stops here is slow or gone
  size_t held() const { return buffer_.size(); }

 private:
  size_t most_;
  std::string buffer_;
};

// sendmsg/recvmsg with descriptors. Non-blocking sockets: EAGAIN is an Error with that code.
// The descriptors go with the first byte; what is left unsent is sent without them.
Result<size_t> send_with_fds(int socket, std::string_view bytes, const std::vector<int>& fds);
// 0 at end of file. More than kMaxFds, or MSG_CTRUNC: an Error; `fds` has those that came.
Result<size_t> receive_with_fds(int socket, char* buffer, size_t size, std::vector<UniqueFd>* fds);

// A request, checked: what isn't in `op`'s list above was refused, names and numbers are in bounds.
enum class Op {
  kHello,
  kLookup,
  kMake,
  kStart,
  kRemember,
  kEnv,
  kHold,
  kRelease,
  kHolds,
  kPin,
  kPs,
  kLogs,
  kEnter,
  kKill,
  kStatus,
  kLimits,
  kCollect,
  kEnvs,
  kForget,
  kProfile,
  kAdopt,
  kGrant,
};
const char* name_of(Op op);

struct Request {
  Op op = Op::kHello;
  int64_t version = 0;
  std::string client, env, name, key, data, id, worker, profile, job, shape;
  std::map<std::string, std::string> controls, labels, assumed;
  std::vector<std::string> keys, fields, layers, ids;
  bool all = false, follow = false, pinned = false;
  int64_t ttl = 0, signal = 0;
  std::optional<int64_t> max_bytes, min_free, max_inodes, max_age;
  std::optional<std::pair<uid_t, gid_t>> user;
};
Result<Request> parse_request(std::string_view json);
size_t fds_of(Op op);  // how many descriptors come with a request

// The error of an answer, both ways. Reasons and cures carry no secret already.
std::string error_answer(const Error& error, bool again);
struct Refusal {
  Error error;
  bool again = false;
};
// Of an answer; nothing when it has ok true. An Error when it is no answer at all.
Result<std::optional<Refusal>> parse_refusal(std::string_view json);

}  // namespace rtlaunch::protocol
