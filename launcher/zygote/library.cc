// The zygote's native half, loaded into Python by zygote.py: waits for requests (zygote_wire.h) and
// makes each worker as a launcher makes it, but for the exec: what would have become another
// program is a copy of this process, which goes on in Python. All that makes and shuts in a worker
// is isolation/'s own; nothing of it is done again here.
//
//   rtlaunch_zygote_open()       before anything is imported
//   rtlaunch_zygote_serve(...)   returns why it ended; in a worker it calls `worker`, which never
//                                returns
// One thread, which has Python's lock throughout.
#include <linux/prctl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <sstream>

#include "isolation/check.h"
#include "isolation/launch.h"
#include "isolation/line.h"
#include "isolation/report.h"
#include "isolation/spec_wire.h"
#include "isolation/sys/files.h"
#include "isolation/sys/limits.h"
#include "isolation/sys/process.h"
#include "launcher/zygote_wire.h"

// Python's own (Include/cpython/…): what os.fork() does around fork(2).
extern "C" {
__attribute__((weak, visibility("default"))) void PyOS_BeforeFork();
__attribute__((weak, visibility("default"))) void PyOS_AfterFork_Parent();
__attribute__((weak, visibility("default"))) void PyOS_AfterFork_Child();
}

namespace {

using namespace rtlaunch;
using isolation::Launch;
using isolation::Spec;

constexpr int kRequestMs = 5'000;

// In the worker: goes on as it. Never returns.
using Worker = void (*)(const char* const* argv, const char* const* env);

// Where the kernel has put the words of our command line, and behind them our variables: a worker's
// own come to the same place, since Ray writes its workers' titles there.
struct Image {
  prctl_mm_map map = {};
  size_t size() const { return map.env_end - map.arg_start; }
};

struct State {
  Image image;
  isolation::Outside outside;
  Worker worker = nullptr;
  std::vector<UniqueFd> children;  // workers' parents: pid 1 of their sandboxes
  uint64_t blocked = 0;            // of the request that is being served
  bool bare = false;
  const isolation::ControlLog* log = nullptr;  // in the worker
};
State* state = nullptr;

// Fields of /proc/self/stat by their numbers in proc(5).
Result<std::vector<uint64_t>> own_stat() {
  std::string text = TRY(sys::read_file("/proc/self/stat", 4096));
  std::istringstream rest(text.substr(text.rfind(')') + 3));
  std::vector<uint64_t> fields(4, 0);
  for (uint64_t value; rest >> value;) fields.push_back(value);
  fields.resize(std::max<size_t>(fields.size(), 52));
  return fields;
}

Result<Image> own_image() {
  std::vector<uint64_t> stat = TRY(own_stat());
  Image image;
  prctl_mm_map& map = image.map;
  map.start_code = stat[26], map.end_code = stat[27], map.start_stack = stat[28];
  map.start_data = stat[45], map.end_data = stat[46], map.start_brk = stat[47];
  map.arg_start = stat[48], map.arg_end = stat[49], map.env_start = stat[50],
  map.env_end = stat[51];
  map.exe_fd = UINT32_MAX;
  if (map.arg_start != 0 && map.arg_end == map.env_start && map.env_end > map.env_start)
    return image;
  return make_error("zygote", "/proc/self/stat", "it doesn't say where the command line is");
}

std::vector<const char*> pointers(const std::vector<std::string>& texts) {
  std::vector<const char*> result;
  for (const std::string& text : texts) result.push_back(text.c_str());
  result.push_back(nullptr);
  return result;
}

size_t bytes_of(const std::vector<std::string>& texts) {
  size_t bytes = 0;
  for (const std::string& text : texts) bytes += text.size() + 1;
  return bytes;
}

bool has_room(const Spec& spec) {
  return bytes_of(spec.argv) + bytes_of(spec.env) <= state->image.size();
}

// argv and environ as an exec would have left them.
Status take_image(const Spec& spec) {
  prctl_mm_map map = state->image.map;
  char* const from = reinterpret_cast<char*>(map.arg_start);
  char* at = from;
  for (const std::string& word : spec.argv) {
    at = static_cast<char*>(std::memcpy(at, word.c_str(), word.size() + 1)) + word.size() + 1;
  }
  map.arg_end = map.env_start = reinterpret_cast<uint64_t>(at);
  auto** variables = static_cast<char**>(std::calloc(spec.env.size() + 1, sizeof(char*)));
  for (size_t i = 0; i < spec.env.size(); ++i) {
    const std::string& entry = spec.env[i];
    variables[i] = at;
    at = static_cast<char*>(std::memcpy(at, entry.c_str(), entry.size() + 1)) + entry.size() + 1;
  }
  std::memset(at, 0, state->image.size() - static_cast<size_t>(at - from));
  map.env_end = reinterpret_cast<uint64_t>(at);
  map.brk = reinterpret_cast<uint64_t>(::sbrk(0));
  environ = variables;
  if (::prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) == 0) return {};
  return sys_error("prctl", "MM_MAP");
}

// What exec would have undone: nothing of the zygote's mask is left.
void take_mask() {
  sigset_t mask;
  ::sigemptyset(&mask);
  for (int number = 1; state->bare && number <= 64; ++number) {
    if (state->blocked >> (number - 1) & 1) ::sigaddset(&mask, number);
  }
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
}

[[noreturn]] void refuse(const Error& error) {
  isolation::report_failed(isolation::kToldFd, error);
  ::_exit(125);
}

// The worker. Its sandbox is whole, and it has given up what it may not have.
void go_on(const Spec& spec, const isolation::ControlLog& log) {
  state->log = &log;
  if (!has_room(spec)) refuse(make_error("zygote", "variables", "there are too many of them"));
  Status taken = take_image(spec);
  if (!taken) refuse(taken.error());
  take_mask();
  PyOS_AfterFork_Child();
  state->worker(pointers(spec.argv).data(), pointers(spec.env).data());
}

// --- serving ---

bool is_ours(int handle, const char* name) {
  struct stat theirs, ours;
  std::string own = std::string("/proc/self/ns/") + name;
  return ::fstat(handle, &theirs) == 0 && ::stat(own.c_str(), &ours) == 0 &&
         theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

// Our user, in our namespaces: a handle of them is what nobody in a sandbox can have.
Result<pid_t> check_peer(int connection, const ZygoteRequest& request) {
  struct ucred peer = {};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return sys_error("getsockopt", "zygote");
  }
  bool same = peer.uid == ::geteuid() && peer.gid == ::getegid() && peer.pid > 0 &&
              is_ours(request.mounts.get(), "mnt") && is_ours(request.processes.get(), "pid");
  if (same) return peer.pid;
  return make_error("zygote", "request", "it comes from another user, or from inside a sandbox");
}

// In what becomes the worker's parent: nothing of one worker's, its variables above all, is ever in
// the memory that the next one gets.
Result<Spec> spec_of(const ZygoteRequest& request, const sys::Limits& limits) {
  std::string document =
      TRY(sys::read_all(request.document.get(), "document", isolation::kMostSpecBytes));
  Spec spec = TRY(isolation::decode(document));
  spec = TRY(isolation::checked(std::move(spec)));
  TRY(isolation::check_line(request.line.get()));
  spec.keep_caps = ::geteuid() == 0;
  if (spec.root != isolation::Root::kShared) return make_error("zygote", "request", "is no worker");
  if (spec.controls.time_namespace != isolation::Want::kOff ||
      spec.controls.user_namespace != isolation::Want::kOff) {
    return make_error("zygote", "request", "clocks or a user of its own begin with an exec");
  }
  spec.limits = limits;
  spec.stdin_fd = request.input;
  spec.stdout_fd = request.output;
  spec.stderr_fd = request.error;
  spec.line = request.line.get();
  spec.record = request.record;
  spec.leases = request.leases;
  spec.goes_on = go_on;
  return spec;
}

void reap() {
  std::erase_if(state->children, [](const UniqueFd& child) {
    struct pollfd polled = {child.get(), POLLIN, 0};
    return ::poll(&polled, 1, 0) > 0 && sys::wait_for(child.get()).ok();
  });
}

Result<ZygoteAnswer> launch(const ZygoteRequest& request, const sys::Limits& limits) {
  isolation::LaunchOptions options{.exit_signal = SIGCHLD};
  options.outside = &state->outside;
  options.shared = true;
  options.bare = request.bare;
  PyOS_BeforeFork();
  Result<Launch> begun =
      Launch::begin([&](const isolation::Preparing&) { return spec_of(request, limits); }, options);
  PyOS_AfterFork_Parent();
  if (!begun) return begun.error();
  begun->go();
  Result<isolation::Started> started = begun->finish();
  if (started) {
    state->children.push_back(begun->take_pidfd());
    return ZygoteAnswer{begun->pid(), std::move(started->applied)};
  }
  Result<int> ended = sys::wait_for(begun->pidfd());
  return started.error().step.empty() ? Launch::died(std::move(ended)) : std::move(started.error());
}

Result<ZygoteAnswer> start(int connection, ZygoteRequest& request) {
  pid_t peer = TRY(check_peer(connection, request));
  sys::Limits limits = TRY(sys::limits_of(peer));
  state->bare = request.bare;
  state->blocked = request.blocked;
  return launch(request, limits);
}

bool is_asked(int fd, int milliseconds) {
  struct pollfd polled = {fd, POLLIN, 0};
  return ::poll(&polled, 1, milliseconds) > 0;
}

void answer(int connection, const Result<ZygoteAnswer>& started) {
  std::string text = started ? started_answer(*started) : started.error().message();
  (void)!::send(connection, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void serve_one(int listener) {
  UniqueFd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.valid() || !is_asked(connection.get(), kRequestMs)) return;
  Result<ZygoteRequest> request = receive_zygote_request(connection.get());
  if (!request) return answer(connection.get(), request.error());
  answer(connection.get(), start(connection.get(), *request));
  std::vector<int> given = request->leases;
  given.insert(given.end(), {request->input, request->output, request->error, request->record});
  for (int fd : given) UniqueFd(fd).reset();
}

int left(std::chrono::steady_clock::time_point last, int idle_ms) {
  auto passed = std::chrono::steady_clock::now() - last;
  auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(passed).count();
  return static_cast<int>(std::max<int64_t>(0, idle_ms - ms));
}

Status open_state() {
  static State opened;
  opened.image = TRY(own_image());
  opened.outside = TRY(isolation::Outside::look());
  TRY(sys::remember_thread());
  state = &opened;
  return {};
}

const char* text_of(const Status& status) {
  static std::string text;
  if (status) return nullptr;
  text = status.error().message();
  return text.c_str();
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) const char* rtlaunch_zygote_open() {
  return text_of(open_state());
}

// Until nobody has asked for `idle_ms`, or the process of the pidfd `owner` has ended.
__attribute__((visibility("default"))) const char* rtlaunch_zygote_serve(int listener, int owner,
                                                                         int idle_ms,
                                                                         Worker worker) {
  state->worker = worker;
  auto last = std::chrono::steady_clock::now();
  if (::listen(listener, 1024) != 0) return "it can't listen";
  while (true) {
    std::vector<struct pollfd> polled = {{listener, POLLIN, 0}, {owner, POLLIN, 0}};
    for (const UniqueFd& child : state->children) polled.push_back({child.get(), POLLIN, 0});
    int ready = ::poll(polled.data(), polled.size(), left(last, idle_ms));
    if (polled[1].revents != 0) return "its owner has ended";
    if (ready == 0) return "idle";
    reap();
    if (polled[0].revents == 0) continue;
    serve_one(listener);
    last = std::chrono::steady_clock::now();
  }
}

// In the worker, once: it is one.
__attribute__((visibility("default"))) void rtlaunch_zygote_ready() {
  isolation::report_started(isolation::kToldFd, isolation::StepClock(), *state->log, -1);
  ::close(isolation::kToldFd);
}

// In the worker: it can't be one. Never returns.
__attribute__((visibility("default"))) void rtlaunch_zygote_refuse(const char* why) {
  refuse(make_error("zygote", "worker", why));
}
}
