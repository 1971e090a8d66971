#include "isolation/net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <string_view>

#include "isolation/net_link.h"
#include "isolation/net_rules.h"
#include "isolation/sys/files.h"
#include "isolation/sys/message.h"

namespace rtlaunch::isolation {
namespace {

constexpr int kBacklog = 128;

Result<UniqueFd> listen_inside() {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return sys_error("socket", "tcp");
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kDoorPort);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return sys_error("network", "127.0.0.1:" + std::to_string(kDoorPort));
  }
  return fd;
}

Status send_listener(int socket, int listener) {
  auto sent = sys::send_message(socket, std::string_view("", 1), {listener});
  if (sent) return {};
  return Error{"network", sent.error().code, "its forwarder", "", "", 125};
}

// ---- namespaces --------------------------------------------------------------------------------

Status enter(int network) {
  if (::setns(network, CLONE_NEWNET) == 0) return {};
  return sys_error("network", "the one that it was given");
}

Result<UniqueFd> current() { return sys::open_at(AT_FDCWD, "/proc/self/ns/net", O_RDONLY); }

Status enter_own() {
  if (::unshare(CLONE_NEWNET) != 0) return sys_error("network", "a namespace of its own");
  return raise_loopback();
}

// ---- the way out -------------------------------------------------------------------------------

// An address of the host's own: it can be bound.
bool is_local(const std::string& address) {
  bool v6 = address.find(':') != std::string::npos;
  UniqueFd fd(::socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in one = {};
  struct sockaddr_in6 six = {};
  one.sin_family = AF_INET, six.sin6_family = AF_INET6;
  if (v6) {
    return ::inet_pton(AF_INET6, address.c_str(), &six.sin6_addr) == 1 &&
           ::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&six), sizeof six) == 0;
  }
  return ::inet_pton(AF_INET, address.c_str(), &one.sin_addr) == 1 &&
         ::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&one), sizeof one) == 0;
}

// Else packets would vanish without a word.
Status check_forwarding(const std::vector<Destination>& destinations) {
  auto forwards = sys::read_file("/proc/sys/net/ipv4/ip_forward");
  if (forwards && *forwards != "0\n") return {};
  for (const Destination& destination : destinations) {
    if (is_local(destination.host)) continue;
    return make_error("network", destination.host, "the host doesn't forward packets",
                      "set net.ipv4.ip_forward to 1");
  }
  return {};
}

// In the host's network; afterwards in the one that was given.
Status connect(const Spec& spec, int network, WayOut* way_out) {
  Cable cable = TRY(make_cable(network));
  way_out->translation = TRY(translate_addresses(cable));
  TRY(enter(network));
  TRY(allow_only(numbered(spec.destinations)));  // before anything can leave
  TRY(allow_named(named(spec.destinations, way_out->names)));
  return connect_inside(cable);
}

// Its rules let nobody out yet.
Status fill(const Spec& spec, SpareNetwork spare, WayOut* way_out) {
  std::vector<Destination> all = numbered(spec.destinations);
  for (Destination& one : named(spec.destinations, way_out->names)) all.push_back(std::move(one));
  TRY(enter(spare.network.get()));
  way_out->translation = std::move(spare.translation);
  return allow_named(all);
}

Status make_way_out(const Spec& spec, std::optional<SpareNetwork> spare, WayOut* way_out) {
  TRY(check_forwarding(numbered(spec.destinations)));
  TRY(check_forwarding(named(spec.destinations, way_out->names)));
  if (spare) return fill(spec, std::move(*spare), way_out);
  UniqueFd host = TRY(current());
  TRY(enter_own());
  UniqueFd own = TRY(current());
  TRY(enter(host.get()));
  return connect(spec, own.get(), way_out);
}

Status make_network(const Spec& spec, std::optional<SpareNetwork> spare, WayOut* way_out) {
  if (spec.network != Network::kEgress) return enter_own();
  return make_way_out(spec, std::move(spare), way_out);
}

// ---- those of a job ----------------------------------------------------------------------------

struct Member {
  pid_t pid = 0;
  std::string since;  // in /proc/PID/stat
  ino_t network = 0;
};

// The 22nd field; the 2nd may hold anything, but ends with the last parenthesis.
std::string start_of(const std::string& pid) {
  auto text = sys::read_file("/proc/" + pid + "/stat", 4096);
  size_t at = text ? text->rfind(") ") : std::string::npos;
  if (at == std::string::npos) return "";
  std::istringstream fields(text->substr(at + 2));
  std::string field;
  for (int number = 3; number <= 22; ++number) fields >> field;
  return field;
}

// What the file of a job says: "PID SINCE NETWORK" of each member, then "@ NAME ADDRESS" of what
// its rules have been told.
struct JobFile {
  std::vector<Member> members;
  std::vector<HostName> names;
};

JobFile parse_job_file(const std::string& text) {
  JobFile file;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    Member member;
    std::string mark, name, address;
    if (line.starts_with("@ ") && words >> mark >> name >> address) {
      (void)learn({{name, {address}}}, &file.names);
    } else if (words >> member.pid >> member.since >> member.network) {
      file.members.push_back(member);
    }
  }
  return file;
}

std::string text_of(const JobFile& file) {
  std::string text;
  for (const Member& member : file.members) {
    text += std::to_string(member.pid) + " " + member.since + " " + std::to_string(member.network) +
            "\n";
  }
  for (const HostName& name : file.names) {
    for (const std::string& address : name.addresses)
      text += "@ " + name.name + " " + address + "\n";
  }
  return text;
}

// Its namespace, if it is still the process that was written down. A pid can be somebody else's by
// now, and so can the number of a namespace; not both, and since the same tick.
UniqueFd network_of(const Member& member) {
  std::string pid = std::to_string(member.pid);
  auto network = open_network(member.pid);
  struct stat st;
  bool same = network && ::fstat(network->get(), &st) == 0 && st.st_ino == member.network &&
              start_of(pid) == member.since;
  return same ? std::move(*network) : UniqueFd();
}

// With a number for what it may reach, so that one job's networks differ where their rules do.
std::string name_of(const Spec& spec) {
  uint64_t sum = 14695981039346656037u;  // FNV-1a
  auto add = [&](const std::string& text) {
    for (unsigned char c : text + "|") sum = (sum ^ c) * 1099511628211u;
  };
  add(std::to_string(static_cast<int>(spec.network)));
  for (const Destination& d : spec.destinations) {
    add(d.host), add(std::to_string(d.first_port)), add(std::to_string(d.last_port));
    add(std::to_string(static_cast<int>(d.protocol)));
  }
  return spec.job + "." + std::to_string(sum);
}

// Files of jobs that have ended.
void sweep(int folder) {
  auto names = sys::list_dir(folder);
  for (const std::string& name : names ? *names : std::vector<std::string>()) {
    auto file = sys::open_at(folder, name, O_RDWR | O_NOFOLLOW);
    if (!file || ::flock(file->get(), LOCK_EX | LOCK_NB) != 0) continue;
    auto text = sys::read_all(file->get(), name, 1 << 20);
    bool lives = false;
    for (const Member& member : parse_job_file(text ? *text : "").members) {
      lives = lives || network_of(member).valid();
    }
    if (!lives) ::unlinkat(folder, name.c_str(), 0);
  }
}

// Alone with it: nobody else makes or removes it meanwhile.
Result<UniqueFd> open_alone(int folder, const std::string& name) {
  for (;;) {
    UniqueFd file = TRY(sys::open_at(folder, name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    if (::flock(file.get(), LOCK_EX) != 0) return sys_error("network", name);
    struct stat st;
    if (::fstat(file.get(), &st) != 0) return sys_error("network", name);
    if (st.st_nlink > 0) return file;  // else it was swept away
  }
}

// Our own pid is the one that those outside know, since this is still their /proc.
Result<Member> self() {
  struct stat st;
  char pid[16] = {};
  if (::stat("/proc/self/ns/net", &st) != 0) return sys_error("network", "/proc/self/ns/net");
  if (::readlink("/proc/self", pid, sizeof pid - 1) <= 0) return sys_error("network", "/proc/self");
  return Member{std::atoi(pid), start_of(pid), st.st_ino};
}

Status sign(int fd, JobFile file) {
  file.members.push_back(TRY(self()));
  if (::lseek(fd, 0, SEEK_SET) != 0 || ::ftruncate(fd, 0) != 0)
    return sys_error("network", "its file");
  return sys::write_all(fd, text_of(file), "network");
}

// The host's side of a way out, once more: that of who made it ends with him.
Status enter_with_way_out(const Spec& spec, int network, WayOut* way_out) {
  if (spec.network != Network::kEgress) return enter(network);
  UniqueFd host = TRY(current());
  TRY(enter(network));
  Cable cable = TRY(cable_inside());
  TRY(enter(host.get()));
  way_out->translation = TRY(translate_addresses(cable));
  return enter(network);
}

// The network of those who still live; not valid if nobody does. The others are forgotten, and what
// was known with them.
UniqueFd keep_living(JobFile* file) {
  UniqueFd network;
  std::vector<Member> living;
  for (Member& member : file->members) {
    UniqueFd theirs = network_of(member);
    if (!theirs.valid()) continue;
    network = std::move(theirs);
    living.push_back(std::move(member));
  }
  file->members = std::move(living);
  if (!network.valid()) file->names.clear();
  return network;
}

Status enter_shared(const Spec& spec, std::optional<SpareNetwork> spare, WayOut* way_out) {
  if (spec.networks.empty()) return make_network(spec, std::move(spare), way_out);
  TRY(sys::make_dirs(spec.networks, 0700));
  UniqueFd folder = TRY(sys::open_at(AT_FDCWD, spec.networks, O_RDONLY | O_DIRECTORY));
  UniqueFd fd = TRY(open_alone(folder.get(), name_of(spec)));
  JobFile file = parse_job_file(TRY(sys::read_all(fd.get(), "network", 1 << 20)));
  UniqueFd network = keep_living(&file);
  std::vector<HostName> fresh = learn(way_out->names, &file.names);
  if (network.valid()) {
    TRY(enter_with_way_out(spec, network.get(), way_out));
    TRY(allow_named(named(spec.destinations, fresh)));
  } else {
    sweep(folder.get());
    TRY(make_network(spec, std::move(spare), way_out));
  }
  return sign(fd.get(), std::move(file));
}

// Before anybody waits for us.
Result<WayOut> enter_egress(const Spec& spec, std::optional<SpareNetwork> spare) {
  WayOut way_out;
  way_out.names = TRY(look_up_names(spec.destinations));
  TRY(enter_shared(spec, std::move(spare), &way_out));
  return way_out;
}

Status check_rights(const Spec& spec, bool rootless) {
  bool anybody = spec.network == Network::kHost || spec.network == Network::kNone;
  if (!rootless || anybody) return {};
  return Error{"network",
               EPERM,
               "",
               "only root can make this network",
               "start it through rtlaunchd, or ask for the network none",
               125};
}

}  // namespace

Status open_door(int listener_to) {
  if (listener_to < 0) return {};
  UniqueFd listener = TRY(listen_inside());
  return send_listener(listener_to, listener.get());
}

Result<SpareNetwork> make_network_ahead() {
  Spec nobody;
  nobody.network = Network::kEgress;
  UniqueFd host = TRY(current());
  WayOut way_out;
  Status made = make_way_out(nobody, {}, &way_out);
  SpareNetwork spare;
  if (made) spare.network = TRY(current());
  if (!enter(host.get()).ok()) std::abort();
  TRY(std::move(made));
  spare.translation = std::move(way_out.translation);
  return spare;
}

Result<WayOut> enter_network(const Spec& spec, bool rootless, std::optional<SpareNetwork> spare) {
  TRY(check_rights(spec, rootless));
  WayOut way_out;
  switch (spec.network) {
    case Network::kHost:
      break;
    case Network::kNone:
      TRY(enter_own());
      TRY(open_door(spec.listener_to));
      break;
    case Network::kJob:
      TRY(enter_shared(spec, {}, &way_out));
      break;
    case Network::kEgress:
      return enter_egress(spec, std::move(spare));
    case Network::kJoined:
      TRY(enter(spec.network_fd));
      break;
  }
  return way_out;
}

Result<UniqueFd> open_network(pid_t pid) {
  return sys::open_at(AT_FDCWD, "/proc/" + std::to_string(pid) + "/ns/net", O_RDONLY);
}

Result<uint64_t> refused_packets(int network) {
  UniqueFd own = TRY(current());
  TRY(enter(network));
  Result<uint64_t> count = count_refused();
  if (!enter(own.get()).ok()) std::abort();
  return count;
}

Result<UniqueFd> receive_listener(int socket) {
  char byte;
  auto came = sys::receive_message(socket, &byte, 1, 1);
  if (!came) return Error{"network", came.error().code, "its door", "", "", 125};
  return came->fds.empty() ? UniqueFd() : std::move(came->fds.front());
}

}  // namespace rtlaunch::isolation
