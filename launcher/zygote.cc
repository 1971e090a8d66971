#include "launcher/zygote.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "installers/python.h"
#include "isolation/line.h"
#include "isolation/spec_wire.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/process.h"
#include "isolation/sys/run_program.h"
#include "launcher/builder.h"
#include "launcher/ray_node.h"
#include "launcher/zygote_wire.h"

namespace rtlaunch {
namespace {

using isolation::LineMessage;
using isolation::Spec;

constexpr std::string_view kWorkerScript = "/ray/_private/workers/default_worker.py";
constexpr std::string_view kRayletPid = "RAY_RAYLET_PID=";
constexpr std::string_view kRayletSocket = "--raylet-name=";
// Set for workers by a raylet, or read by Python's start.
constexpr const char* kNeeded[] = {"RAY_", "SPT_NOENV=", "PYTHON", "LD_", "LC_", "LANG"};
constexpr int kAnswerMs = 20'000;
constexpr int kIdleSeconds = 60;
constexpr int kLaterMs = 300;
constexpr size_t kRoom = 96 << 10;  // for variables of workers that have more than the first

std::string variable(const std::vector<std::string>& env, const std::string& name) {
  for (const std::string& entry : env) {
    if (entry.starts_with(name + "=")) return entry.substr(name.size() + 1);
  }
  return "";
}

std::string value_of(const std::vector<std::string>& words, std::string_view option) {
  for (const std::string& word : words) {
    if (word.starts_with(option)) return word.substr(option.size());
  }
  return "";
}

// FNV-1a: the zygote looks again whether it is the right one.
std::string short_hash(const std::vector<std::string>& texts) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const std::string& text : texts) {
    for (unsigned char byte : text + '\0') hash = (hash ^ byte) * 0x100000001b3;
  }
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

// As it was when we began: Signals has added to it since.
uint64_t blocked_at_start() {
  static const uint64_t blocked = [] {
    sigset_t set;
    ::sigprocmask(SIG_BLOCK, nullptr, &set);
    uint64_t bits = 0;
    for (int number = 1; number <= 64; ++number) {
      if (::sigismember(&set, number) == 1) bits |= uint64_t{1} << (number - 1);
    }
    return bits;
  }();
  return blocked;
}
[[maybe_unused]] const uint64_t looked = blocked_at_start();

bool is_address(const std::string& path, struct sockaddr_un* address) {
  address->sun_family = AF_UNIX;
  if (path.size() >= sizeof address->sun_path) return false;
  path.copy(address->sun_path, path.size());
  return true;
}

// The same namespaces as ours: no process of a sandbox has taken the zygote's place.
bool is_trusted(int connection) {
  struct ucred peer = {};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  if (peer.uid != ::geteuid() || peer.pid <= 0) return false;
  for (const char* name : {"/ns/mnt", "/ns/pid", "/ns/user"}) {
    struct stat theirs, ours;
    std::string path = "/proc/" + std::to_string(peer.pid) + name;
    if (::stat(path.c_str(), &theirs) != 0) return false;
    if (::stat((std::string("/proc/self") + name).c_str(), &ours) != 0) return false;
    if (theirs.st_ino != ours.st_ino) return false;
  }
  return true;
}

// Only where somebody listens already: one that is still importing is no help.
UniqueFd connect_to(const std::string& place) {
  struct sockaddr_un address = {};
  if (!is_address(place, &address)) return {};
  UniqueFd connection(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  auto* name = reinterpret_cast<struct sockaddr*>(&address);
  if (::connect(connection.get(), name, sizeof address) != 0) return {};
  if (!is_trusted(connection.get())) return {};
  return connection;
}

// A worker that we know by its line alone.
class LineRunning : public Running {
 public:
  LineRunning(UniqueFd line, std::string profile, std::vector<isolation::Applied> applied)
      : line_(std::move(line)), profile_(std::move(profile)), applied_(std::move(applied)) {}
  Status send(int signal) override {
    (void)isolation::send_line(line_.get(), LineMessage::kSignal, signal).ok();
    return {};
  }
  int done_fd() const override { return line_.get(); }
  int upper_dir() const override { return -1; }
  std::vector<isolation::Sandbox::Step> steps() override { return {}; }
  std::string profile() override { return profile_; }
  std::vector<isolation::Applied> applied() override { return applied_; }
  std::string met() const override { return ""; }
  Result<int> wait() override {
    while (true) {
      auto message = isolation::receive_line(line_.get(), nullptr);
      if (!message || !*message) return static_cast<int>(SIGKILL);
      if ((*message)->kind == LineMessage::kEnded) return static_cast<int>((*message)->value);
    }
  }

 private:
  UniqueFd line_;
  std::string profile_;
  std::vector<isolation::Applied> applied_;
};

// For who asks why his workers start slowly: RTLAUNCH_RAY_ZYGOTES=explain.
void explain(std::string_view refusal) {
  const char* wish = ::getenv("RTLAUNCH_RAY_ZYGOTES");
  if (wish == nullptr || std::string_view(wish) != "explain") return;
  std::fprintf(stderr, "rtlaunch: no worker from a zygote: %.*s\n",
               static_cast<int>(refusal.size()), refusal.data());
}

// Once the worker's parent says that it has started. Of a zygote that ended meanwhile, or is too
// slow, we don't know, so what may run is ended first.
ZygoteAnswer wait_for_start(int connection, int line) {
  struct pollfd polled = {connection, POLLIN, 0};
  char text[16384];
  ssize_t size = 0;
  if (::poll(&polled, 1, kAnswerMs) > 0) size = ::recv(connection, text, sizeof text, 0);
  std::string_view answer(text, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  ZygoteAnswer started = parse_answer(answer);
  if (size > 0 && started.pid1 == 0) explain(answer);
  if (size > 0) return started;
  ::shutdown(line, SHUT_WR);
  struct pollfd ended = {line, POLLIN, 0};
  while (::poll(&ended, 1, kAnswerMs) > 0) {
    auto message = isolation::receive_line(line, nullptr);
    if (!message || !*message) break;
  }
  return {};
}

Result<UniqueFd> bind_at(const std::string& place) {
  struct sockaddr_un address = {};
  if (!is_address(place, &address)) return make_error("zygote", place, "the path is too long");
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  ::unlink(place.c_str());
  if (::bind(listener.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) != 0) {
    return sys_error("bind", place);
  }
  if (::chmod(place.c_str(), 0600) != 0) return sys_error("chmod", place);
  return listener;
}

// Whoever holds it is the zygote, or is about to be.
Result<UniqueFd> take_lock(const std::string& path) {
  UniqueFd lock = TRY(sys::open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (TRY(sys::stat_fd(lock.get(), path)).st_uid != ::geteuid()) {
    return Error{"zygote", EPERM, path, "is somebody else's", "", 125};
  }
  if (!TRY(sys::try_lock_file(lock.get(), sys::Lock::kExclusive, path))) {
    return Error{"zygote", EBUSY, path, "there is one", "", 125};
  }
  if (TRY(sys::stat_fd(lock.get(), path)).st_size == 0) return lock;
  return Error{"zygote", ENOTSUP, path, "the last one has said why there can be none", "", 125};
}

int idle_ms() {
  const char* wish = ::getenv("RTLAUNCH_RAY_ZYGOTE_SECONDS");
  int seconds = wish == nullptr ? kIdleSeconds : std::atoi(wish);
  return std::clamp(seconds, 1, 86'400) * 1000;
}

// What a zygote is started with, made ready before the fork.
struct Birth {
  std::vector<std::string> argv, env;
  std::string cwd;
  int later_ms = 0;
  UniqueFd null, listener, lock, raylet;
};

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

// 0-2 and what is handed over; nothing else of ours.
bool take_descriptors(const Birth& birth) {
  const int fds[] = {birth.null.get(),     birth.null.get(), birth.null.get(),
                     birth.listener.get(), birth.lock.get(), birth.raylet.get()};
  int moved[6];
  for (int i = 0; i < 6; ++i) moved[i] = ::fcntl(fds[i], F_DUPFD_CLOEXEC, 16);
  for (int i = 0; i < 6; ++i) {
    if (moved[i] < 0 || ::dup2(moved[i], i) < 0) return false;
  }
  return ::close_range(6, ~0U, 0) == 0;
}

// In a child of a child, that nobody waits for.
[[noreturn]] void become_zygote(const Birth& birth) {
  ::setsid();
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (!take_descriptors(birth) || ::chdir(birth.cwd.c_str()) != 0) ::_exit(1);
  struct timespec later = {0, birth.later_ms * 1'000'000L};
  ::nanosleep(&later, nullptr);
  ::execve(birth.argv[0].c_str(), pointers(birth.argv).data(), pointers(birth.env).data());
  ::_exit(1);
}

Status give_birth(const Birth& birth) {
  sys::Cloned child = TRY(sys::clone_process({0, -1, SIGCHLD}));
  if (child.pid == 0) {
    auto grandchild = sys::clone_process({0, -1, SIGCHLD});
    if (grandchild && grandchild->pid == 0) become_zygote(birth);
    ::_exit(0);
  }
  TRY(sys::wait_for(child.pidfd.get()));
  return {};
}

// What all workers have: the raylet's own variables, and what it and Python's start go by. A value
// that a user gave to one worker must not be in a zygote, whose memory all of them get.
Result<std::vector<std::string>> variables_of_all(const std::vector<std::string>& env,
                                                  pid_t raylet) {
  std::string own = TRY(sys::read_file("/proc/" + std::to_string(raylet) + "/environ", 4 << 20));
  own.insert(0, 1, '\0');
  std::vector<std::string> common;
  for (const std::string& entry : env) {
    bool needed = std::any_of(std::begin(kNeeded), std::end(kNeeded),
                              [&](const char* name) { return entry.starts_with(name); });
    bool raylets = own.find('\0' + entry + '\0') != own.npos;
    if ((needed || raylets) && !entry.starts_with("PYTHONPATH=")) common.push_back(entry);
  }
  return common;
}

Result<Birth> prepare_birth(const Spec& spec, const std::string& place, const std::string& script,
                            pid_t raylet) {
  Birth birth;
  birth.lock = TRY(take_lock(place + ".lock"));
  std::string tools = TRY(tools_folder());
  std::string library = TRY(sys::real_path(tools + "/rtlaunch-zygote.so"));
  std::string program = TRY(sys::real_path(tools + "/rtlaunch-zygote.py"));
  birth.listener = TRY(bind_at(place));
  birth.raylet = TRY(sys::open_pidfd(raylet));
  birth.null = TRY(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
  birth.cwd = "/";
  // As many words as a worker has, where Ray looks for its own (setproctitle).
  birth.argv = {spec.argv[0], program};
  birth.argv.resize(spec.argv.size(), "zygote");
  nlohmann::json config = {{"library", library}, {"script", script}, {"listener", 3},
                           {"lock", 4},          {"owner", 5},       {"idle_ms", idle_ms()}};
  birth.env = TRY(variables_of_all(spec.env, raylet));
  birth.env.push_back("RTLAUNCH_ZYGOTE=" + config.dump());
  birth.env.push_back("RTLAUNCH_ZYGOTE_ROOM=" + std::string(kRoom, '.'));
  return birth;
}

}  // namespace

std::optional<Zygote> Zygote::of(const Spec& spec, bool bare) {
  const std::vector<std::string>& argv = spec.argv;
  bool python = argv.size() > 2 && argv[0].starts_with("/") && argv[1].ends_with(kWorkerScript);
  std::string sockets = value_of(argv, kRayletSocket);
  const char* raylet = ::getenv("RAY_RAYLET_PID");
  if (::geteuid() != 0 || !python || raylet == nullptr || sockets.find('/') == sockets.npos) {
    return std::nullopt;
  }
  if (::isatty(STDIN_FILENO)) return std::nullopt;
  Zygote zygote;
  zygote.raylet_ = std::atoi(raylet);
  zygote.script_ = argv[1];
  zygote.bare_ = bare;
  zygote.blocked_ = blocked_at_start();
  std::string job = variable(spec.env, "RAY_JOB_ID");
  std::string key = short_hash({argv[0], argv[1], std::to_string(argv.size()), job, raylet,
                                bare ? "bare" : "", std::to_string(::getegid())});
  zygote.place_ = sockets.substr(0, sockets.rfind('/')) + "/z" + key;
  if (zygote.raylet_ <= 0) return std::nullopt;
  return zygote;
}

bool Zygote::can_give(const Spec& spec) {
  return spec.root == isolation::Root::kShared && spec.network == isolation::Network::kHost &&
         spec.keep_caps && !spec.controls.wants_cgroup() &&
         spec.controls.time_namespace == isolation::Want::kOff &&
         spec.controls.user_namespace == isolation::Want::kOff;
}

std::unique_ptr<Running> Zygote::ask(const Spec& spec, const Held& held, pid_t* pid1) const {
  UniqueFd connection = connect_to(place_);
  if (!connection.valid()) return nullptr;
  Spec wanted = spec;
  wanted.umask = ::umask(0);
  ::umask(*wanted.umask);
  auto line = isolation::make_line();
  auto document = sys::memory_file(isolation::encode(wanted));
  auto mounts = own_namespace("mnt"), processes = own_namespace("pid");
  if (!line || !document || !mounts || !processes) return nullptr;
  ZygoteRequest request;
  request.bare = bare_;
  request.blocked = blocked_;
  request.mounts = std::move(*mounts);
  request.processes = std::move(*processes);
  request.document = std::move(*document);
  request.input = spec.stdin_fd;
  request.output = spec.stdout_fd;
  request.error = spec.stderr_fd;
  request.line = std::move(line->second);
  request.record = held.record;
  for (const store::Lease& lease : held.leases) request.leases.push_back(lease.fd.get());
  if (!send_zygote_request(connection.get(), request)) return nullptr;
  request.line.reset();
  ZygoteAnswer started = wait_for_start(connection.get(), line->first.get());
  *pid1 = started.pid1;
  if (*pid1 <= 0) return nullptr;
  return std::make_unique<LineRunning>(std::move(line->first), held.profile,
                                       std::move(started.applied));
}

void Zygote::start(const Spec& spec, int later_ms) const {
  auto birth = prepare_birth(spec, place_, script_, raylet_);
  if (!birth) return;
  birth->later_ms = later_ms;
  (void)give_birth(*birth).ok();
}

void Zygote::start_soon(const Spec& spec) const { start(spec, kLaterMs); }
void Zygote::start_now(const Spec& spec) const { start(spec, 0); }

namespace {

// As the policy has it now, of this job's workers.
bool may_have_copies(const std::vector<std::string>& worker) {
  Variables variables = installers::own_environment();
  RayNode node = RayNode::from(variables);
  auto signals = Signals::block();
  if (!signals) return false;
  auto host = choose_host({node.embedded ? "" : node.socket, node.store, node.embedded}, *signals);
  Asked asked;
  asked.ask.profile = "ray";
  asked.job = ray_job(rtlaunch::value_of(variables, "RAY_JOB_ID"), session_of(worker));
  auto shape = host ? (*host)->shape(asked, /*surely=*/true) : host.error();
  return shape && shape->copies;
}

}  // namespace

int start_zygote(const std::vector<std::string>& words) {
  Spec spec;
  spec.argv = words;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool raylet = std::string_view(*entry).starts_with(kRayletPid);
    spec.env.push_back(raylet ? std::string(kRayletPid) + "1" : *entry);  // as name_raylet()
  }
  auto zygote = Zygote::of(spec, /*bare=*/false);
  if (zygote && may_have_copies(words)) zygote->start_now(spec);
  return 0;
}

}  // namespace rtlaunch
