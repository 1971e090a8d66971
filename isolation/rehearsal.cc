#include "isolation/rehearsal.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "isolation/pid1.h"
#include "isolation/spec_wire.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "isolation/worker.h"

namespace rtlaunch::isolation {
namespace {

// All of a Spec that a caller may choose, but for the command.
std::string chosen(Spec& spec) {
  Spec command;
  auto swap = [&] {
    std::swap(spec.argv, command.argv);
    std::swap(spec.env, command.env);
    std::swap(spec.cwd, command.cwd);
    std::swap(spec.umask, command.umask);
    std::swap(spec.new_session, command.new_session);
  };
  swap();
  std::string text = encode(spec);
  swap();
  return text;
}

bool asks_for_the_same(Spec& a, Spec& b) {
  return a.caller == b.caller && a.user == b.user && a.store == b.store && a.closed == b.closed &&
         (a.id_map < 0) == (b.id_map < 0) && chosen(a) == chosen(b);
}

// One has to be shown inside.
bool has_terminal(const Setup& setup) {
  return std::any_of(std::begin(setup.stdio), std::end(setup.stdio),
                     [](int fd) { return ::isatty(fd) == 1; });
}

std::vector<std::string> paths_of(const Spec& spec) {
  std::vector<std::string> paths = {"/tmp", "/var/tmp"};
  for (const auto* some : {&spec.writable, &spec.visible, &spec.hidden, &spec.closed}) {
    paths.insert(paths.end(), some->begin(), some->end());
  }
  for (const Bind& bind : spec.binds) paths.insert(paths.end(), {bind.source, bind.target});
  for (const Overlay& overlay : spec.overlays) {
    paths.push_back(overlay.target);
    paths.insert(paths.end(), overlay.lowers.begin(), overlay.lowers.end());
  }
  return paths;
}

std::unique_ptr<Understudy> understudy_for(Setup& made) {
  if (!Understudy::suits(made.spec)) return nullptr;
  Command command(made.spec, made.stdio, made.umask, &made.clock, &made.log);
  command.privileges = privileges_of(made);
  return Understudy::prepare(&command);
}

constexpr size_t kMostLooks = 32;

// Where the last command was looked for the next one will be. What leads there through a new
// overlay the kernel then knows.
void find_program(const Spec& spec, const Rights& rights) {
  auto as_caller = rights.borrow();
  if (!as_caller) return;
  struct stat info = {};
  (void)::stat(spec.cwd.c_str(), &info);
  size_t looks = 0;
  for (const std::string& path : programs_of(spec)) {
    bool looks_on = path[0] == '/' && looks++ < kMostLooks && ::stat(path.c_str(), &info) != 0;
    if (!looks_on) return;
  }
}

}  // namespace

Result<Rehearsal::Place> Rehearsal::Place::here() {
  Place place;
  place.mounts = TRY(sys::open_at(AT_FDCWD, "/proc/self/ns/mnt", O_RDONLY));
  place.root = TRY(sys::open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
  return place;
}

// setns(2) would leave us in the namespace's own root, whatever ours was.
Status Rehearsal::Place::enter() const {
  TRY(sys::join_namespaces(mounts.get(), CLONE_NEWNS));
  if (::fchdir(root.get()) != 0 || ::chroot(".") != 0) return sys_error("chroot", "/");
  return {};
}

bool Rehearsal::suits(const Spec& spec) {
  bool own_upper = std::any_of(spec.overlays.begin(), spec.overlays.end(),
                               [](const Overlay& overlay) { return !overlay.upper.empty(); });
  return spec.root == Root::kHost && root_overlay(spec) == nullptr && !own_upper &&
         spec.network == Network::kHost && !spec.same_pid && spec.goes_on == nullptr &&
         spec.controls.devices.want == Want::kOff && !spec.controls.wants_cgroup();
}

// What each path leads to. The caller's rights are borrowed once; a layer's tree never changes.
Result<Rehearsal::Seen> Rehearsal::look(const Spec& spec, const Rights& rights) {
  Rights::Borrowed as_caller = TRY(rights.borrow());
  Seen seen;
  for (const std::string& path : paths_of(spec)) {
    if (rights.is_layer(path)) continue;
    struct stat info = {};
    if (::stat(path.c_str(), &info) != 0) {
      seen.push_back(static_cast<uint64_t>(errno));
      continue;
    }
    seen.insert(seen.end(), {0, info.st_dev, info.st_ino, info.st_mode, info.st_uid, info.st_gid});
  }
  return seen;
}

Result<Rehearsal*> Rehearsal::make(Setup& setup, Spec spec) {
  auto* rehearsal = new Rehearsal;
  Setup& made = rehearsal->made_;
  made.uid = setup.uid;
  made.gid = setup.gid;
  made.socket = setup.socket;
  made.umask = setup.umask;
  made.spec = std::move(spec);
  std::fill(std::begin(made.stdio), std::end(made.stdio), -1);
  made.rights = TRY(Rights::of(made.spec, made.socket));
  made.tree.emplace(*made.rights);
  rehearsal->seen_ = TRY(look(made.spec, *made.rights));
  rehearsal->own_ = TRY(Place::here());
  made.spares = std::exchange(setup.spares, {});
  setup.spares.bounding_set_is_shrunk = made.spares.bounding_set_is_shrunk;
  made.devices = std::exchange(setup.devices, {});
  TRY(sys::unshare_mounts());
  auto theirs = Place::here();  // its /proc is covered soon
  Status done = theirs ? make_mounts(made) : Status(theirs.error());
  if (done) find_program(made.spec, *made.rights);
  if (done) rehearsal->understudy_ = understudy_for(made);
  // In the wrong place, or with nobody to belong to, it must do nothing more.
  if (!rehearsal->own_.enter() || !sys::die_with_parent()) ::_exit(1);
  TRY(std::move(done));
  rehearsal->theirs_ = std::move(*theirs);
  return rehearsal;
}

bool Rehearsal::fits(Setup& setup) const {
  auto& made = const_cast<Setup&>(made_);
  if (!made.spares.mounts || has_terminal(setup)) return false;
  if (!suits(setup.spec) || !asks_for_the_same(made.spec, setup.spec)) return false;
  auto changed = made.spares.mounts->refresh();
  if (!changed || *changed) return false;
  auto seen = look(setup.spec, *setup.rights);
  return seen && *seen == seen_;
}

void Rehearsal::take_understudy(Setup& setup) {
  if (!understudy_) return;
  bool fits = setup.spec.new_session && setup.spec.limits == made_.spec.limits &&
              setup.spec.keep_caps == made_.spec.keep_caps;
  if (fits) setup.understudy = understudy_.get();
  if (!fits) understudy_->dismiss();
}

Status Rehearsal::take(Setup& setup) {
  TRY(theirs_.enter());
  take_understudy(setup);
  setup.upper = std::move(made_.upper);
  setup.masks_proc = made_.masks_proc;
  setup.log.replace(made_.log.all());
  left_ = own_.mounts.get();
  return {};
}

void Rehearsal::leave() {
  if (understudy_) understudy_->dismiss();
  left_ = theirs_.mounts.get();
}

void Rehearsal::part() const { leave_to_the_kernel(left_); }

void Rehearsal::append_to(std::vector<int>* descriptors) const {
  if (made_.spares.mounts) descriptors->push_back(made_.spares.mounts->fd());
  descriptors->insert(descriptors->end(),
                      {own_.mounts.get(), own_.root.get(), theirs_.mounts.get(), theirs_.root.get(),
                       made_.upper.get(), understudy_ ? understudy_->fd() : -1});
}

}  // namespace rtlaunch::isolation
