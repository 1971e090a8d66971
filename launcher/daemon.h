// rtlaunchd's options and the folders it lives in.
//
//   RUNTIME/            0755; --runtime DIR, /run/rtlaunch by default
//     rtlaunchd.sock    0666, unless --socket says otherwise
//     rtlaunchd.sock.policy  0644, beside the socket: what nodes of Ray look at (ray_node.h)
//     lock              flocked by the daemon that lives here; a second one refuses
//     workers/<id>      workers.h, 0700
//     log/              journal.h, 0700
#pragma once

#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"
#include "launcher/journal.h"

namespace rtlaunch {

struct DaemonOptions {
  std::string store = "/var/lib/rtlaunch";
  std::string runtime = "/run/rtlaunch";
  std::string socket;  // RUNTIME/rtlaunchd.sock
  std::string plugins = "/etc/rtlaunch/plugins";
  std::string policy;  // "": config::kPolicyFile, or the built-in one where that isn't there
  std::string metrics = "127.0.0.1:9469";
  std::string cgroup;  // SpawnerConfig's
  Level log_level = Level::kInfo;
  int drain_seconds = 20;  // that builds have after SIGTERM
  bool help = false, version = false;
};
// Strict: unknown options are errors that suggest the nearest. `args` without the program's name.
Result<DaemonOptions> parse_daemon_options(const std::vector<std::string>& args);
extern const char kDaemonUsage[];

// Makes the folders. Fails when we aren't root, or somebody else could write there.
Status make_runtime(const std::string& runtime);
// The flock on RUNTIME/lock. EBUSY: another daemon lives here.
Result<UniqueFd> lock_runtime(const std::string& runtime);
// Of --cgroup: what was asked for by name is had, or we don't start.
Status check_cgroup(const std::string& path);
// Bound and listening, in place of a stale one. Whoever holds the lock may: no other daemon lives.
Result<UniqueFd> listen_at(const std::string& path);
// As many descriptors as the kernel lets us have, up to `wanted`; returns how many that is.
size_t raise_descriptor_limit(size_t wanted);
// Of this process, in bytes (proc(5)).
int64_t resident_bytes();

}  // namespace rtlaunch
