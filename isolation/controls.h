// How a worker is shut in beyond its mounts and namespaces, and what came of it. Each control is
// off, preferred (applied where this host can, else the report says why not) or required (a host
// that can't is no place for this launch: Error with step "control" and its name as object). A
// Controls only says what is wanted; whoever fills it in has made it from a policy.
//
//   spec.controls = Controls::of(FilterBase::kMl);
//   spec.controls.memory_bytes = {Want::kRequire, 512 << 20};
//   for (const Applied& one : sandbox.applied()) ...  // every control that was wanted, once
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

enum class Want : uint32_t { kOff, kPrefer, kRequire };

enum class Control : uint32_t {
  kCapabilities,  // always
  kNoNewPrivs,    // always
  kSeccomp,
  kLandlockFiles,
  kLandlockPorts,
  kLandlockScopes,
  kLandlockSignals,
  kKeyring,
  kResources,  // rlimits
  kMemory,
  kSwap,
  kPids,
  kCpu,
  kCpuWeight,
  kIoWeight,
  kHidePid,
  kSysMasks,
  kDevices,
  kTimeNamespace,
  kUserNamespace,
  kCount,
};

// "seccomp", "landlock_files" ...: as a policy and a report spell it.
const char* control_name(Control control);
std::optional<Control> control_named(std::string_view name);

// kOpen: all that the kernel has, but for `deny` and the guards.
enum class FilterBase : uint32_t { kStrict, kMl, kDebug, kRay, kBuild, kOpen };

// What is refused by its arguments (seccomp_rules.h). Bits.
enum Guards : uint32_t {
  kGuardNamespaces = 1,   // clone and unshare with CLONE_NEW*
  kGuardTerminal = 2,     // TIOCSTI, TIOCLINUX
  kGuardFamilies = 4,     // sockets but unix, inet, inet6, netlink's route
  kGuardPersonality = 8,  // but in base kDebug
  kGuardForeign = 16,     // calls of another architecture: killed. Always, but for kOpen
  kAllGuards = 31,
};

// Which system calls (seccomp.h). What is in `deny` fails with EPERM; it goes before `allow`.
struct FilterRules {
  FilterBase base = FilterBase::kMl;
  std::vector<std::string> allow, deny;  // by name
  uint32_t guards = kAllGuards;
  bool operator==(const FilterRules&) const = default;
};

struct Filter {
  Want want = Want::kOff;
  FilterRules rules;
  std::string program;  // compile(rules), by whoever has it already; never sent by a caller
};

// Landlock, over what the mounts show: `read` may be read and executed, `write` everything, nothing
// else anything. Paths inside; what isn't there is passed over.
struct FileRules {
  Want want = Want::kOff;
  std::vector<std::string> read, write;
};

// TCP ports that may be connected to and listened at; none beside them.
struct PortRules {
  Want want = Want::kOff;
  std::vector<uint32_t> connect, bind;
};

struct Amount {
  Want want = Want::kOff;
  uint64_t value = 0;
};

// An rlimit; ~0 is "unlimited". It never raises what the launcher itself has as hard limit.
struct Resource {
  uint32_t number = 0;  // RLIMIT_*
  uint64_t soft = 0, hard = 0;
};

// Host devices that the private /dev shows beside the usual ones: paths below /dev. Each must be a
// character device, and none of the kernel's memory, ports or log.
struct DeviceGrants {
  Want want = Want::kOff;  // kPrefer: what isn't there is passed over
  std::vector<std::string> paths;
};

struct Controls {
  Filter seccomp;
  FileRules files;
  PortRules ports;
  Want scopes = Want::kOff;   // no abstract unix socket of who is outside
  Want signals = Want::kOff;  // none to who is outside, pid 1 among them: kill(1, 0) fails, too
  Want keyring = Want::kOff;  // an empty session keyring of its own
  Want resources_want = Want::kOff;
  std::vector<Resource> resources;
  // cgroup2; memory takes all processes of the sandbox at once when it is full (memory.oom.group).
  Amount memory_bytes, swap_bytes, pids;
  Amount cpu_millis;             // 1000: one CPU's time
  Amount cpu_weight, io_weight;  // 1 to 10000, 100 is everybody's
  Want hide_pid = Want::kOff;    // /proc shows only processes that the worker could trace
  Want sys_masks = Want::kOff;   // firmware, debugging, power meters below /sys are empty
  DeviceGrants devices;
  Want time_namespace = Want::kOff;  // uptime and boot time begin with the worker
  Want user_namespace = Want::kOff;  // its own, without capabilities; rootless ones have it anyhow

  // What is on if nobody says otherwise.
  static Controls of(FilterBase base);
  bool wants_cgroup() const;
};

struct Applied {
  Control control;
  bool applied;
  std::string why;  // when it wasn't
};

// Keeps account of a launch; shared by pid 1 and its worker, which borrows its memory.
class ControlLog {
 public:
  // Of a control that is wanted: what came of it. An Error goes through when it was required.
  Status took(Control control, Want want, Status status);
  const std::vector<Applied>& all() const { return all_; }
  // Instead of all that it has: what a copy of it has come to.
  void replace(std::vector<Applied> all) { all_ = std::move(all); }

 private:
  std::vector<Applied> all_;
};

// The launcher's variables that a worker may inherit: names, or beginnings of names with `*` after
// them ("LC_*"). LD_* never is, whatever `allowed` says. "KEY=VALUE" entries.
std::vector<std::string> keep_allowed(const std::vector<std::string>& env,
                                      const std::vector<std::string>& allowed);

}  // namespace rtlaunch::isolation
