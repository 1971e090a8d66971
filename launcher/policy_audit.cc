#include "launcher/policy_audit.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "config/policy.h"
#include "isolation/seccomp.h"
#include "isolation/seccomp_rules.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"
#include "isolation/sys/trace.h"
#include "launcher/shield.h"

namespace rtlaunch {
namespace {

using config::Json;
using sys::TracedCall;
using When = TracedCall::When;

constexpr char kName[] = "audited";
constexpr size_t kMany = 8;  // files of one directory that stand for all of it
constexpr size_t kMostPaths = 400;

struct Used {
  std::set<long> calls;
  std::set<std::string> read, write, addresses;
};

std::string link_of(const std::string& path) {
  char target[PATH_MAX];
  ssize_t size = ::readlink(path.c_str(), target, sizeof target);
  return size > 0 ? std::string(target, static_cast<size_t>(size)) : "";
}

std::string folder_of(const std::string& path) {
  size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Every process has its own below these, and a worker some of its own.
std::string general(const std::string& path) {
  for (const char* place : {"/proc", "/dev", "/tmp", "/var/tmp"}) {
    if (sys::is_beneath(path, place)) return place;
  }
  return path;
}

void add(const std::string& path, std::set<std::string>& paths) {
  bool named = !path.empty() && path[0] == '/' && path.find(" (deleted)") == std::string::npos;
  bool plain = std::none_of(path.begin(), path.end(), [](unsigned char c) { return c < ' '; });
  if (named && plain) paths.insert(general(path));
}

// --- files --------------------------------------------------------------------------------------

uint64_t open_flags(const TracedCall& call) {
  if (call.number == SYS_openat) return call.arguments[2];
  if (call.number == SYS_creat) return O_CREAT | O_WRONLY;
  if (call.number == SYS_open) return call.arguments[1];
  std::string how = call.bytes(call.arguments[2], sizeof(uint64_t));
  uint64_t flags = 0;
  how.copy(reinterpret_cast<char*>(&flags), sizeof flags);
  return flags;
}

bool opens(long number) {
  return number == SYS_open || number == SYS_openat || number == SYS_openat2 || number == SYS_creat;
}

void take_open(const TracedCall& call, Used& used) {
  std::string path =
      link_of("/proc/" + std::to_string(call.pid) + "/fd/" + std::to_string(call.result));
  uint64_t flags = open_flags(call);
  if ((flags & O_PATH) != 0) return;
  if ((flags & O_TMPFILE) == O_TMPFILE) return add(folder_of(path), used.write);
  if ((flags & O_ACCMODE) == O_RDONLY && (flags & O_CREAT) == 0) return add(path, used.read);
  add((flags & O_CREAT) != 0 ? folder_of(path) : path, used.write);
}

// Where a name is made or taken away: {directory's descriptor or -1, name}, by argument.
struct Naming {
  long number;
  int folder, name;
};
constexpr Naming kNaming[] = {{SYS_mkdir, -1, 0},    {SYS_mkdirat, 0, 1},   {SYS_rmdir, -1, 0},
                              {SYS_unlink, -1, 0},   {SYS_unlinkat, 0, 1},  {SYS_rename, -1, 0},
                              {SYS_rename, -1, 1},   {SYS_renameat, 0, 1},  {SYS_renameat, 2, 3},
                              {SYS_renameat2, 0, 1}, {SYS_renameat2, 2, 3}, {SYS_link, -1, 1},
                              {SYS_linkat, 2, 3},    {SYS_symlink, -1, 1},  {SYS_symlinkat, 1, 2},
                              {SYS_mknod, -1, 0},    {SYS_mknodat, 0, 1},   {SYS_truncate, -1, 0}};

// The path as the caller means it, links of its directory resolved.
std::string path_of(const TracedCall& call, int folder, int name) {
  std::string path = call.text(call.arguments[name]);
  if (path.empty()) return "";
  std::string process = "/proc/" + std::to_string(call.pid);
  int fd = folder < 0 ? AT_FDCWD : static_cast<int>(call.arguments[folder]);
  std::string base =
      link_of(fd == AT_FDCWD ? process + "/cwd" : process + "/fd/" + std::to_string(fd));
  std::string whole = sys::absolute_path(path, base);
  auto resolved = sys::real_path(folder_of(whole));
  return resolved ? sys::absolute_path(sys::leaf_of(whole), *resolved) : whole;
}

void take_naming(const TracedCall& call, Used& used) {
  for (const Naming& naming : kNaming) {
    if (naming.number != call.number) continue;
    std::string path = path_of(call, naming.folder, naming.name);
    add(call.number == SYS_truncate ? path : folder_of(path), used.write);
  }
}

// The program, its interpreter, and the script that it may be for.
void take_exec(const TracedCall& call, Used& used) {
  std::string process = "/proc/" + std::to_string(call.pid);
  add(link_of(process + "/exe"), used.read);
  auto maps = sys::read_file(process + "/maps");
  for (size_t at = 0; maps && at < maps->size();) {
    std::string line = maps->substr(at, maps->find('\n', at) - at);
    at += line.size() + 1;
    if (size_t slash = line.find('/'); slash != std::string::npos)
      add(line.substr(slash), used.read);
  }
}

void take_program(const TracedCall& call, Used& used) {
  std::string path = call.number == SYS_execve ? path_of(call, -1, 0) : path_of(call, 0, 1);
  auto resolved = sys::real_path(path);
  if (resolved) add(*resolved, used.read);
}

// --- addresses ----------------------------------------------------------------------------------

bool is_loopback(const struct sockaddr_storage& address) {
  if (address.ss_family == AF_INET) {
    auto& four = reinterpret_cast<const struct sockaddr_in&>(address);
    return (ntohl(four.sin_addr.s_addr) >> 24) == 127 || four.sin_addr.s_addr == 0;
  }
  auto& six = reinterpret_cast<const struct sockaddr_in6&>(address);
  return IN6_IS_ADDR_LOOPBACK(&six.sin6_addr) || IN6_IS_ADDR_UNSPECIFIED(&six.sin6_addr);
}

void take_address(const TracedCall& call, int where, int size, Used& used) {
  struct sockaddr_storage address = {};
  std::string bytes =
      call.bytes(call.arguments[where], std::min<uint64_t>(call.arguments[size], sizeof address));
  bytes.copy(reinterpret_cast<char*>(&address), sizeof address);
  bool inet = address.ss_family == AF_INET || address.ss_family == AF_INET6;
  auto& four = reinterpret_cast<const struct sockaddr_in&>(address);
  auto& six = reinterpret_cast<const struct sockaddr_in6&>(address);
  if (!inet || four.sin_port == 0 || is_loopback(address)) return;
  bool v6 = address.ss_family == AF_INET6;
  char text[INET6_ADDRSTRLEN] = {};
  const void* raw = v6 ? static_cast<const void*>(&six.sin6_addr) : &four.sin_addr;
  if (::inet_ntop(address.ss_family, raw, text, sizeof text) == nullptr) return;
  std::string host = v6 ? "[" + std::string(text) + "]" : std::string(text);
  used.addresses.insert(host + ":" + std::to_string(ntohs(four.sin_port)));
}

// --- what was used ------------------------------------------------------------------------------

void take(const TracedCall& call, Used& used) {
  if (call.when == When::kExec) return take_exec(call, used);
  if (call.when == When::kEntry) {
    used.calls.insert(call.number);
    if (call.number == SYS_connect) take_address(call, 1, 2, used);
    if (call.number == SYS_sendto) take_address(call, 4, 5, used);
    if (call.number == SYS_execve || call.number == SYS_execveat) take_program(call, used);
    return;
  }
  if (call.result < 0) return;
  if (opens(call.number)) take_open(call, used);
  take_naming(call, used);
}

// --- what allows that ---------------------------------------------------------------------------

bool is_covered(const std::string& path, const std::set<std::string>& paths) {
  for (std::string above = path; above != "/";) {
    above = folder_of(above);
    if (paths.contains(above)) return true;
  }
  return false;
}

// Many of one directory become the directory, but never one right below `/`.
std::set<std::string> shortened(std::set<std::string> paths, size_t many) {
  for (bool changed = true; changed;) {
    changed = false;
    std::map<std::string, size_t> counts;
    for (const std::string& path : paths) ++counts[folder_of(path)];
    for (const auto& [folder, count] : counts) {
      if (count <= many || folder.find('/', 1) == std::string::npos) continue;
      changed |= paths.insert(folder).second;
    }
    std::erase_if(paths,
                  [&](const std::string& path) { return path != "/" && is_covered(path, paths); });
  }
  return paths;
}

Json listed(const std::set<std::string>& paths) {
  std::set<std::string> some = shortened(paths, kMany);
  for (size_t many = kMany / 2; some.size() > kMostPaths && many > 0; many /= 2) {
    some = shortened(some, many);
  }
  return Json(std::vector<std::string>(some.begin(), some.end()));
}

// Those of ours that a worker may inherit at all.
Json variables() {
  std::set<std::string> names;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string name(*entry, std::strcspn(*entry, "="));
    bool plain = !name.empty() && name.size() <= 60 && !name.starts_with("LD_") &&
                 std::all_of(name.begin(), name.end(), [](unsigned char c) {
                   return c == '_' || (c < 0x80 && std::isalnum(c) != 0);
                 });
    if (plain) names.insert(name);
  }
  return Json(std::vector<std::string>(names.begin(), names.end()));
}

Json document_of(const Json& profile) {
  return {
      {"version", 1}, {"profiles", {{kName, profile}}}, {"choose", {kName}}, {"default", kName}};
}

// What stands between a worker of this profile and its calls.
Result<isolation::FilterRules> rules_of(const Json& profile) {
  config::Policy policy =
      TRY(config::parse_policy(document_of(profile).dump(), "the audit's policy", {}));
  config::Verdict verdict = TRY(config::resolve(policy, {}, {}));
  return TRY(shield_of(verdict)).bound.controls.seccomp.rules;
}

// A control that takes this call away whatever is allowed; "" when none does.
Result<std::string> refused_by(const Json& profile, const std::string& call) {
  for (const char* control : {"no_debug", "own_keyring", "no_mounts", "no_new_namespaces",
                              "no_io_uring", "no_userfaultfd", "no_bpf"}) {
    Json without = profile;
    without[control] = "off";
    isolation::FilterRules rules = TRY(rules_of(without));
    if (isolation::verdict(rules, call) == isolation::Verdict::kAllowed)
      return std::string(control);
  }
  return std::string();
}

// clone3 is never allowed: what it asks for can't be looked at, and C libraries do without.
Status allow_calls(const Used& used, Json* profile) {
  isolation::FilterRules rules = TRY(rules_of(*profile));
  std::set<std::string> calls;
  for (long number : used.calls) {
    std::string name = isolation::call_name(number);
    if (name.empty() || name == "clone3") continue;
    if (isolation::verdict(rules, name) != isolation::Verdict::kAllowed) calls.insert(name);
  }
  if (calls.empty()) return {};
  (*profile)["syscalls"] = {{"base", "strict"}, {"allow", calls}};
  rules = TRY(rules_of(*profile));
  for (const std::string& name : calls) {
    if (isolation::verdict(rules, name) == isolation::Verdict::kAllowed) continue;
    std::string control = TRY(refused_by(*profile, name));
    if (!control.empty()) (*profile)[control] = "off";
    rules = TRY(rules_of(*profile));
  }
  return {};
}

// Of the host's files only those in the home can be changed in a strict sandbox, if it is said so.
bool changes_more_than_its_own(const Used& used) {
  return std::any_of(used.write.begin(), used.write.end(), [](const std::string& path) {
    return general(path) == path && path != "/tmp" && path != "/dev" && path != "/proc" &&
           path != "/var/tmp";
  });
}

Result<Json> profile_of(const Used& used, const std::vector<std::string>& command) {
  Json profile = {{"about", "what " + sys::leaf_of(command[0]) + " used"},
                  {"extends", "strict"},
                  {"environment", variables()},
                  {"files", {{"read", listed(used.read)}, {"write", listed(used.write)}}}};
  if (changes_more_than_its_own(used)) profile["no_home"] = "off";
  TRY(allow_calls(used, &profile));
  if (!used.addresses.empty()) profile["network"] = {{"mode", "egress"}, {"to", used.addresses}};
  return profile;
}

Status put(const std::string& text, const std::string& output) {
  if (output.empty()) return sys::write_all(STDOUT_FILENO, text, "stdout");
  return sys::replace_file_at(AT_FDCWD, output, text, 0644);
}

}  // namespace

Result<int> audit(const std::vector<std::string>& command, const std::string& output) {
  Used used;
  int status = TRY(sys::trace(command, [&](const TracedCall& call) { take(call, used); }));
  Json document = document_of(TRY(profile_of(used, command)));
  TRY(put(document.dump(1, ' ', false, Json::error_handler_t::replace) + "\n", output));
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace rtlaunch
