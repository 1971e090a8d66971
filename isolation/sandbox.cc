#include "isolation/sandbox.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "isolation/dev.h"
#include "isolation/mounts.h"
#include "isolation/overlay.h"
#include "isolation/pid1.h"
#include "isolation/proc.h"
#include "isolation/report.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "isolation/userns.h"
#include "isolation/worker.h"

namespace rtlaunch::isolation {
namespace {

// Everything that pid 1 holds while it sets up. It never returns, so what is still open at the end
// is closed by number, not by owner.
struct Setup {
  Setup(const Spec& wanted, const StepClock& started) : spec(wanted), clock(started) {}

  const Spec& spec;
  StepClock clock;
  bool rootless = is_rootless();
  uid_t uid = 0;  // as they were before the namespaces were made
  gid_t gid = 0;
  mode_t umask = 0;
  int socket = -1;
  int stdio[3] = {0, 1, 2};
  UniqueFd children;  // signalfd
  Tree tree;
  std::optional<Devices> devices;
  std::optional<Vault> vault;
  UniqueFd upper;
  bool made = false;  // what can fail now is the command's own
};

// --- the steps that are short enough to live here ---

// Only what the sandbox was given stays open; what of it is below 3 and out of place moves up.
Status keep_only_given_descriptors(Setup& s) {
  const int given[3] = {s.spec.stdin_fd, s.spec.stdout_fd, s.spec.stderr_fd};
  for (int i = 0; i < 3; ++i) {
    s.stdio[i] = given[i] == i ? i : TRY(sys::copy_above_stdio(given[i])).release();
  }
  if (s.socket < 3) s.socket = TRY(sys::copy_above_stdio(s.socket)).release();
  std::vector<int> keep = s.spec.leases;
  keep.insert(keep.end(), {s.stdio[0], s.stdio[1], s.stdio[2], s.socket});
  return sys::close_all_but(keep.data(), keep.size());
}

Status watch_children(Setup& s) {
  s.umask = ::umask(0);
  s.children = TRY(sys::block_signals_but_child());
  return sys::die_with_parent();
}

Status own_user_namespace(const Setup& s) {
  return s.rootless ? map_own_ids(s.uid, s.gid) : Status();
}

Status open_devices(Setup& s) {
  s.devices = TRY(Devices::open(s.stdio));
  return {};
}

Status open_host_directories(Setup& s) {
  if (s.spec.root == Root::kHost) {
    TRY(add_writable(s.spec, &s.tree));
    TRY(add_visible(s.spec, &s.tree));
  }
  TRY(add_binds(s.spec, &s.tree));
  return add_mounts_below_overlays(s.spec, &s.tree);
}

Status open_vault(Setup& s) {
  s.vault = TRY(Vault::make(s.spec.upper_bytes));
  return {};
}

Status make_overlays(Setup& s) {
  OverlayContext context{*s.vault, s.rootless, s.spec.use_mount2 || !has_lowerdir_plus()};
  return add_overlays(s.spec, &context, &s.tree, &s.upper);
}

Status make_private_directories(Setup& s) {
  TRY(add_tmp(s.spec, *s.vault, &s.tree));
  TRY(s.devices->add_to(*s.vault, &s.tree));
  TRY(add_proc(s.rootless, &s.tree));
  return add_hidden(s.spec, *s.vault, &s.tree);
}

Status take_root(Setup& s) {
  if (s.spec.root == Root::kEmpty) {
    UniqueFd root = TRY(make_empty_root());
    UniqueFd make_in = TRY(sys::copy_above_stdio(root.get()));
    s.tree.set_own_root(std::move(root), std::move(make_in));
    return {};
  }
  TRY(seal_host_root(s.spec));
  TRY(sys::clear_mount_attributes(s.vault->fd(), MOUNT_ATTR_RDONLY));  // it was attached, so sealed
  s.tree.set_host_root(TRY(sys::open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY)));
  return {};
}

Status fill_dev_and_proc(Setup& s) {
  TRY(s.devices->fill(s.tree.at("/dev")));
  return mask_proc(s.tree.at("/proc"), *s.devices, *s.vault);
}

Status leave_the_host(Setup& s) {
  if (s.spec.root == Root::kHost) return {};
  TRY(sys::set_mount_attributes(s.tree.root(), "", sys::kSafe | MOUNT_ATTR_RDONLY, false));
  return sys::pivot_into(s.tree.root());
}

Status set_hostname(const Spec& spec) {
  if (spec.hostname.empty()) return {};
  if (::sethostname(spec.hostname.c_str(), spec.hostname.size()) == 0) return {};
  return sys_error("sethostname", spec.hostname);
}

bool worker_is_another_user(const Setup& s) { return s.spec.uid && *s.spec.uid != s.uid; }

Result<pid_t> exec(Setup& s) {
  Command command(s.spec, s.stdio, s.umask, &s.clock);
  if (worker_is_another_user(s)) command.privileges.uid = s.spec.uid;
  if (s.spec.keep_caps && !s.rootless && !worker_is_another_user(s)) {
    command.privileges.keep = kKeptByRoot;
  }
  return start_worker(&command);
}

Status become_reaper(Setup& s) {
  std::vector<int> keep = s.spec.leases;
  keep.push_back(s.upper.get());
  return shed_privileges(worker_is_another_user(s), s.socket, s.children.get(), keep);
}

// --- the page ---

// In the new namespaces, as their pid 1. Each line is one step, in an order that matters.
Result<pid_t> enter(Setup& s) {
  StepClock& did = s.clock;
  TRY(did.took("clone", keep_only_given_descriptors(s)));
  TRY(did.took("signals", watch_children(s)));
  TRY(did.took("user namespace", own_user_namespace(s)));
  TRY(did.took("private mounts", sys::make_all_private()));
  // Beyond this point no mount of ours reaches the host, nor one of the host's us.
  TRY(did.took("devices", open_devices(s)));
  TRY(did.took("host directories", open_host_directories(s)));
  TRY(did.took("vault", open_vault(s)));
  TRY(did.took("overlays", make_overlays(s)));
  TRY(did.took("private directories", make_private_directories(s)));
  // All that is the host's has been opened; from here it is covered.
  TRY(did.took("root", take_root(s)));
  TRY(did.took("attach", s.tree.attach_all()));
  TRY(did.took("dev and proc", fill_dev_and_proc(s)));
  TRY(did.took("pivot", leave_the_host(s)));
  // Beyond this point no path leads to an upper, a hidden directory or the host's /dev and /proc;
  // with an empty root, to nothing of the host's.
  TRY(did.took("hostname", set_hostname(s.spec)));
  TRY(did.took("guard", guard_pid1()));
  s.made = true;
  Result<pid_t> worker = exec(s);  // drops every privilege, then execs
  TRY(did.took("exec", worker ? Status() : worker.error()));
  TRY(did.took("reaper", become_reaper(s)));
  return worker;
}

[[noreturn]] void run_pid1(Setup& s) {
  Result<pid_t> worker = enter(s);
  if (!worker) {
    Error& error = worker.error();
    report_failed(s.socket, s.made ? error : explain_setup(std::move(error), s.rootless));
    ::_exit(1);
  }
  report_started(s.socket, s.clock, s.upper.get());
  s.upper.reset();
  serve(s.socket, s.children.get(), *worker);
}

// --- the launcher's side ---

Error bad_path(const std::string& path, const char* reason) {
  return make_error("sandbox", path, reason);
}

Status check_path(const std::string& path) {
  if (path.empty() || path[0] != '/') return bad_path(path, "the path must be absolute");
  if (path.size() >= PATH_MAX) return bad_path(path.substr(0, 80) + "...", "the path is too long");
  if (path.find('\0') != std::string::npos) return bad_path("", "the path has a NUL in it");
  if ((path + "/").find("/../") != std::string::npos)
    return bad_path(path, "the path has .. in it");
  return {};
}

// Makes `path` what mountinfo would write: no `//`, `.` or `/` at the end.
Status clean_path(std::string* path) {
  TRY(check_path(*path));
  *path = sys::absolute_path(*path, "/");
  return {};
}

Status clean_target(std::string* path) {
  TRY(clean_path(path));
  if (*path == "/" || *path == "/dev" || sys::is_beneath(*path, "/proc")) {
    return bad_path(*path, "nothing can be mounted there");
  }
  return {};
}

Status clean_paths(std::vector<std::string>* paths) {
  for (std::string& path : *paths) TRY(clean_path(&path));
  return {};
}

Status clean_overlay(Overlay* overlay) {
  TRY(clean_target(&overlay->target));
  TRY(clean_paths(&overlay->lowers));
  if (overlay->upper.empty()) return {};
  TRY(clean_path(&overlay->upper));
  return clean_path(&overlay->work);
}

Result<Spec> checked(Spec spec) {
  if (spec.argv.empty() || spec.argv[0].empty()) {
    Error error = make_error("exec", "", "no command was given", "name one after --");
    error.exit_code = 127;
    return error;
  }
  if (spec.uid && is_rootless() && *spec.uid != ::geteuid()) {
    return make_error("sandbox", std::to_string(*spec.uid), "only root can run as another user");
  }
  for (Overlay& overlay : spec.overlays) TRY(clean_overlay(&overlay));
  for (Bind& bind : spec.binds) {
    TRY(clean_path(&bind.source));
    TRY(clean_target(&bind.target));
  }
  for (auto* paths : {&spec.writable, &spec.hidden, &spec.visible}) TRY(clean_paths(paths));
  return spec;
}

// Where the caller has closed one of 0-2, the next descriptor we make would become the command's.
Status fill_stdio() {
  for (int fd = 0; fd < 3; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    if (::open("/dev/null", O_RDWR | O_NOCTTY) != fd) return sys_error("stdio", "/dev/null");
  }
  return {};
}

Error pid1_died(Result<int> status) {
  std::string how = status && WIFSIGNALED(*status)
                        ? "was killed by signal " + std::to_string(WTERMSIG(*status))
                        : "ended";
  return make_error("sandbox", "pid 1", "it " + how + " before the command ran",
                    "see the kernel's log (out of memory?)");
}

}  // namespace

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
  TRY(fill_stdio());
  Pair pair = TRY(make_report_pair());
  Setup setup(spec, StepClock());
  setup.uid = ::geteuid();
  setup.gid = ::getegid();
  setup.socket = pair.pid1.get();
  Result<sys::Cloned> cloned = sys::clone_process(sandbox_namespaces(setup.rootless));
  if (!cloned) return explain_clone(std::move(cloned.error()), setup.rootless);
  if (cloned->pid == 0) run_pid1(setup);

  pair.pid1.reset();
  auto state = std::make_unique<Sandbox::State>();
  state->pidfd = std::move(cloned->pidfd);
  state->socket = std::move(pair.launcher);
  Result<Started> started = receive_start(state->socket.get());
  if (!started) {
    Result<int> status = sys::wait_for(state->pidfd.get());
    return started.error().step.empty() ? pid1_died(std::move(status)) : std::move(started.error());
  }
  state->upper = std::move(started->upper);
  for (const StepClock::Step& step : started->steps) {
    state->steps.push_back({step.name, step.nanoseconds / 1000});
  }
  return Sandbox(std::move(state));
}

}  // namespace rtlaunch::isolation
