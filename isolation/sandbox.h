// One worker, shut in: new mount, pid, ipc and uts namespaces (and a user namespace where the
// caller is not root), the layers mounted where they matter, a pid 1 of our own that reaps and
// forwards.
//
// Shapes of root:
//   kHost   the caller's own root stays `/`, made read-only (nosuid, nodev) but for `writable`;
//           things are mounted over it. No pivot: nothing has to be unmounted on the launch path.
//   kShared the caller's own root as it is: with /tmp, /dev, ipc and uts of the host's, nothing
//   made
//           read-only; only /proc is the sandbox's own, whole. For who lives with other processes
//           of the host's and talks with them by files, as Ray's workers do.
//   With an overlay at `/` (not over the host) both have that as their root, and pivot into it: an
//   image. Every mount point that it lacks is made in its top layer, over whatever the layers have
//   there, links too. What is kHost's own (/tmp, /dev, ...) is as ever; a kShared has a /tmp of its
//   own then, and the host's /dev.
//   kEmpty  a tmpfs root with only what `binds` and `overlays` bring in, then pivot_root. For
//           builds, whose code may see nothing of the caller's.
//
// Caller's rights: who starts a sandbox for another user says so with `caller`. Then every host
// path in the Spec is opened with that user's ids, groups and no capability over files, and
// overlays are made with them too: overlayfs reads its layers with the rights of whoever made the
// mount, so a layer that has a directory of the same name opens no directory of the host that was
// closed to the caller. Layers below `store` are opened as ourselves; whoever fills in the Spec has
// checked that each is one that the caller may use.
//
// The caller of start() owns everything in Spec for the time of the call. start() returns when the
// command has been exec'ed, or with the Error of the step that failed ("step: object: errno"); then
// no process and no mount is left. Killing the calling process, however, ends the sandbox: pid 1
// dies with it. Single-threaded callers only: start() forks. If the caller has closed 0, 1 or 2,
// start() opens /dev/null there, for good.
//
//   Spec spec;
//   spec.argv = {"python", "main.py"};
//   spec.overlays.push_back({.target = "/usr", .lowers = {layer}, .over_host = true});
//   Sandbox sandbox = TRY(start(spec));
//   int status = TRY(sandbox.wait());  // as waitpid(2) gives it
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "isolation/controls.h"
#include "isolation/sys/limits.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// See Spec::goes_on.
inline constexpr int kToldFd = 3;

// A read-only (or, with `writable`, private copy-on-write) stack of directories at `target`.
// Made with fsopen/lowerdir+ (Linux 6.7) or, before that, mount(2) with short names; always
// userxattr in a user namespace, else redirect_dir=nofollow,metacopy=off,index=off; uppers
// volatile, but in the vault. At most 500 lowers (OVL_MAX_STACK).
struct Overlay {
  std::string target;               // absolute; made when it isn't there and lies in one of our own
                                    // directories (never on the host)
  std::vector<std::string> lowers;  // absolute directories, top first
  bool over_host = false;           // what is at `target` already is the lowest lower; mounts
                                    // that lie below it (mountinfo) are put back on top
  bool writable = false;            // an upper on the sandbox's own tmpfs
  std::string upper, work;          // or an upper given by the caller (builds: staging)
  bool report = false;              // what was written here is the caller's: upper_dir()
  bool owned = false;               // with `caller`: what root owns in the lowers, which must all
                                    // be layers of the store, is the caller's here
  std::vector<std::string> mkdirs;  // relative directories to make in the upper: mount points
  bool operator==(const Overlay&) const = default;
};

struct Bind {
  std::string source;  // absolute, on the host
  std::string target;  // absolute, inside; made when missing (kEmpty, or below a tmpfs)
  bool writable = false;
  bool optional = false;  // no error if source isn't there
  bool owned = false;     // as for an Overlay
  bool operator==(const Bind&) const = default;
};

enum class Root { kHost, kEmpty, kShared };
enum class Network { kHost, kNone, kJob, kEgress, kJoined };  // net.h

// What a kEgress may reach.
struct Destination {
  std::string host;  // an address or a network, "10.0.0.0/8", "2001:db8::/32", or a name
  uint16_t first_port = 1, last_port = 65535;
  enum class Protocol : uint8_t { kAny, kTcp, kUdp } protocol = Protocol::kAny;
  bool operator==(const Destination&) const = default;
};

// Whom a command runs as, and with whose rights host paths are opened.
struct User {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
  bool operator==(const User&) const = default;
};

struct Spec {
  std::vector<std::string> argv;  // argv[0] is looked up in env's PATH inside, as execvp does
  std::vector<std::string> env;   // "KEY=VALUE", the whole environment
  std::string cwd = "/";          // inside
  Root root = Root::kHost;
  // Outer paths are mounted before inner ones. Of two at one path the later kind in this list,
  // then the later in its vector, is on top; only `writable` lies below /tmp and such.
  std::vector<std::string> writable;  // kHost: host directories that stay writable
  std::vector<Overlay> overlays;
  std::vector<Bind> binds;
  std::vector<std::string> hidden;   // covered by an empty, read-only directory, e.g. the store
  std::vector<std::string> closed;   // the same, of the launcher's, whatever a caller may see
  std::vector<std::string> visible;  // kHost: host directories under a private one (/tmp, /dev/shm)
                                     // or under a hidden one that are bound back, read-only
  uint64_t upper_bytes = 0;          // size of the uppers' tmpfs; 0: half of the memory
  uint64_t tmp_bytes = 0;            // size of /tmp; 0: half of the memory
  uint64_t shm_bytes = 0;            // of a /dev/shm of its own; 0: half of the memory
  std::optional<User> user;          // run as this one (root only)
  std::optional<User> caller;        // see Caller's rights above; root only
  std::string store;                 // with `caller`: paths below are layers, opened as ourselves
  int id_map = -1;                   // with `owned`: a user namespace, see make_id_map()
  Network network = Network::kHost;
  std::vector<Destination> destinations = {};  // kEgress
  std::string job;         // kJob, kEgress: those of one job, and the same destinations, share
  std::string networks;    // a folder of the launcher's that knows them; "": each is alone
  int network_fd = -1;     // kJoined: the namespace
  int listener_to = -1;    // kNone: a socket for the door of it
  bool keep_caps = false;  // root callers keep the small set (see caps.h); else none
  Controls controls;       // and what else shuts it in
  std::optional<sys::Limits> limits;  // the command's, in place of its launcher's
  std::vector<int> leases;            // descriptors that pid 1 keeps open for its life
  int line = -1;                      // supervised (launch.h): pid 1's end of the line
  int record = -1;                    // supervised: a file to which pid 1 appends how it ended
  int stdin_fd = 0, stdout_fd = 1, stderr_fd = 2;
  std::string hostname;                    // uts; empty: unchanged
  std::vector<std::string> pid1_shown_as;  // pid 1's command line, for a command that looks for it
  std::optional<uint32_t> umask;           // the command's; else start()'s caller's
  bool same_pid = false;     // its pid outside is the same number (same_pid.h), or no start
  bool new_session = false;  // setsid: builds, which must not reach the terminal
  // In place of an exec the command is a copy of the launcher, which goes on here, with descriptors
  // 0-2 and kToldFd: on it it says, once, by report_started() or report_failed(), whether it can be
  // the command, and closes it; `log` is for that. Never returns.
  void (*goes_on)(const Spec& spec, const ControlLog& log) = nullptr;
  bool use_mount2 = false;  // make overlays as before Linux 6.7 (for tests)
};

class Launch;

class Sandbox {
 public:
  Sandbox(Sandbox&&) noexcept;
  Sandbox& operator=(Sandbox&&) noexcept;
  ~Sandbox();  // kills all inside and reaps

  // Forwards `signal` to the command (not to its children).
  Status send(int signal);
  // A descriptor that is readable when the command has ended, and ended() won't block; for poll(2).
  int done_fd() const;
  // The command's wait status, once no process is left of what it has started. pid 1 and the mounts
  // go by themselves; who has to know that they are gone, asks wait().
  Result<int> ended();
  // The command's wait status. All else is killed when it ends; when this returns no process is
  // left, and of a build (kEmpty, or an upper of the caller's) no mount; those of others go soon.
  Result<int> wait();
  // The upper of the overlay with `report`: a directory of what was written, as overlayfs keeps it
  // (whiteouts are char 0:0). Valid after wait() too. -1 when there is none.
  int upper_dir() const;
  // Microseconds that each step of the launch took, in order.
  struct Step {
    std::string name;
    int64_t microseconds;
  };
  const std::vector<Step>& steps() const;
  // Every control that the Spec wanted, and what came of it.
  const std::vector<Applied>& applied() const;
  // After wait(): the limit that the command met, if one did: "out of memory (limit 512M)".
  const std::string& met() const;
  // After wait(), of a network with a way out: packets that it refused (net.h).
  std::optional<uint64_t> refused() const;

 private:
  friend class Ahead;
  friend Result<Sandbox> start(const Spec& spec);
  struct State;
  explicit Sandbox(std::unique_ptr<State> state);
  static Result<Sandbox> of(Launch launch, std::unique_ptr<State> state, bool way_out);
  std::unique_ptr<State> state_;
};

Result<Sandbox> start(const Spec& spec);

}  // namespace rtlaunch::isolation
