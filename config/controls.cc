#include "config/controls.h"

#include <algorithm>
#include <iterator>

#include "config/address.h"

namespace rtlaunch::config {
namespace {

constexpr Control kControls[] = {
    {"private_tmp", "/tmp and /var/tmp are the worker's own", &Profile::private_tmp},
    {"private_dev", "/dev has a few harmless nodes, and what `devices` grants",
     &Profile::private_dev},
    {"private_ipc", "System V ipc, message queues and /dev/shm are its own", &Profile::private_ipc},
    {"own_hostname", "its own uts namespace", &Profile::own_hostname},
    {"read_only_root", "the host's files are read-only, but for the caller's home",
     &Profile::read_only_root},
    {"masked_proc", "kcore, keys, kmsg and such are hidden in /proc; bus, fs, irq, sys read-only",
     &Profile::masked_proc},
    {"own_processes", "it sees no process but its own", &Profile::own_processes, Unit::kNone, true},
    {"no_new_privileges", "no setuid program gives it any right", &Profile::no_new_privileges,
     Unit::kNone, true},
    {"no_home", "the caller's home is read-only as well", &Profile::no_home},
    {"own_clock", "its own time namespace: no uptime of the host's", &Profile::own_clock},
    {"own_keyring", "a session keyring of its own; keyctl and its kin are refused",
     &Profile::own_keyring},
    {"own_user", "a user namespace of its own", &Profile::own_user},
    {"no_capabilities", "not even the few capabilities that root's workers keep",
     &Profile::no_capabilities},
    {"no_new_namespaces", "no unshare, no setns, no clone with CLONE_NEW*",
     &Profile::no_new_namespaces},
    {"no_mounts", "no mount, old or new, no pivot_root", &Profile::no_mounts},
    {"no_debug", "no ptrace, process_vm_*, pidfd_getfd, kcmp, perf", &Profile::no_debug},
    {"no_io_uring", "no io_uring, which goes around filters", &Profile::no_io_uring},
    {"no_userfaultfd", "no userfaultfd", &Profile::no_userfaultfd},
    {"no_bpf", "no bpf", &Profile::no_bpf},
    {"no_terminal_input", "nothing is typed into the terminal: TIOCSTI, TIOCLINUX",
     &Profile::no_terminal_input},
    {"common_sockets", "sockets are unix, inet, inet6 and netlink's route, no others",
     &Profile::common_sockets},
    {"no_foreign_code", "system calls of another architecture end the worker",
     &Profile::no_foreign_code},
    {"no_outside_signals", "no signal to a process outside (Landlock, Linux 6.12)",
     &Profile::no_outside_signals},
    {"no_outside_sockets", "no abstract unix socket from outside (Landlock, Linux 6.12)",
     &Profile::no_outside_sockets},
    {"syscalls", "an allow-list of system calls", &Profile::syscalls},
    {"files", "paths that may be read, and changed (Landlock)", &Profile::files},
    {"ports", "TCP ports that may be connected to, and bound (Landlock, Linux 6.7)",
     &Profile::ports},
    {"network", "none; job: shared by a job's workers; egress: out to the named places; host",
     &Profile::network},
    {"memory", "bytes (memory.max)", &Profile::memory, Unit::kBytes},
    {"swap", "bytes (memory.swap.max)", &Profile::swap, Unit::kBytes},
    {"pids", "processes and threads (pids.max)", &Profile::pids, Unit::kCount},
    {"cpus", "CPUs' worth of time (cpu.max)", &Profile::cpus, Unit::kCpus},
    {"cpu_weight", "share of CPU time, 1 to 10000 (cpu.weight)", &Profile::cpu_weight,
     Unit::kWeight},
    {"io_weight", "share of I/O, 1 to 10000 (io.weight)", &Profile::io_weight, Unit::kWeight},
    {"tmp_bytes", "size of a private /tmp", &Profile::tmp_bytes, Unit::kBytes},
    {"upper_bytes", "size of what is written into layers and the working_dir",
     &Profile::upper_bytes, Unit::kBytes},
    {"shm_bytes", "size of a private /dev/shm", &Profile::shm_bytes, Unit::kBytes},
    {"rlimits", "setrlimit(2)'s, by name", &Profile::rlimits},
    {"environment", "the caller's variables that reach it; env_vars all do", &Profile::environment},
    {"devices", "nodes in a private /dev beside the harmless ones", &Profile::devices},
    {"uids", "a user id for each job, out of this range", &Profile::uids},
};

template <typename Value>
bool both_want(const Value& a, const Value& b) {
  return a.want != Want::kOff && b.want != Want::kOff;
}

template <typename Value>
const Value& wanted(const Value& a, const Value& b) {
  return a.want == Want::kOff ? b : a;
}

// Sorted, and without what another one says already.
template <typename T, typename Implies>
void keep_widest(std::vector<T>& list, Implies implies) {
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  std::vector<T> kept;
  for (const T& one : list) {
    bool said = std::any_of(list.begin(), list.end(),
                            [&](const T& other) { return !(other == one) && implies(other, one); });
    if (!said) kept.push_back(one);
  }
  list = std::move(kept);
}

std::vector<std::string> sorted(std::vector<std::string> list) {
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  return list;
}

std::vector<PortRange> joined(std::vector<PortRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<PortRange> whole;
  for (const PortRange& range : ranges) {
    if (!whole.empty() && range.first <= static_cast<uint32_t>(whole.back().last) + 1) {
      whole.back().last = std::max(whole.back().last, range.last);
    } else {
      whole.push_back(range);
    }
  }
  return whole;
}

std::vector<PortRange> common(const std::vector<PortRange>& a, const std::vector<PortRange>& b) {
  std::vector<PortRange> ranges;
  for (const PortRange& x : a) {
    for (const PortRange& y : b) {
      PortRange range{std::max(x.first, y.first), std::min(x.last, y.last)};
      if (range.first <= range.last) ranges.push_back(range);
    }
  }
  return joined(std::move(ranges));
}

template <typename T, typename Covers>
std::vector<T> narrower_of_both(const std::vector<T>& a, const std::vector<T>& b, Covers wider) {
  std::vector<T> both;
  auto add = [&](const std::vector<T>& from, const std::vector<T>& by) {
    for (const T& one : from) {
      if (std::any_of(by.begin(), by.end(), [&](const T& other) { return wider(other, one); })) {
        both.push_back(one);
      }
    }
  };
  add(a, b);
  add(b, a);
  keep_widest(both, wider);
  return both;
}

bool ports_within(const Destination& inner, const Destination& outer) {
  return outer.first_port <= inner.first_port && inner.last_port <= outer.last_port;
}

bool reaches_all_of(const Destination& wide, const Destination& narrow) {
  bool protocol = wide.protocol == Destination::Protocol::kAny || wide.protocol == narrow.protocol;
  return protocol && ports_within(narrow, wide) && host_within(narrow.host, wide.host);
}

void add_common(const Destination& a, const Destination& b, std::vector<Destination>& both) {
  constexpr auto kAny = Destination::Protocol::kAny;
  if (a.protocol != b.protocol && a.protocol != kAny && b.protocol != kAny) return;
  bool inner = host_within(a.host, b.host);
  if (!inner && !host_within(b.host, a.host)) return;
  Destination common;
  common.host = inner ? a.host : b.host;
  common.protocol = a.protocol == kAny ? b.protocol : a.protocol;
  common.first_port = std::max(a.first_port, b.first_port);
  common.last_port = std::min(a.last_port, b.last_port);
  if (common.first_port <= common.last_port) both.push_back(std::move(common));
}

std::vector<std::string> readable(const Files& files) {
  std::vector<std::string> all = files.read;
  all.insert(all.end(), files.write.begin(), files.write.end());
  return all;
}

}  // namespace

std::span<const Control> controls() { return kControls; }

const Control* find_control(std::string_view name) {
  for (const Control& control : kControls) {
    if (name == control.name) return &control;
  }
  return nullptr;
}

std::vector<std::string> control_names() {
  std::vector<std::string> names;
  for (const Control& control : kControls) names.emplace_back(control.name);
  return names;
}

size_t index_of(const Control& control) { return static_cast<size_t>(&control - kControls); }

bool matches(std::string_view pattern, std::string_view word) {
  if (!pattern.ends_with('*')) return pattern == word;
  pattern.remove_suffix(1);
  return word.starts_with(pattern);
}

bool covers(std::string_view wide, std::string_view narrow) {
  if (!wide.ends_with('*')) return wide == narrow;
  if (narrow.ends_with('*')) narrow.remove_suffix(1);
  return matches(wide, narrow);
}

bool is_at_or_below(std::string_view path, std::string_view folder) {
  if (folder == "/") return path.starts_with('/');
  return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
}

std::vector<std::string> common_patterns(const std::vector<std::string>& a,
                                         const std::vector<std::string>& b) {
  return narrower_of_both(a, b, [](const std::string& wide, const std::string& narrow) {
    return covers(wide, narrow);
  });
}

std::vector<std::string> common_paths(const std::vector<std::string>& a,
                                      const std::vector<std::string>& b) {
  return narrower_of_both(a, b, [](const std::string& folder, const std::string& path) {
    return is_at_or_below(path, folder);
  });
}

void tidy(Names& value) {
  if (value.want == Want::kOff) value.names.clear();
  value.names = common_patterns(value.names, value.names);
}

void tidy(Grants& value) { value.names = common_patterns(value.names, value.names); }

// A call that is denied is not allowed, whatever else is said.
void tidy(Syscalls& value) {
  if (value.want == Want::kOff) value = Syscalls();
  value.allow = sorted(std::move(value.allow));
  value.deny = sorted(std::move(value.deny));
  std::erase_if(value.allow, [&](const std::string& name) {
    return std::binary_search(value.deny.begin(), value.deny.end(), name);
  });
}

// What may be changed may be read.
void tidy(Files& value) {
  if (value.want == Want::kOff) value = Files();
  value.write = common_paths(value.write, value.write);
  value.read = common_paths(value.read, value.read);
  std::erase_if(value.read, [&](const std::string& path) {
    return std::any_of(value.write.begin(), value.write.end(),
                       [&](const std::string& folder) { return is_at_or_below(path, folder); });
  });
}

void tidy(Ports& value) {
  if (value.want == Want::kOff) value = Ports();
  value.connect = joined(std::move(value.connect));
  value.bind = joined(std::move(value.bind));
}

void tidy(Network& value) {
  if (value.want == Want::kOff) value = Network();
  if (value.mode != Network::Mode::kEgress) value.destinations.clear();
  keep_widest(value.destinations, reaches_all_of);
}

Want meet(Want a, Want b) { return std::max(a, b); }

Amount meet(const Amount& a, const Amount& b) {
  if (!both_want(a, b)) return wanted(a, b);
  return {meet(a.want, b.want), std::min(a.value, b.value)};
}

Names meet(const Names& a, const Names& b) {
  if (!both_want(a, b)) return wanted(a, b);
  return {meet(a.want, b.want), common_patterns(a.names, b.names)};
}

Grants meet(const Grants& a, const Grants& b) { return {common_patterns(a.names, b.names)}; }

Syscalls meet(const Syscalls& a, const Syscalls& b) {
  if (!both_want(a, b)) return wanted(a, b);
  Syscalls both{meet(a.want, b.want), std::min(a.base, b.base), {}, a.deny};
  std::set_intersection(a.allow.begin(), a.allow.end(), b.allow.begin(), b.allow.end(),
                        std::back_inserter(both.allow));
  both.deny.insert(both.deny.end(), b.deny.begin(), b.deny.end());
  tidy(both);
  return both;
}

Files meet(const Files& a, const Files& b) {
  if (!both_want(a, b)) return wanted(a, b);
  Files both{meet(a.want, b.want), common_paths(readable(a), readable(b)),
             common_paths(a.write, b.write)};
  tidy(both);
  return both;
}

Ports meet(const Ports& a, const Ports& b) {
  if (!both_want(a, b)) return wanted(a, b);
  return {meet(a.want, b.want), common(a.connect, b.connect), common(a.bind, b.bind)};
}

Network meet(const Network& a, const Network& b) {
  if (!both_want(a, b)) return wanted(a, b);
  Network both{meet(a.want, b.want), std::min(a.mode, b.mode), {}};
  if (a.mode == Network::Mode::kEgress && b.mode == Network::Mode::kEgress) {
    for (const Destination& x : a.destinations) {
      for (const Destination& y : b.destinations) add_common(x, y, both.destinations);
    }
  } else if (both.mode == Network::Mode::kEgress) {
    both.destinations = a.mode == both.mode ? a.destinations : b.destinations;
  }
  tidy(both);
  return both;
}

ResourceLimits meet(const ResourceLimits& a, const ResourceLimits& b) {
  if (!both_want(a, b)) return wanted(a, b);
  ResourceLimits both{meet(a.want, b.want), a.values};
  for (const auto& [name, value] : b.values) {
    auto [at, added] = both.values.emplace(name, value);
    if (!added) at->second = std::min(at->second, value);
  }
  return both;
}

UidRange meet(const UidRange& a, const UidRange& b) {
  if (!both_want(a, b)) return wanted(a, b);
  uint64_t first = std::max(a.first, b.first);
  uint64_t end = std::min<uint64_t>(uint64_t{a.first} + a.count, uint64_t{b.first} + b.count);
  UidRange both{meet(a.want, b.want), 0, 0};
  if (first < end) {
    both.first = static_cast<uint32_t>(first);
    both.count = static_cast<uint32_t>(end - first);
  }
  return both;
}

void tighten(const Control& control, Profile* profile, const Profile& bound) {
  std::visit([&](auto member) { profile->*member = meet(profile->*member, bound.*member); },
             control.member);
}

void copy(const Control& control, Profile* profile, const Profile& from) {
  std::visit([&](auto member) { profile->*member = from.*member; }, control.member);
}

bool same(const Control& control, const Profile& a, const Profile& b) {
  return std::visit([&](auto member) { return a.*member == b.*member; }, control.member);
}

bool within(const Control& control, const Profile& asked, const Profile& bound) {
  return std::visit(
      [&](auto member) { return meet(asked.*member, bound.*member) == asked.*member; },
      control.member);
}

}  // namespace rtlaunch::config
