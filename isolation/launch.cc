#include "isolation/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/check.h"
#include "isolation/join.h"
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
  uint64_t namespaces = sandbox_namespaces(setup.rootless, options.shared);
  Result<sys::Cloned> cloned =
      sys::clone_process({namespaces, options.cgroup, options.exit_signal});
  if (!cloned) return explain_clone(std::move(cloned.error()), setup.rootless);
  if (cloned->pid == 0) {
    pair.launcher.reset();  // or we would keep our own socket from ending
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

struct Sandbox::State {
  UniqueFd pidfd, socket, upper;
  std::vector<Step> steps;
  std::optional<int> status;  // the command's, once pid 1 has been reaped
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
  (void)sys::send_signal(state_->pidfd.get(), SIGKILL).ok();
  (void)sys::wait_for(state_->pidfd.get()).ok();
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

Result<int> Sandbox::wait() {
  if (state_->status) return *state_->status;
  int pid1 = TRY(sys::wait_for(state_->pidfd.get()));
  int reported = receive_end(state_->socket.get());
  state_->status = reported >= 0 ? reported : pid1;
  return *state_->status;
}

Result<Sandbox> start(const Spec& wanted) {
  Spec spec = TRY(checked(wanted));
  bool shared = spec.root == Root::kShared;
  std::optional<Outside> outside;
  if (shared || spec.same_pid) outside = TRY(Outside::look());
  LaunchOptions options{.outside = outside ? &*outside : nullptr, .shared = shared};
  Launch launch = TRY(
      Launch::begin([&](const Preparing&) -> Result<Spec> { return std::move(spec); }, options));
  auto state = std::make_unique<Sandbox::State>();
  Result<Started> started = launch.finish();
  if (!started) {
    Result<int> status = sys::wait_for(launch.pidfd());
    return started.error().step.empty() ? Launch::died(std::move(status))
                                        : std::move(started.error());
  }
  state->pidfd = launch.take_pidfd();
  state->socket = launch.take_socket();
  state->upper = std::move(started->upper);
  for (const StepClock::Step& step : started->steps) {
    state->steps.push_back({step.name, step.nanoseconds / 1000});
  }
  return Sandbox(std::move(state));
}

}  // namespace rtlaunch::isolation
