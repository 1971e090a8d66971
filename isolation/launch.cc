#include "isolation/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "isolation/ahead.h"
#include "isolation/bare.h"
#include "isolation/cgroup.h"
#include "isolation/cgroup_limits.h"
#include "isolation/check.h"
#include "isolation/join.h"
#include "isolation/net.h"
#include "isolation/setup.h"
#include "isolation/spec_wire.h"
#include "isolation/sys/message.h"
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
  std::optional<Ended> told;  // by pid 1, before its own end
  std::optional<int> status;  // the command's, once pid 1 has been reaped

  const Ended& hear_end() {
    if (!told) told = receive_end(socket.get());
    if (told->reached) met = described(*told->reached);
    return *told;
  }

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

int Sandbox::done_fd() const { return state_->socket.get(); }
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
  int said = state_->hear_end().status;
  state_->status = said >= 0 ? said : pid1;
  if (said < 0 && !state_->leaf.empty()) {
    auto reached = LimitWatch::of(state_->leaf).reached();
    if (reached) state_->met = described(*reached);
  }
  state_->end_leaf();
  return *state_->status;
}

Result<int> Sandbox::ended() {
  if (state_->status || !state_->leaf.empty()) return wait();
  struct pollfd told = {state_->socket.get(), POLLIN, 0};
  while (::poll(&told, 1, -1) < 0 && errno == EINTR) {
  }
  int said = state_->hear_end().status;
  return said >= 0 ? Result<int>(said) : wait();
}

// pid 1 is there; it tells how it went on.
Result<Sandbox> Sandbox::of(Launch launch, std::unique_ptr<State> state, bool way_out) {
  Sandbox sandbox(std::move(state));
  Result<Started> started = launch.finish();
  if (!started) {
    Result<int> status = sys::wait_for(launch.pidfd());
    return started.error().step.empty() ? Launch::died(std::move(status))
                                        : std::move(started.error());
  }
  State& made = *sandbox.state_;
  made.pidfd = launch.take_pidfd();
  made.socket = launch.take_socket();
  if (way_out) {
    if (auto network = open_network(launch.pid())) made.network = std::move(*network);
  }
  made.upper = std::move(started->upper);
  made.applied = std::move(started->applied);
  for (const StepClock::Step& step : started->steps) {
    made.steps.push_back({step.name, step.nanoseconds / 1000});
  }
  return sandbox;
}

Result<Sandbox> start(const Spec& wanted) {
  Spec spec = TRY(checked(wanted));
  bool shared = spec.root == Root::kShared, way_out = spec.network == Network::kEgress;
  std::optional<Outside> outside;
  if (shared || spec.same_pid) outside = TRY(Outside::look());
  OwnLeaf own = make_leaf(spec.controls);
  auto state = std::make_unique<Sandbox::State>();
  if (own.leaf) state->leaf = own.leaf->path;
  state->cgroups = std::move(own.cgroups);
  LaunchOptions options{
      .cgroup = own.fd(), .outside = outside ? &*outside : nullptr, .shared = shared};
  Launch launch = TRY(
      Launch::begin([&](const Preparing&) -> Result<Spec> { return std::move(spec); }, options));
  return Sandbox::of(std::move(launch), std::move(state), way_out);
}

// --- Ahead ---

namespace {

constexpr size_t kMostLeases = 250, kMostSent = 128 << 10;  // what one message takes

// keep_caps, which is in no document, comes first.
std::string as_sent(const Spec& spec) { return (spec.keep_caps ? "\1" : "\2") + encode(spec); }

Result<Spec> from_sent(std::string_view bytes) {
  Spec spec = TRY(decode(bytes.substr(1)));
  spec.keep_caps = bytes[0] == 1;
  return spec;
}

constexpr int kCovers = 1;  // the store's; one too many would have to be given back

// In pid 1.
Result<Spec> await_spec(const Preparing& preparing, const Ahead::Finish& finish) {
  preparing.make_ahead(kCovers, false);
  auto buffer = std::make_unique_for_overwrite<char[]>(kMostSent);
  Result<sys::Received> came =
      sys::receive_message(preparing.socket, buffer.get(), kMostSent, kMostLeases);
  if (!came || came->size == 0) ::_exit(1);  // the launcher had no use for us
  preparing.clock.restart();
  Spec spec = TRY(from_sent({buffer.get(), came->size}));
  for (UniqueFd& lease : came->fds) spec.leases.push_back(lease.release());
  TRY(finish(&spec));
  return spec;
}

// Those are known to no document, and what needs them has to be made from the start.
bool is_by_ourselves(const Spec& spec) {
  bool ours = !spec.user && !spec.caller && !spec.limits && spec.goes_on == nullptr &&
              spec.controls.seccomp.program.empty();
  return ours && spec.closed.empty() && spec.networks.empty() && !spec.use_mount2;
}

bool has_own_descriptors(const Spec& spec) {
  bool stdio = spec.stdin_fd == 0 && spec.stdout_fd == 1 && spec.stderr_fd == 2;
  return !stdio ||
         std::max({spec.line, spec.record, spec.id_map, spec.network_fd, spec.listener_to}) >= 0;
}

}  // namespace

Result<Ahead> Ahead::begin(const Prepare& prepare) {
  auto wait = [&](const Preparing& preparing) { return await_spec(preparing, prepare()); };
  return Ahead(TRY(Launch::begin(wait)));
}

Ahead::~Ahead() {
  if (launch_.pidfd() < 0) return;
  (void)sys::send_signal(launch_.pidfd(), SIGKILL).ok();
  (void)sys::wait_for(launch_.pidfd()).ok();
}

bool Ahead::fits(const Spec& spec) {
  if (spec.root == Root::kShared || spec.same_pid || spec.controls.wants_cgroup()) return false;
  if (spec.network == Network::kEgress) return false;
  bool own_upper = std::any_of(spec.overlays.begin(), spec.overlays.end(),
                               [](const Overlay& overlay) { return !overlay.upper.empty(); });
  return is_by_ourselves(spec) && !has_own_descriptors(spec) && !own_upper &&
         spec.leases.size() <= kMostLeases;
}

Status Ahead::tell(const Spec& wanted) {
  Spec spec = TRY(checked(wanted));
  std::string sent = as_sent(spec);
  if (sent.size() > kMostSent) return Error{"send", EMSGSIZE, "", "", "", 125};
  TRY(sys::send_message(launch_.fd(), sent, spec.leases));
  return {};
}

Result<Sandbox> Ahead::finish() {
  return Sandbox::of(std::move(launch_), std::make_unique<Sandbox::State>(), false);
}

}  // namespace rtlaunch::isolation
