#include "launcher/shield.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "installers/store/hash.h"
#include "isolation/seccomp.h"
#include "isolation/seccomp_rules.h"
#include "isolation/spec_wire.h"
#include "isolation/sys/files.h"
#include "isolation/wire.h"

namespace rtlaunch {
namespace {

using config::Profile;
using config::Want;
using isolation::Spec;

bool wants(Want want) { return want != Want::kOff; }

// One shape has all of these: where one is wanted, all are given.
bool wants_own_files(const Profile& profile) {
  return wants(profile.private_tmp) || wants(profile.private_dev) || wants(profile.private_ipc) ||
         wants(profile.own_hostname) || wants(profile.read_only_root) || wants(profile.masked_proc);
}

// Where what was required can't be had, nothing starts.
Status unless_required(Want want, const char* control, const char* reason,
                       const char* cure = "use a profile that doesn't require it") {
  if (want != Want::kRequire) return {};
  return Error{"control", EOPNOTSUPP, control, std::string("it is required, but ") + reason,
               cure,      125};
}

// Names are looked up by who makes the network, once it is needed (isolation/net_names.h).
void take_destinations(const config::Network& network, Spec* bound) {
  for (const config::Destination& to : network.destinations) {
    bound->destinations.push_back({to.host, to.first_port, to.last_port,
                                   static_cast<isolation::Destination::Protocol>(to.protocol)});
  }
}

Status take_network(const config::Network& network, Spec* bound) {
  using Mode = config::Network::Mode;
  if (!wants(network.want) || network.mode == Mode::kHost) return {};
  bound->network = isolation::Network::kNone;
  if (network.mode == Mode::kNone) return {};
  if (::geteuid() != 0) {  // none is less than what was preferred, never more
    return unless_required(network.want, "network", "only root can make a network of a job's own",
                           "start it through rtlaunchd, or ask for the network none");
  }
  bound->network =
      network.mode == Mode::kJob ? isolation::Network::kJob : isolation::Network::kEgress;
  take_destinations(network, bound);
  return {};
}

// It becomes part of a file's name, below the caller's own.
std::string plain_job(const std::string& job) {
  bool plain = job.size() <= 64 && std::all_of(job.begin(), job.end(), [](unsigned char c) {
                 return c < 0x80 && (std::isalnum(c) != 0 || c == '-' || c == '_');
               });
  return plain ? job : store::sha256_hex(job);
}

// As passwd(5) has it: what a caller says of its home is only its word.
std::string home_of(uid_t uid) {
  auto text = sys::read_file("/etc/passwd", 64 << 20);
  std::string number = std::to_string(uid), line;
  for (size_t at = 0; text && at < text->size(); at += line.size() + 1) {
    line = text->substr(at, text->find('\n', at) - at);
    std::vector<std::string> parts(1);
    for (char c : line) {
      if (c == ':') parts.emplace_back();
      if (c != ':') parts.back().push_back(c);
    }
    if (parts.size() > 5 && parts[2] == number && parts[5].size() > 1) return parts[5];
  }
  return "";
}

// Whatever links are in it: who makes one gets no more by it.
std::string really(const std::string& path) {
  auto real = sys::real_path(path);
  return real ? *real : path;
}

// Who isn't in passwd(5) has what belongs to him: of root's that would be everything.
bool is_home(uid_t caller, const std::string& path) {
  std::string home = home_of(caller);
  if (!home.empty() && sys::is_beneath(path, really(home))) return true;
  struct stat info;
  return home.empty() && caller != 0 && ::stat(path.c_str(), &info) == 0 && info.st_uid == caller;
}

Error not_yours(const std::string& path, const char* reason) {
  return Error{
      "policy", EACCES, path, reason, "ask for less; rtlaunch policy explain shows what is given",
      125};
}

// Whether a directory of the host may be changed inside.
Status check_writable(const Shield& shield, uid_t caller, const std::string& path) {
  if (shield.mounts && config::allows_path(shield.mounts, path)) return {};
  if (path == "/") return not_yours(path, "the policy has the host's files read-only");
  if (shield.home && !shield.mounts) return {};
  if (shield.home && is_home(caller, path)) return {};
  return not_yours(path, "the policy doesn't let this directory be changed inside");
}

Status check_places(const Shield& shield, uid_t caller, Spec* spec) {
  if (!shield.read_only) return {};
  for (std::string& path : spec->writable) {
    path = really(path);
    TRY(check_writable(shield, caller, path));
  }
  for (isolation::Bind& bind : spec->binds) {
    if (!bind.writable) continue;
    bind.source = really(bind.source);
    TRY(check_writable(shield, caller, bind.source));
  }
  return {};
}

bool has_image(const Spec& spec) {
  return std::any_of(spec.overlays.begin(), spec.overlays.end(), [](const isolation::Overlay& one) {
    return one.target == "/" && !one.over_host;
  });
}

// In the host's root it is there anyhow; an image gets what every image gets (worker.cc). What may
// be changed has been judged.
bool is_there_anyhow(const isolation::Bind& bind, bool image) {
  if (bind.writable) return true;
  if (bind.source != bind.target) return false;
  return !image || bind.source == "/etc/resolv.conf" || bind.source == "/etc/hosts" ||
         bind.source == "/sys";
}

// Where nothing of the host is there anyhow, all of it is brought in.
Status check_brought_into_image(const Shield& shield, const Spec& spec) {
  auto check = [&](const std::string& path) -> Status {
    if (config::allows_path(shield.mounts, really(path))) return {};
    return not_yours(path, "the policy doesn't let this be brought in");
  };
  for (const auto* paths : {&spec.writable, &spec.visible})
    for (const std::string& path : *paths) TRY(check(path));
  for (const isolation::Bind& bind : spec.binds)
    if (bind.writable) TRY(check(bind.source));
  for (const isolation::Overlay& overlay : spec.overlays)
    if (overlay.over_host)
      return not_yours(overlay.target, "images are laid over nothing of the host");
  return {};
}

// What of the host is brought to another place, or into an image, is used in place. Links in it
// that are made from here on aren't followed (isolation/mounts.cc).
Status check_brought(const Shield& shield, const std::string& store, Spec* spec) {
  bool image = has_image(*spec);
  for (isolation::Bind& bind : spec->binds) {
    if (bind.writable || sys::is_beneath(bind.source, store)) continue;
    bool anyhow = is_there_anyhow(bind, image);
    std::string named = std::exchange(bind.source, really(bind.source));
    if (!anyhow && shield.mounts && !config::allows_path(shield.mounts, bind.source))
      return not_yours(named, "the policy doesn't let this be brought in");
  }
  if (!shield.mounts) return {};
  for (const isolation::Overlay& overlay : spec->overlays) {
    for (const std::string& lower : overlay.lowers)
      if (!sys::is_beneath(lower, store)) return not_yours(lower, "is no layer");
  }
  return image ? check_brought_into_image(shield, *spec) : Status();
}

// 0 stands for half of the memory: the most.
uint64_t smaller(uint64_t a, uint64_t b) {
  if (a == 0 || b == 0) return std::max(a, b);
  return std::min(a, b);
}

// --- controls -----------------------------------------------------------------------------------

isolation::Want want_of(Want want) { return static_cast<isolation::Want>(want); }

isolation::Amount amount_of(const config::Amount& amount) {
  return {want_of(amount.want), amount.value};
}

// What each switch takes away of the system calls, whatever list they are on.
struct Taken {
  Want Profile::*by;
  uint32_t guard;
  std::vector<const char*> calls;
};
const std::vector<Taken>& taken() {
  static const std::vector<Taken> kTaken = {
      {&Profile::no_new_namespaces, isolation::kGuardNamespaces, {"setns"}},
      {&Profile::no_terminal_input, isolation::kGuardTerminal, {}},
      {&Profile::common_sockets, isolation::kGuardFamilies, {}},
      {&Profile::no_foreign_code, isolation::kGuardForeign, {}},
      {&Profile::no_mounts,
       0,
       {"mount", "umount2", "pivot_root", "move_mount", "open_tree", "open_tree_attr", "fsopen",
        "fsmount", "fspick", "fsconfig", "mount_setattr"}},
      {&Profile::no_debug,
       0,
       {"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
        "perf_event_open"}},
      {&Profile::no_io_uring, 0, {"io_uring_setup", "io_uring_enter", "io_uring_register"}},
      {&Profile::no_userfaultfd, 0, {"userfaultfd"}},
      {&Profile::no_bpf, 0, {"bpf"}},
      {&Profile::own_keyring, 0, {"keyctl", "add_key", "request_key"}},
  };
  return kTaken;
}

isolation::FilterBase base_of(const config::Syscalls& syscalls) {
  using Base = config::Syscalls::Base;
  if (!wants(syscalls.want)) return isolation::FilterBase::kOpen;
  switch (syscalls.base) {
    case Base::kStrict:
      return isolation::FilterBase::kStrict;
    case Base::kMl:
      return isolation::FilterBase::kMl;
    case Base::kRay:
      return isolation::FilterBase::kRay;
    default:
      return isolation::FilterBase::kDebug;
  }
}

// A call that the base refuses anyhow isn't named again: then the filter is one that is compiled.
isolation::Filter filter_of(const Profile& profile) {
  isolation::Filter filter;
  isolation::FilterRules& rules = filter.rules;
  rules.base = base_of(profile.syscalls);
  rules.allow = profile.syscalls.allow;
  rules.deny = profile.syscalls.deny;
  rules.guards = wants(profile.syscalls.want) ? uint32_t{isolation::kGuardPersonality} : 0;
  Want want = profile.syscalls.want;
  for (const Taken& one : taken()) {
    if (!wants(profile.*one.by)) continue;
    want = std::max(want, profile.*one.by);
    rules.guards |= one.guard;
    for (const char* call : one.calls) {
      if (isolation::verdict(rules, call) == isolation::Verdict::kAllowed)
        rules.deny.push_back(call);
    }
  }
  filter.want = want_of(want);
  return filter;
}

uint32_t limit_number(const std::string& name) {
  static const std::map<std::string, uint32_t> kNumbers = {
      {"as", RLIMIT_AS},           {"core", RLIMIT_CORE},         {"cpu", RLIMIT_CPU},
      {"data", RLIMIT_DATA},       {"fsize", RLIMIT_FSIZE},       {"locks", RLIMIT_LOCKS},
      {"memlock", RLIMIT_MEMLOCK}, {"msgqueue", RLIMIT_MSGQUEUE}, {"nice", RLIMIT_NICE},
      {"nofile", RLIMIT_NOFILE},   {"nproc", RLIMIT_NPROC},       {"rss", RLIMIT_RSS},
      {"rtprio", RLIMIT_RTPRIO},   {"rttime", RLIMIT_RTTIME},     {"sigpending", RLIMIT_SIGPENDING},
      {"stack", RLIMIT_STACK}};
  return kNumbers.at(name);
}

std::vector<uint32_t> ports_of(const std::vector<config::PortRange>& ranges) {
  std::vector<uint32_t> ports;
  for (const config::PortRange& range : ranges) {
    for (uint32_t port = range.first; port <= range.last; ++port) ports.push_back(port);
  }
  return ports;
}

constexpr size_t kMostPorts = 4096;  // each is a rule of Landlock's

Status take_ports(const config::Ports& ports, isolation::Controls* controls) {
  controls->ports = {want_of(ports.want), ports_of(ports.connect), ports_of(ports.bind)};
  if (controls->ports.connect.size() + controls->ports.bind.size() <= kMostPorts) return {};
  controls->ports = {};
  return unless_required(ports.want, "ports", "more than 4096 ports can't be told to the kernel");
}

Result<isolation::Controls> controls_of(const Profile& profile, DeviceFolders* folders) {
  isolation::Controls controls;
  controls.seccomp = filter_of(profile);
  controls.files = {want_of(profile.files.want), profile.files.read, profile.files.write};
  TRY(take_ports(profile.ports, &controls));
  controls.scopes = want_of(profile.no_outside_sockets);
  controls.signals = want_of(profile.no_outside_signals);
  controls.keyring = want_of(profile.own_keyring);
  controls.resources_want = want_of(profile.rlimits.want);
  for (const auto& [name, value] : profile.rlimits.values) {
    controls.resources.push_back({limit_number(name), value, value});
  }
  controls.memory_bytes = amount_of(profile.memory);
  controls.swap_bytes = amount_of(profile.swap);
  controls.pids = amount_of(profile.pids);
  controls.cpu_millis = amount_of(profile.cpus);
  controls.cpu_weight = amount_of(profile.cpu_weight);
  controls.io_weight = amount_of(profile.io_weight);
  controls.sys_masks = want_of(profile.masked_proc);
  controls.hide_pid = want_of(std::min(profile.masked_proc, profile.no_debug));
  controls.time_namespace = want_of(profile.own_clock);
  controls.user_namespace = want_of(profile.own_user);
  controls.devices.paths = granted_devices(profile, folders);
  if (!controls.devices.paths.empty()) controls.devices.want = isolation::Want::kPrefer;
  return controls;
}

constexpr size_t kMostShield = 256 << 10;

std::optional<std::string> from_hex(std::string_view hex) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  if (hex.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    size_t high = kDigits.find(hex[i]), low = kDigits.find(hex[i + 1]);
    if (high == kDigits.npos || low == kDigits.npos) return std::nullopt;
    bytes += static_cast<char>(high << 4 | low);
  }
  return bytes;
}

// As Zygote::can_give() has it of a Spec; shield_test.cc compares.
bool only_the_spawner_makes(const Profile& profile) {
  const config::Amount* limits[] = {&profile.memory, &profile.swap,       &profile.pids,
                                    &profile.cpus,   &profile.cpu_weight, &profile.io_weight};
  bool limited = std::any_of(std::begin(limits), std::end(limits),
                             [](const config::Amount* limit) { return wants(limit->want); });
  bool network =
      wants(profile.network.want) && profile.network.mode != config::Network::Mode::kHost;
  return limited || network || wants_own_files(profile) || wants(profile.no_capabilities) ||
         wants(profile.own_clock) || wants(profile.own_user) || wants(profile.uids.want);
}

}  // namespace

std::string Shape::key() const {
  std::string text = std::string(shared ? "shared" : "host") + (home ? " home" : "");
  if (!environment) return text + " *";
  for (const std::string& name : *environment) text += " " + name;
  return text;
}

Shape shape_of(const Profile& profile) {
  Shape shape{profile.name, !wants_own_files(profile), !wants(profile.no_home), {}};
  shape.copies = !only_the_spawner_makes(profile);
  if (wants(profile.environment.want)) shape.environment = profile.environment.names;
  return shape;
}

// shield_test.cc holds this against the built-in policy. It saves every start the parsing of it.
std::optional<Shape> assumed_shape(const std::string& profile) {
  if (profile.empty() || profile == "ml") return Shape{"ml", false, true, {}};
  if (profile == "ray") return Shape{"ray", true, true, {}, /*copies=*/true};
  return std::nullopt;
}

std::vector<std::string> granted_devices(const Profile& profile, DeviceFolders* folders) {
  if (!wants(profile.private_dev)) return {};
  return folders->devices_of(profile.devices);
}

Result<Shield> shield_of(const config::Verdict& verdict, const std::string& job,
                         DeviceFolders* folders) {
  DeviceFolders none;
  const Profile& profile = verdict.profile;
  Shield shield;
  Spec& bound = shield.bound;
  bound.root = wants_own_files(profile) ? isolation::Root::kHost : isolation::Root::kShared;
  shield.read_only = wants(profile.read_only_root) || wants(profile.no_home);
  shield.home = !wants(profile.no_home);
  shield.keep_caps = !wants(profile.no_capabilities);
  shield.mounts = verdict.allow.mounts;
  if (wants(profile.upper_bytes.want)) bound.upper_bytes = profile.upper_bytes.value;
  if (wants(profile.tmp_bytes.want)) bound.tmp_bytes = profile.tmp_bytes.value;
  if (wants(profile.shm_bytes.want)) bound.shm_bytes = profile.shm_bytes.value;
  TRY(take_network(profile.network, &bound));
  bound.job = plain_job(job);
  bound.controls = TRY(controls_of(profile, folders == nullptr ? &none : folders));
  TRY(unless_required(profile.uids.want, "uids", "only root's workers can be somebody else",
                      "use a profile without uids"));
  return shield;
}

Result<std::string> compiled_filter(const Shield& shield) {
  const isolation::Filter& filter = shield.bound.controls.seccomp;
  bool shipped = !isolation::shipped_filter(filter.rules).empty();
  if (shipped || filter.want == isolation::Want::kOff) return std::string();
  return isolation::compile(filter.rules);
}

std::string encode(const Shield& shield) {
  isolation::Writer out;
  out.flag(shield.home).flag(shield.keep_caps).flag(shield.read_only);
  out.flag(shield.mounts.has_value()).texts(shield.mounts.value_or(std::vector<std::string>()));
  std::string text =
      store::hex_of(out.take()) + ":" + store::hex_of(isolation::encode(shield.bound));
  return shield.filter.empty() ? text : text + ":" + store::hex_of(shield.filter);
}

Result<Shield> decode_shield(std::string_view text) {
  size_t colon = std::min(text.find(':'), text.size());
  auto own = from_hex(text.substr(0, colon));
  text.remove_prefix(std::min(colon + 1, text.size()));
  size_t end = std::min(text.find(':'), text.size());
  auto bound = from_hex(text.substr(0, end));
  auto filter = from_hex(text.substr(std::min(end + 1, text.size())));
  isolation::Reader in(own ? *own : std::string_view());
  Shield shield;
  shield.home = in.flag();
  shield.keep_caps = in.flag();
  shield.read_only = in.flag();
  bool has_mounts = in.flag();
  std::vector<std::string> mounts = in.texts();
  if (!in.done() || !bound || !filter || text.size() > kMostShield) {
    return Error{"spawner", EPROTO, "", "a shield that makes no sense", "", 125};
  }
  shield.filter = std::move(*filter);
  if (has_mounts) shield.mounts = std::move(mounts);
  shield.bound = TRY(isolation::decode(*bound));
  return shield;
}

Status apply(const Shield& shield, uid_t caller, const std::string& store, Spec* spec) {
  const Spec& bound = shield.bound;
  bool own = bound.root == isolation::Root::kHost;
  if (own && spec->root == isolation::Root::kShared) spec->root = isolation::Root::kHost;
  if (own) TRY(check_places(shield, caller, spec));
  TRY(check_brought(shield, store, spec));
  if (bound.network != isolation::Network::kHost && spec->network != isolation::Network::kNone) {
    spec->network = bound.network;
    spec->destinations = bound.destinations;
  }
  spec->job = bound.job;
  spec->shm_bytes = smaller(spec->shm_bytes, bound.shm_bytes);
  spec->upper_bytes = smaller(spec->upper_bytes, bound.upper_bytes);
  spec->tmp_bytes = smaller(spec->tmp_bytes, bound.tmp_bytes);
  spec->keep_caps = spec->keep_caps && shield.keep_caps;
  spec->controls = bound.controls;
  spec->controls.seccomp.program = shield.filter;
  return {};
}

std::string lacking_of(const std::vector<isolation::Applied>& applied) {
  std::string names;
  for (const isolation::Applied& one : applied) {
    if (!one.applied)
      names += (names.empty() ? "" : ", ") + std::string(isolation::control_name(one.control));
  }
  return names;
}

}  // namespace rtlaunch
