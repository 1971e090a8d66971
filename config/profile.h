// How one worker is shut in: the effective profile, after policy, ceiling and request have been put
// together (policy.h). It says what is wanted, not how: isolation/ has the mechanisms, and knows
// nothing of policies; launcher/shield.h maps the one to the other.
//
// Each control is off, preferred or required. A required one that this kernel lacks refuses the
// start, by name; a preferred one is left out, and the report of the launch says so. A Profile that
// nobody filled in asks for nothing.
//
// Tighter and looser: each type below says which of two values lets a worker do less. meet() of two
// profiles (controls.h) lets it do only what both do; that is how a ceiling and a request apply.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rtlaunch::config {

enum class Want : uint8_t { kOff, kPrefer, kRequire };

// "at most `value`". Tighter: less.
struct Amount {
  Want want = Want::kOff;
  uint64_t value = 0;
  bool operator==(const Amount&) const = default;
};

// "nothing but `names`": each a whole name or a beginning with `*` behind it; sorted, no repeats.
// Tighter: fewer.
struct Names {
  Want want = Want::kOff;
  std::vector<std::string> names;
  bool operator==(const Names&) const = default;
};

// Names as above, of what is given beside the rest; what isn't there is no error. Tighter: fewer.
struct Grants {
  std::vector<std::string> names;
  bool operator==(const Grants&) const = default;
};

// The allow-list of system calls: that of `base`, and `allow`, without `deny` (names as in
// syscalls(2), sorted). Each base allows all that the one before it allows.
struct Syscalls {
  enum class Base : uint8_t { kStrict, kMl, kRay, kDebug };
  Want want = Want::kOff;
  Base base = Base::kDebug;
  std::vector<std::string> allow, deny;
  bool operator==(const Syscalls&) const = default;
};

// TCP ports that may be connected to and bound, beside the network itself (Landlock, Linux 6.7).
// Each list is of ranges, sorted; empty: none.
struct PortRange {
  uint16_t first = 0, last = 0;
  bool operator==(const PortRange&) const = default;
  auto operator<=>(const PortRange&) const = default;
};
struct Ports {
  Want want = Want::kOff;
  std::vector<PortRange> connect, bind;
  bool operator==(const Ports&) const = default;
};

// Files, beside what mounts show (Landlock): only what lies below one of `read` may be read and
// run, below one of `write` be changed as well. Absolute paths, sorted. What the sandbox itself
// makes (its /tmp, /dev, /proc, working_dir, layers) is there anyway, as the mounts have it.
struct Files {
  Want want = Want::kOff;
  std::vector<std::string> read, write;
  bool operator==(const Files&) const = default;
};

// none: a loopback of its own. job: a network that the workers of one user's job share, with no way
// out. egress: the same, with a way to `destinations` alone. host: the host's. Each lets a worker
// reach what the one before it does, and more.
struct Destination {
  std::string host;  // an address, a network ("10.0.0.0/8", "2001:db8::/32"), or a name
  uint16_t first_port = 1, last_port = 65535;
  enum class Protocol : uint8_t { kAny, kTcp, kUdp } protocol = Protocol::kAny;
  bool operator==(const Destination&) const = default;
  auto operator<=>(const Destination&) const = default;
};
struct Network {
  enum class Mode : uint8_t { kNone, kJob, kEgress, kHost };
  Want want = Want::kOff;  // off: the host's
  Mode mode = Mode::kHost;
  std::vector<Destination> destinations;  // of kEgress; cloud metadata addresses are never reached
  bool operator==(const Network&) const = default;
};

// setrlimit(2)'s by their names in small letters without RLIMIT_ ("nofile"), soft and hard alike.
// A worker never gets more than its caller has. Tighter: less, and more of them.
struct ResourceLimits {
  Want want = Want::kOff;
  std::map<std::string, uint64_t> values;
  bool operator==(const ResourceLimits&) const = default;
};

// A user id of its own for each job, out of first .. first + count - 1. Tighter: fewer.
struct UidRange {
  Want want = Want::kOff;
  uint32_t first = 0, count = 0;
  bool operator==(const UidRange&) const = default;
};

struct Profile {
  std::string name;  // of the one that was chosen

  // What is the worker's own. Where any of the first six is wanted, all of them are given.
  Want private_tmp = Want::kOff;        // /tmp and /var/tmp
  Want private_dev = Want::kOff;        // a few harmless nodes, and `devices`
  Want private_ipc = Want::kOff;        // System V ipc, message queues, /dev/shm
  Want own_hostname = Want::kOff;       // uts
  Want read_only_root = Want::kOff;     // but for the caller's home
  Want masked_proc = Want::kOff;        // kcore, keys, kmsg ... hidden; bus, fs, irq, sys read-only
  Want own_processes = Want::kRequire;  // pid namespace and /proc; can't be off
  Want no_new_privileges = Want::kRequire;  // can't be off
  Want no_home = Want::kOff;                // the caller's home is read-only too
  Want own_clock = Want::kOff;              // a time namespace
  Want own_keyring = Want::kOff;            // a new, empty session keyring; keyctl is refused
  Want own_user = Want::kOff;  // rootless only has it; root's workers in a user namespace

  // What it may not do. Each is a set of system calls, whatever `syscalls` allows.
  Want no_capabilities = Want::kOff;    // not even the small set that root's workers keep
  Want no_new_namespaces = Want::kOff;  // unshare, setns, clone with CLONE_NEW*
  Want no_mounts = Want::kOff;          // mount(2) and its successors, pivot_root
  Want no_debug = Want::kOff;           // ptrace, process_vm_*, pidfd_getfd, kcmp, perf
  Want no_io_uring = Want::kOff;
  Want no_userfaultfd = Want::kOff;
  Want no_bpf = Want::kOff;
  Want no_terminal_input = Want::kOff;   // TIOCSTI, TIOCLINUX
  Want common_sockets = Want::kOff;      // families unix, inet, inet6 and netlink's route, no other
  Want no_foreign_code = Want::kOff;     // system calls of another architecture: killed
  Want no_outside_signals = Want::kOff;  // Landlock scope (Linux 6.12)
  Want no_outside_sockets = Want::kOff;  // abstract unix sockets: Landlock scope (Linux 6.12)
  Syscalls syscalls;
  Files files;
  Ports ports;
  Network network;

  // How much. Bytes, processes, thousandths of a CPU, weights from 1 to 10000 (cgroup v2).
  Amount memory, swap, pids, cpus, cpu_weight, io_weight;
  Amount tmp_bytes, upper_bytes, shm_bytes;  // sizes of what is private
  ResourceLimits rlimits;

  Names environment;  // variables of the caller's that reach it; env_vars of the request all do
  Grants devices;     // with private_dev: nodes shown beside the harmless ones, "/dev/nvidia*"
  UidRange uids;
  bool operator==(const Profile&) const = default;
};

}  // namespace rtlaunch::config
