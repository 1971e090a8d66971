// The spawner: the one process that makes namespaces, mounts and children. Small, synchronous,
// single-threaded, no Asio and no spdlog, a program of its own (rtlaunch-spawner) in a mount
// namespace of its own. The daemon talks to it over a SOCK_SEQPACKET pair, one request or reply a
// packet; large things are memfds. It holds no state that matters: killed, it is started again.
//
// It trusts nothing merely because the daemon sent it: every length is checked, and what a caller
// wrote (the launch document) is decoded only in the child that becomes that caller's sandbox, with
// the caller's file system rights (setfsuid(2)), so that a hanging file system hangs that start
// alone. Several starts are in flight at once; each has a deadline.
//
//   Spawner spawner = TRY(Spawner::run(config));      // in the daemon
//   TRY(spawner.send(request));                       // never blocks; EAGAIN: its queue is full
//   ... when spawner.fd() is readable: while (auto reply = TRY(spawner.receive())) ...
//   ... when spawner.pidfd() is readable: it died; all requests in flight get "try again"
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "installers/store/store.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

struct SpawnerConfig {
  std::string program;  // rtlaunch-spawner
  std::string tools;    // the folder of rtlaunch-build and uv
  std::string store;    // of the layers; hidden inside every sandbox
  std::string runtime;  // the daemon's /run/rtlaunch: hidden as well
  // The cgroup2 directory that workers get leaves of their own in, named from the hierarchy's root
  // ("/rtlaunch"); made when missing. Empty: below our own cgroup. No cgroup2: none, no error.
  std::string cgroup = {};
  int start_seconds = 30;  // a start that takes longer is killed
};

struct SpawnRequest {
  enum class Kind : uint32_t {
    kStart,  // a worker: `document` is an encoded Spec (isolation/spec_wire.h)
    kEnter,  // a command inside a running worker: `document` the same, only argv, env and cwd count
    kBuild,  // rtlaunch-build, as root with a clean environment: `arguments`; `document` its stdin,
             // `output` its stdout
  };
  uint64_t id = 0;  // comes back in the reply
  Kind kind = Kind::kStart;
  isolation::User caller;               // whose rights open files, and who the worker runs as
  uid_t owner = 0;                      // who asked: the same, or root
  std::vector<store::Digest> entitled;  // kStart: the layers that `document` may name; those that
                                        // it does are leased in the child, and held by pid 1
  std::vector<std::string> arguments;   // kBuild: of rtlaunch-build, without argv[0]
  std::optional<sys::Limits> limits;    // kStart, kEnter: of who asks, and of what it gets
  std::string shield;    // kStart, kEnter: what `document` is held to (shield.h); needed
  bool idle = false;     // kBuild: nobody waits for it
  bool way_out = false;  // kStart: its network shall have one; known here only to be made ahead
  // kStart, kEnter: close(2) of input, output or error may wait for a server of the caller's own
  // (FUSE, NFS). The spawner then never takes them: see spawn_courier.h.
  bool may_hang = false;
  UniqueFd document;              // a memfd
  UniqueFd input, output, error;  // kStart, kEnter: the worker's stdio, all three;
                                  // kBuild: output and error, /dev/null where there is none
  UniqueFd line;                  // kStart, kEnter: pid 1's end (isolation/line.h)
  UniqueFd record;  // kStart: the worker's file (workers.h), opened O_APPEND: flocked by the
                    // spawner and held by pid 1; see below
  UniqueFd hold;    // kStart: a flock that pid 1 keeps, as a lease (job_user.h)
  UniqueFd target;  // kEnter: pidfd of the worker's pid 1
};

// A kStart's life in its record, one JSON line each, so that a new daemon can adopt it:
//   the daemon writes {"id", "uid", ...} first; the spawner appends {"pid", "start_time", "cgroup"}
//   when pid 1 exists, before it may go on to the exec; pid 1 appends {"status", "ended"} at the
//   end (start_time: field 22 of /proc/PID/stat; ended: seconds since 1970).
// The flock on the file is the truth about pid 1's being alive. Until it has been told to go, pid 1
// dies with the spawner (PDEATHSIG); from then on with its line alone.
struct SpawnReply {
  enum class Kind : uint32_t {
    kStarted,  // exec has happened (kBuild: the process is there)
    kFailed,   // with `error`; nothing is left
    kEnded,    // kBuild and kEnter: with the wait status
  };
  uint64_t id = 0;
  Kind kind = Kind::kStarted;
  pid_t pid = -1;                               // of pid 1, or of the builder; kEnter: of the
                                                // process that serves its line
  UniqueFd pidfd;                               // kStarted
  int status = 0;                               // kEnded
  std::string cgroup;                           // kStarted: its leaf, "" when it has none
  std::vector<isolation::Sandbox::Step> steps;  // kStarted: microseconds each
  std::vector<isolation::Applied> applied;      // kStarted: the controls that were wanted
  Error error;                                  // kFailed
};

class Spawner {
 public:
  // Starts the program. Its stderr is ours.
  static Result<Spawner> run(const SpawnerConfig& config);
  Spawner(Spawner&&) noexcept = default;
  Spawner& operator=(Spawner&&) noexcept;
  // Closes our end, upon which the spawner ends, and reaps it: within a second, or it is killed.
  ~Spawner();

  int fd() const { return socket_.get(); }
  int pidfd() const { return pidfd_.get(); }
  Status send(const SpawnRequest& request);
  // Nothing when there is none now. An Error when the spawner is gone (EPIPE) or talks nonsense.
  // Each request gets kStarted or kFailed, in any order, then kEnter and kBuild a kEnded.
  Result<std::optional<SpawnReply>> receive();

 private:
  Spawner() = default;
  UniqueFd socket_, pidfd_;
};

// The spawner's own main loop, on its end of the pair (descriptor 3). Returns when the daemon's end
// is closed: starts in flight are ended, workers go on.
int serve_spawner(const SpawnerConfig& config, int socket);

}  // namespace rtlaunch
