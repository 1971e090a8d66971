#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "isolation/caps.h"
#include "isolation/line.h"
#include "isolation/net.h"
#include "isolation/pid1.h"
#include "isolation/proc.h"
#include "isolation/rehearsal.h"
#include "isolation/setup.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "isolation/sys/title.h"
#include "isolation/sysfs.h"
#include "isolation/time_namespace.h"
#include "isolation/understudy.h"
#include "isolation/userns.h"
#include "isolation/worker.h"

namespace rtlaunch::isolation {

// Only what the sandbox was given stays open; what of it is below 3 and out of place moves up.
Status keep_only_given_descriptors(Setup& s, int more) {
  const int given[3] = {s.spec.stdin_fd, s.spec.stdout_fd, s.spec.stderr_fd};
  for (int i = 0; i < 3; ++i) {
    s.stdio[i] = given[i] == i ? i : TRY(sys::copy_above_stdio(given[i])).release();
  }
  if (s.socket < 3) s.socket = TRY(sys::copy_above_stdio(s.socket)).release();
  std::vector<int> keep = s.spec.leases;
  s.spares.append_to(&keep);
  if (s.rehearsal != nullptr) s.rehearsal->append_to(&keep);
  if (s.devices) s.devices->append_to(&keep);
  if (s.outside) keep.push_back(s.outside->pidfd.get());
  keep.insert(keep.end(), {s.stdio[0], s.stdio[1], s.stdio[2], s.socket, s.spec.line, s.spec.record,
                           s.spec.id_map, s.spec.network_fd, s.spec.listener_to, more});
  return sys::close_all_but(keep.data(), keep.size());
}

Status prepare_without_sandbox(Setup& s, const Prepare& prepare) {
  s.umask = ::umask(0);
  TRY(sys::die_with_parent());
  s.spec = TRY(prepare({s.socket, s.clock, s.spares, s.devices, nullptr}));
  s.spec.new_session = true;
  return {};
}

Status take_clocks(Setup& s) {
  Want want = s.spec.controls.time_namespace;
  if (want == Want::kOff) return {};
  Status took = s.log.took(Control::kTimeNamespace, want, take_new_clocks());
  s.clock.resume();
  return took;
}

namespace {

bool hears_go(int socket) {
  int word;
  ssize_t size;
  while ((size = ::recv(socket, &word, sizeof word, 0)) < 0 && errno == EINTR) {
  }
  return size > 0;
}

}  // namespace

// Supervised: whoever started us has it on record that we are there. From here on we belong to the
// line alone. Its end before that is the end of the launch, and nobody is left to be told.
Status wait_for_go(Setup& s) {
  if (!s.supervised()) return {};
  if (!s.may_go && !hears_go(s.socket)) ::_exit(1);
  (void)send_line(s.spec.line, LineMessage::kGoing, 0).ok();  // its end is seen when we serve it
  return {};
}

namespace {

// --- the steps that are short enough to live here ---

// First of all: it must not outlive who started it, whatever comes.
Status bind_to_launcher(Setup& s) {
  s.umask = ::umask(0);
  return sys::die_with_parent();
}

// A user namespace comes first: without it we have no right to anything.
Status prepare_spec(Setup& s, const Prepare& prepare) {
  if (s.rootless) TRY(map_own_ids(s.uid, s.gid));
  s.spec = TRY(prepare({s.socket, s.clock, s.spares, s.devices, s.outside, &s}));
  if (s.supervised()) s.spec.new_session = true;  // else its kill(0) would be our other children's
  s.rights = TRY(Rights::of(s.spec, s.socket));
  s.tree.emplace(*s.rights);
  return sys::die_with_parent();  // changed credentials forget it
}

Status watch_children(Setup& s) {
  s.children = TRY(sys::block_signals_but_child());
  return {};
}

// To become private is a change of the table, too, and the last of the host's.
Status leave_peer_groups(Setup& s) {
  bool changed = s.spares.mounts && TRY(s.spares.mounts->refresh());
  if (changed) s.spares.sys = {};  // it is the host's of before
  return sys::make_all_private();
}

bool is_shared(const Setup& s) { return s.spec.root == Root::kShared; }

// Namespaces may have been made before it was known that this one goes without.
Status share_with_host(Setup& s) {
  bool has_own = is_shared(s) && !s.shared;
  if ((has_own || s.spec.same_pid) && s.outside == nullptr) {
    return make_error("share", "", "its launcher can't share its host");
  }
  if (has_own) {
    TRY(sys::join_namespaces(s.outside->pidfd.get(), CLONE_NEWIPC | CLONE_NEWUTS));
  }
  if (s.spec.same_pid) s.same_pid = TRY(SamePid::prepare(*s.outside));
  if (is_shared(s)) s.masks_proc = TRY(host_masks_proc(&s.spares));
  return {};
}

Status grant_devices(Setup& s) {
  const DeviceGrants& grants = s.spec.controls.devices;
  if (grants.want == Want::kOff) return {};
  Status done;
  if (is_shared(s)) done = make_error("devices", "", "the sandbox has the host's /dev");
  for (size_t i = 0; done && i < grants.paths.size(); ++i) {
    done = s.devices->grant(grants.paths[i], grants.want == Want::kPrefer);
  }
  return s.log.took(Control::kDevices, grants.want, std::move(done));
}

Status open_devices(Setup& s) {
  if (s.masks_proc) {  // else it needs none
    if (!s.devices) s.devices = TRY(Devices::open());
    s.devices->add_console(s.stdio);
  }
  return grant_devices(s);
}

Status open_host_directories(Setup& s) {
  if (s.spec.root == Root::kHost) {
    TRY(add_writable(s.spec, *s.rights, &*s.tree));
    TRY(add_visible(s.spec, *s.rights, &*s.tree));
  }
  TRY(add_binds(s.spec, *s.rights, &*s.tree));
  return add_mounts_below_overlays(s.spec, *s.rights, &s.spares, &*s.tree);
}

Status open_vault(Setup& s) {
  s.vault = TRY(Vault::make(s.spec.upper_bytes, &s.spares));
  return add_hosts(s.way_out.names, *s.vault, &*s.tree);
}

Status make_overlays(Setup& s) {
  s.overlays.emplace(OverlayContext{*s.vault, *s.rights, s.spec.id_map, s.rootless,
                                    s.spec.use_mount2 || !has_lowerdir_plus()});
  return add_overlays(s.spec, &*s.overlays, &*s.tree, &s.upper);
}

Status take_network(Setup& s) {
  s.way_out = TRY(enter_network(s.spec, s.rootless, std::move(s.spares.network)));
  s.spares.network.reset();
  return {};
}

// Last, since it has to have a place for everything else.
Status make_root_overlay(Setup& s) {
  return add_root_overlay(s.spec, &*s.overlays, &*s.tree, &s.upper);
}

// Not the host's: it is pivoted into.
bool has_own_root(const Setup& s) {
  return s.spec.root == Root::kEmpty || root_overlay(s.spec) != nullptr;
}

// Whether anything in the host's root is to be otherwise than it is there, or mounted.
bool touches(const Spec& spec, const std::string& dir) {
  auto is_in = [&](const std::string& path) { return sys::is_beneath(path, dir); };
  auto any = [&](const std::vector<std::string>& paths) {
    return std::any_of(paths.begin(), paths.end(), is_in);
  };
  return any(spec.visible) || any(spec.hidden) || any(spec.closed) || any(spec.writable) ||
         std::any_of(spec.writable.begin(), spec.writable.end(),
                     [&](const std::string& path) { return sys::is_beneath(dir, path); }) ||
         std::any_of(spec.binds.begin(), spec.binds.end(),
                     [&](const Bind& bind) { return is_in(bind.target); }) ||
         std::any_of(spec.overlays.begin(), spec.overlays.end(),
                     [&](const Overlay& overlay) { return is_in(overlay.target); });
}

// Sealed as the rest of the host's root will be; whose place in it must be looked up with the
// caller's rights, it isn't in there.
bool has_sys_ahead(const Setup& s) {
  return s.spares.sys.valid() && s.spec.root == Root::kHost && !has_own_root(s) &&
         !touches(s.spec, "/sys");
}

Status hide_of_sys(Setup& s) {
  Want want = s.spec.controls.sys_masks;
  if (want == Want::kOff) return {};
  if (has_sys_ahead(s)) {
    s.tree->add(Tree::Kind::kPrivate, "/sys", std::move(s.spares.sys));
  } else if (s.spec.root != Root::kEmpty) {  // else nothing of it is there
    TRY(add_covers(masked_in_sys(), *s.vault, &*s.tree));
  }
  return s.log.took(Control::kSysMasks, want, {});
}

// In the host's root both are there; in one of its own they are mounted.
Status share_devices(Setup& s) {
  if (!has_own_root(s)) return {};
  TRY(add_tmp(s.spec, *s.vault, &s.spares, &*s.tree));
  return add_host_devices(*s.rights, &*s.tree);
}

Status make_private_directories(Setup& s) {
  TRY(hide_of_sys(s));
  TRY(add_hidden(s.spec, *s.vault, &s.spares, &*s.tree));
  Spares none;  // one that was made ahead has been masked
  if (is_shared(s)) {
    TRY(share_devices(s));
    return add_proc(s.rootless, s.masks_proc ? &s.spares : &none, &*s.tree);
  }
  TRY(add_tmp(s.spec, *s.vault, &s.spares, &*s.tree));
  TRY(s.devices->add_to(*s.vault, s.spec.shm_bytes, &s.spares, &*s.tree));
  return add_proc(s.rootless, &s.spares, &*s.tree);
}

Status take_root(Setup& s) {
  if (has_own_root(s)) {
    UniqueFd root = TRY(make_empty_root());
    UniqueFd make_in = TRY(sys::copy_above_stdio(root.get()));
    s.tree->set_own_root(std::move(root), std::move(make_in));
    return {};
  }
  if (s.spec.root == Root::kHost) {
    TRY(seal_host_root(s.spec));
    // It was attached, so sealed.
    TRY(sys::clear_mount_attributes(s.vault->fd(), MOUNT_ATTR_RDONLY));
  }
  s.tree->set_host_root(TRY(sys::open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY)));
  return {};
}

Status hide_processes(Setup& s) {
  Want want = s.spec.controls.hide_pid;
  if (want == Want::kOff) return {};
  return s.log.took(Control::kHidePid, want, hide_others_processes(s.tree->at("/proc")));
}

Status fill_dev_and_proc(Setup& s) {
  if (!is_shared(s)) TRY(s.devices->fill(s.tree->at("/dev"), &s.spares));
  TRY(hide_processes(s));
  if (!s.masks_proc || s.spares.proc_is_masked) return {};
  sys::Mount nothing = is_shared(s) ? s.devices->take_null()
                                    : TRY(sys::clone_mount(s.devices->null().fd(), "", false));
  return mask_proc(s.tree->at("/proc"), std::move(nothing), *s.vault);
}

Status leave_the_host(Setup& s) {
  if (!has_own_root(s)) return {};
  if (root_overlay(s.spec) == nullptr) {
    TRY(sys::set_mount_attributes(s.tree->root(), "", sys::kSafe | MOUNT_ATTR_RDONLY, false));
  }
  return sys::pivot_into(s.tree->root());
}

Status set_hostname(const Spec& spec) {
  if (spec.hostname.empty()) return {};
  if (::sethostname(spec.hostname.c_str(), spec.hostname.size()) == 0) return {};
  return sys_error("sethostname", spec.hostname);
}

Status show_pid1(const Spec& spec) {
  return spec.pid1_shown_as.empty() ? Status() : sys::show_as(spec.pid1_shown_as);
}

Status go(Setup& s) {
  TRY(wait_for_go(s));
  return s.supervised() ? sys::outlive_parent() : Status();
}

bool worker_is_another_user(const Setup& s) { return s.spec.user && s.spec.user->uid != s.uid; }

Result<pid_t> exec(Setup& s) {
  Command command(s.spec, s.stdio, s.umask, &s.clock, &s.log);
  command.privileges = privileges_of(s);
  if (s.same_pid) command.same_pid = &*s.same_pid;
  auto performed = s.understudy ? s.understudy->perform(&command) : std::nullopt;
  return performed ? std::move(*performed) : start_worker(&command);
}

Status become_reaper(Setup& s) {
  if (s.rehearsal != nullptr) s.rehearsal->part();
  std::vector<int> keep = s.spec.leases;
  keep.insert(keep.end(), {s.upper.get(), s.socket, s.children.get(), s.spec.line, s.spec.record,
                           s.way_out.translation.get(), s.limits.memory(), s.limits.pids()});
  // When the sandbox is out of memory all in it is killed but us, who tell it.
  if (s.limits.memory() >= 0) (void)sys::set_oom_score(-1000).ok();
  return shed_privileges(worker_is_another_user(s), s.supervised(), keep);
}

}  // namespace

Privileges privileges_of(const Setup& s) {
  Privileges privileges;
  privileges.shrunk = s.spares.bounding_set_is_shrunk;
  if (!s.rootless) privileges.user = s.spec.user;
  bool keeps = s.spec.keep_caps && !s.rootless && !worker_is_another_user(s);
  if (keeps) privileges.keep = kKeptByRoot;
  return privileges;
}

// --- the page ---

Status make_mounts(Setup& s) {
  StepClock& did = s.clock;
  TRY(did.took("private mounts", leave_peer_groups(s)));
  // Beyond this point no mount of ours reaches the host, nor one of the host's us.
  TRY(did.took("share", share_with_host(s)));
  TRY(did.took("network", take_network(s)));
  TRY(did.took("devices", open_devices(s)));
  TRY(did.took("host directories", open_host_directories(s)));
  TRY(did.took("vault", open_vault(s)));
  TRY(did.took("overlays", make_overlays(s)));
  TRY(did.took("private directories", make_private_directories(s)));
  TRY(did.took("image", make_root_overlay(s)));
  // All that is the host's has been opened; from here it is covered.
  TRY(did.took("root", take_root(s)));
  TRY(did.took("attach", s.tree->attach_all()));
  TRY(did.took("dev and proc", fill_dev_and_proc(s)));
  TRY(did.took("pivot", leave_the_host(s)));
  return {};
}

namespace {

// They may have been made for a Spec of the same.
Status have_mounts(Setup& s) {
  if (s.rehearsal == nullptr) return make_mounts(s);
  if (s.rehearsal->fits(s)) return s.clock.took(kSameAgain, s.rehearsal->take(s));
  s.rehearsal->leave();
  TRY(s.clock.took("rehearsal", {}));
  return make_mounts(s);
}

// In the new namespaces, as their pid 1. Each line is one step, in an order that matters.
Result<pid_t> enter(Setup& s, const Prepare& prepare) {
  StepClock& did = s.clock;
  TRY(did.took("clone", bind_to_launcher(s)));
  TRY(did.took("request", prepare_spec(s, prepare)));
  TRY(did.took("descriptors", keep_only_given_descriptors(s, -1)));
  TRY(did.took("signals", watch_children(s)));
  TRY(did.took("cgroup", limit_by_cgroup(s.spec.controls, &s.log, &s.limits)));
  TRY(have_mounts(s));
  // Beyond this point no path leads to an upper, a hidden directory or the host's /dev and /proc;
  // with a root of its own, to nothing of the host's.
  TRY(did.took("hostname", set_hostname(s.spec)));
  TRY(did.took("title", show_pid1(s.spec)));
  TRY(take_clocks(s));
  TRY(did.took("guard", guard_pid1()));
  TRY(did.took("go", go(s)));
  // Beyond this point a supervised sandbox lives as long as its line, whoever made it.
  s.made = true;
  Result<pid_t> worker = exec(s);  // drops every privilege, then execs
  TRY(did.took("exec", worker ? Status() : worker.error()));
  TRY(did.took("reaper", become_reaper(s)));
  return worker;
}

// A build, whose files somebody waits for: its mounts are gone by then.
bool leaves_files(const Spec& spec) {
  return spec.root == Root::kEmpty ||
         std::any_of(spec.overlays.begin(), spec.overlays.end(),
                     [](const Overlay& overlay) { return !overlay.upper.empty(); });
}

void tell_started(Setup& s) {
  report_started(s.socket, s.clock, s.log, s.supervised() ? -1 : s.upper.get());
  if (s.supervised()) (void)send_line(s.spec.line, LineMessage::kStarted, 0, s.upper.get()).ok();
  s.upper.reset();
  if (s.supervised()) ::close(s.socket);
}

}  // namespace

void Preparing::make_ahead(int covers, bool way_out) const {
  if (way_out) {
    if (auto network = make_network_ahead()) spares.network = std::move(*network);
  }
  spares.bounding_set_is_shrunk = shrink_bounding_set().ok();  // the worker drops the rest
  spares.make_all(covers);
  Result<Devices> opened = Devices::open();
  if (!opened) return;  // told about when they are needed
  devices = std::move(*opened);
  mask_ahead(*devices, &spares);
  mask_sys_ahead(&spares);
  devices->make_ahead(&spares);
}

Status Preparing::rehearse(Spec spec, std::vector<int> keep) const {
  if (setup == nullptr || !Rehearsal::suits(spec)) {
    return make_error("rehearse", "", "it can't be made ahead");
  }
  keep.insert(keep.end(), spec.leases.begin(), spec.leases.end());
  setup->rehearsal = TRY(Rehearsal::make(*setup, std::move(spec)));
  setup->rehearsal->append_to(&keep);
  return sys::close_all_but(keep.data(), keep.size());
}

void Preparing::may_go() const { setup->may_go = true; }

void run_pid1(Setup& s, const Prepare& prepare) {
  Result<pid_t> worker = enter(s, prepare);
  if (!worker) {
    Error& error = worker.error();
    report_failed(s.socket, s.made ? error : explain_setup(std::move(error), s.rootless));
    ::_exit(1);
  }
  tell_started(s);
  if (s.supervised())
    serve_line({s.children.get(), s.spec.line, s.spec.record, -1, &s.limits}, *worker);
  serve(s.socket, s.children.get(), s.limits, *worker, !leaves_files(s.spec));
}

}  // namespace rtlaunch::isolation
