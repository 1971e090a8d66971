#include "isolation/landlock.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "isolation/sys/files.h"
#include "isolation/sys/landlock.h"

namespace rtlaunch::isolation {
namespace {

constexpr int kFilesSince = 1, kPortsSince = 4, kScopesSince = 6;

struct Wanted {
  Control control;
  Want want;
  int since;  // Landlock ABI
};

bool is_on(const Wanted& wanted, int abi) {
  return wanted.want != Want::kOff && abi >= wanted.since;
}

Status lacks(const Wanted& wanted, int abi) {
  if (wanted.want == Want::kOff || abi >= wanted.since) return {};
  std::string have = abi == 0 ? "none" : "version " + std::to_string(abi);
  return Error{
      "landlock", EOPNOTSUPP,
      "",         "it takes Landlock " + std::to_string(wanted.since) + ", this kernel has " + have,
      "",         125};
}

// --- files ---

Status allow_paths(const std::vector<std::string>& paths, uint64_t rights, sys::Ruleset* rules) {
  for (const std::string& path : paths) {
    Result<UniqueFd> object = sys::open_at(AT_FDCWD, path, O_PATH);
    if (!object && (object.error().code == ENOENT || object.error().code == EACCES)) continue;
    if (!object) return object.error();
    struct stat info;
    if (::fstat(object->get(), &info) != 0) return sys_error("stat", path);
    uint64_t possible = S_ISDIR(info.st_mode) ? ~uint64_t{0} : sys::kOnFiles;
    TRY(rules->allow_beneath(object->get(), rights & possible));
  }
  return {};
}

bool covers(const std::vector<std::string>& paths, const char* path) {
  return std::any_of(paths.begin(), paths.end(),
                     [&](const std::string& allowed) { return sys::is_beneath(path, allowed); });
}

bool opens(const char* path, int flags) {
  UniqueFd fd(::open(path, flags | O_CLOEXEC));
  return fd.valid() || errno != EACCES;
}

Status check_files(const FileRules& rules) {
  bool reads = covers(rules.read, "/") || covers(rules.write, "/");
  bool writes = covers(rules.write, "/proc/self/comm");
  if ((reads || !opens("/", O_RDONLY | O_DIRECTORY)) &&
      (writes || !opens("/proc/self/comm", O_WRONLY))) {
    return {};
  }
  return make_error("landlock", "files", "what the rules forbid is possible");
}

// --- ports ---

Status allow_ports(const PortRules& ports, sys::Ruleset* rules) {
  for (uint32_t port : ports.connect) TRY(rules->allow_port(port, sys::kConnectTcp));
  for (uint32_t port : ports.bind) TRY(rules->allow_port(port, sys::kBindTcp));
  return {};
}

// An address that nobody has (RFC 5737): without rules the answer is EADDRNOTAVAIL.
Status check_ports(const PortRules& ports) {
  uint16_t port = 1;
  while (std::count(ports.bind.begin(), ports.bind.end(), port) != 0) ++port;
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(0xc0000201);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return {};  // a kernel without IPv4
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 &&
      errno == EACCES) {
    return {};
  }
  return make_error("landlock", "ports", "what the rules forbid is possible");
}

// --- scopes ---

// An abstract socket from before the rules, which lies outside of them.
class Outsider {
 public:
  static Result<Outsider> make() {
    Outsider outsider;
    outsider.fd_ = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sa_family_t any = AF_UNIX;  // the kernel gives it a name (unix(7), autobind)
    outsider.size_ = sizeof outsider.address_;
    auto* address = reinterpret_cast<sockaddr*>(&outsider.address_);
    if (!outsider.fd_.valid() ||
        ::bind(outsider.fd_.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) != 0 ||
        ::getsockname(outsider.fd_.get(), address, &outsider.size_) != 0) {
      return sys_error("landlock", "abstract socket");
    }
    return outsider;
  }
  Status check_out_of_reach() const {
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    auto* address = reinterpret_cast<const sockaddr*>(&address_);
    if (fd.valid() && ::connect(fd.get(), address, size_) != 0 && errno == EPERM) return {};
    return make_error("landlock", "scopes", "what they forbid is possible");
  }

 private:
  UniqueFd fd_;
  struct sockaddr_un address_ = {};
  socklen_t size_ = 0;
};

// --- all of it ---

Status restrict(const Controls& controls, const sys::Ruleset::Handled& handled) {
  std::optional<Outsider> outsider;
  if (handled.scopes & sys::kScopeSockets) outsider = TRY(Outsider::make());
  sys::Ruleset rules = TRY(sys::Ruleset::make(handled));
  if (handled.files != 0) {
    TRY(allow_paths(controls.files.read, handled.files & sys::kReadFiles, &rules));
    TRY(allow_paths(controls.files.write, handled.files, &rules));
  }
  if (handled.ports != 0) TRY(allow_ports(controls.ports, &rules));
  TRY(rules.restrict_self());
  if (handled.files != 0) TRY(check_files(controls.files));
  if (handled.ports != 0) TRY(check_ports(controls.ports));
  return outsider ? outsider->check_out_of_reach() : Status();
}

}  // namespace

Status take_landlock(const Controls& controls, ControlLog* log) {
  const Wanted files = {Control::kLandlockFiles, controls.files.want, kFilesSince};
  const Wanted ports = {Control::kLandlockPorts, controls.ports.want, kPortsSince};
  const Wanted scopes = {Control::kLandlockScopes, controls.scopes, kScopesSince};
  const Wanted signals = {Control::kLandlockSignals, controls.signals, kScopesSince};
  const Wanted* all[] = {&files, &ports, &scopes, &signals};
  if (std::all_of(std::begin(all), std::end(all),
                  [](const Wanted* one) { return one->want == Want::kOff; })) {
    return {};
  }
  int abi = sys::landlock_abi();
  sys::Ruleset::Handled handled;
  if (is_on(files, abi)) handled.files = sys::all_file_rights(abi);
  if (is_on(ports, abi)) handled.ports = sys::kBindTcp | sys::kConnectTcp;
  // The pid namespace holds signals already, and kill(1, 0) is how programs ask for life.
  if (is_on(scopes, abi)) handled.scopes = sys::kScopeSockets;
  if (is_on(signals, abi)) handled.scopes |= sys::kScopeSignals;
  bool any = handled.files != 0 || handled.ports != 0 || handled.scopes != 0;
  if (any) TRY(restrict(controls, handled));
  for (const Wanted* one : all) TRY(log->took(one->control, one->want, lacks(*one, abi)));
  return {};
}

}  // namespace rtlaunch::isolation
