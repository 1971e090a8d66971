#include "isolation/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/bare.h"
#include "isolation/cgroup.h"
#include "isolation/cgroup_limits.h"
#include "isolation/check.h"
#include "isolation/join.h"
#include "isolation/net.h"
#include "isolation/setup.h"
#include "isolation/sys/process.h"
#include "isolation/userns.h"

namespace rtlaunch::isolation {
namespace {

// Where the caller has closed one of 0-2, the next descriptor we make would become the command's.
Status fill_stdio() {
  for (int fd = 0; fd < 3; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    if (::open("/dev/null", O_RDWR | O_NOCTTY) != fd) return sys_error("stdio", "/dev/null");
  }
  return {};
}

}  // namespace

// --- Launch ---

Result<Launch> Launch::begin(const Prepare& prepare, const LaunchOptions& options) {
  TRY(fill_stdio());
  Pair pair = TRY(make_report_pair());
  Setup setup;
  setup.rootless = is_rootless();
  setup.uid = ::geteuid();
  setup.gid = ::getegid();
  setup.socket = pair.pid1.get();
  setup.outside = options.outside;
  setup.shared = options.shared;
  uint64_t namespaces = options.bare ? 0 : sandbox_namespaces(setup.rootless, options.shared);
  Result<sys::Cloned> cloned =
      sys::clone_process({namespaces, options.cgroup, options.exit_signal});
  if (!cloned) return explain_clone(std::move(cloned.error()), setup.rootless);
  if (cloned->pid == 0) {
    pair.launcher.reset();  // or we would keep our own socket from ending
    if (options.bare) run_bare(setup, prepare);
    run_pid1(setup, prepare);
  }
  Launch launch;
  launch.pid_ = cloned->pid;
  launch.pidfd_ = std::move(cloned->pidfd);
  launch.socket_ = std::move(pair.launcher);
  return launch;
}

Result<Launch> Launch::join(const Prepare& prepare, int target, const LaunchOptions& options) {
  Pair pair = TRY(make_report_pair());
  StepClock clock;
  sys::Cloned cloned = TRY(sys::clone_process({0, options.cgroup, options.exit_signal}));
  if (cloned.pid == 0) {
    pair.launcher.reset();
    run_join(pair.pid1.get(), target, prepare, clock);
  }
  Launch launch;
  launch.pid_ = cloned.pid;
  launch.pidfd_ = std::move(cloned.pidfd);
  launch.socket_ = std::move(pair.launcher);
  return launch;
}

void Launch::go() const {
  int word = 0;
  (void)!::send(fd(), &word, sizeof word, MSG_NOSIGNAL | MSG_DONTWAIT);
}

Error Launch::died(Result<int> status) {
  std::string how = status && WIFSIGNALED(*status)
                        ? "was killed by signal " + std::to_string(WTERMSIG(*status))
                        : "ended";
  return make_error("sandbox", "pid 1", "it " + how + " before the command ran",
                    "see the kernel's log (out of memory?)");
}

// --- Sandbox ---

namespace {

// A leaf only where something is to be limited: who can't have one is told by pid 1 itself.
struct OwnLeaf {
  std::optional<Cgroups> cgroups;
  std::optional<Leaf> leaf;
  int fd() const { return leaf ? leaf->fd.get() : -1; }
};

OwnLeaf make_leaf(const Controls& controls) {
  OwnLeaf own;
  if (!controls.wants_cgroup()) return own;
  own.cgroups = Cgroups::open("", "rtlaunch");
  if (!own.cgroups) return own;
  Result<Leaf> leaf = own.cgroups->make();
  if (leaf) own.leaf = std::move(*leaf);
  return own;
}

}  // namespace

struct Sandbox::State {
  UniqueFd pidfd, socket, upper;
  UniqueFd network;  // kEgress: for what it has refused
  std::vector<Step> steps;
  std::vector<Applied> applied;
  std::string met;
  std::optional<Cgroups> cgroups;
  std::string leaf;           // in them
  std::optional<int> status;  // the command's, once pid 1 has been reaped

  void end_leaf() {
    if (!leaf.empty()) cgroups->end(leaf);
    if (cgroups) cgroups->leave();
    leaf.clear();
    cgroups.reset();
  }
};

Sandbox::Sandbox(std::unique_ptr<State> state) : state_(std::move(state)) {}
Sandbox::Sandbox(Sandbox&&) noexcept = default;

Sandbox& Sandbox::operator=(Sandbox&& other) noexcept {
  std::unique_ptr<State> taken = std::move(other.state_);  // first: `other` may be us
  Sandbox ended(std::move(state_));
  state_ = std::move(taken);
  return *this;
}

Sandbox::~Sandbox() {
  if (!state_ || state_->status) return;
  if (state_->pidfd.valid()) {
    (void)sys::send_signal(state_->pidfd.get(), SIGKILL).ok();
    (void)sys::wait_for(state_->pidfd.get()).ok();
  }
  state_->end_leaf();
}

Status Sandbox::send(int signal) {
  if (::send(state_->socket.get(), &signal, sizeof signal, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
    return {};
  }
  // The command has ended: there is nobody left to signal, and wait() tells the rest.
  if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) return {};
  return sys_error("send signal", std::to_string(signal));
}

int Sandbox::done_fd() const { return state_->pidfd.get(); }
int Sandbox::upper_dir() const { return state_->upper.get(); }
const std::vector<Sandbox::Step>& Sandbox::steps() const { return state_->steps; }
const std::vector<Applied>& Sandbox::applied() const { return state_->applied; }
const std::string& Sandbox::met() const { return state_->met; }

std::optional<uint64_t> Sandbox::refused() const {
  if (!state_->network.valid()) return std::nullopt;
  auto count = refused_packets(state_->network.get());
  return count ? std::optional<uint64_t>(*count) : std::nullopt;
}

// A pid 1 that was killed, with all that was out of memory or without, says nothing.
Result<int> Sandbox::wait() {
  if (state_->status) return *state_->status;
  int pid1 = TRY(sys::wait_for(state_->pidfd.get()));
  Ended ended = receive_end(state_->socket.get());
  state_->status = ended.status >= 0 ? ended.status : pid1;
  if (ended.status < 0 && !state_->leaf.empty()) {
    ended.reached = LimitWatch::of(state_->leaf).reached();
  }
  if (ended.reached) state_->met = described(*ended.reached);
  state_->end_leaf();
  return *state_->status;
}

Result<Sandbox> start(const Spec& wanted) {
  Spec spec = TRY(checked(wanted));
  bool shared = spec.root == Root::kShared, way_out = spec.network == Network::kEgress;
  std::optional<Outside> outside;
  if (shared || spec.same_pid) outside = TRY(Outside::look());
  OwnLeaf own = make_leaf(spec.controls);
  Sandbox sandbox(std::make_unique<Sandbox::State>());
  Sandbox::State& state = *sandbox.state_;
  if (own.leaf) state.leaf = own.leaf->path;
  state.cgroups = std::move(own.cgroups);
  LaunchOptions options{
      .cgroup = own.fd(), .outside = outside ? &*outside : nullptr, .shared = shared};
  Launch launch = TRY(
      Launch::begin([&](const Preparing&) -> Result<Spec> { return std::move(spec); }, options));
  Result<Started> started = launch.finish();
  if (!started) {
    Result<int> status = sys::wait_for(launch.pidfd());
    return started.error().step.empty() ? Launch::died(std::move(status))
                                        : std::move(started.error());
  }
  state.pidfd = launch.take_pidfd();
  state.socket = launch.take_socket();
  if (way_out) {
    if (auto network = open_network(launch.pid())) state.network = std::move(*network);
  }
  state.upper = std::move(started->upper);
  state.applied = std::move(started->applied);
  for (const StepClock::Step& step : started->steps) {
    state.steps.push_back({step.name, step.nanoseconds / 1000});
  }
  return sandbox;
}

}  // namespace rtlaunch::isolation
