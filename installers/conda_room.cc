#include "installers/conda_room.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "installers/capture.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::installers {
namespace {

constexpr uint64_t kMostSaid = 64 << 20;

int milliseconds_until(CondaRoom::Deadline deadline) {
  using namespace std::chrono;
  if (deadline == CondaRoom::Deadline::max()) return -1;
  auto left = duration_cast<milliseconds>(deadline - steady_clock::now()).count();
  return int(std::clamp<int64_t>(left, 0, INT32_MAX));
}

Result<std::string> said_in(int fd) {
  if (::lseek(fd, 0, SEEK_SET) != 0) return sys_error("conda", "what it said");
  return sys::read_all(fd, "what it said", kMostSaid);
}

}  // namespace

Result<CondaRoom> CondaRoom::make(const store::Staging& staging, WayOut way_out,
                                  Deadline deadline) {
  CondaRoom room(staging, deadline);
  room.forwarder_ = TRY(Forwarder::start(way_out));
  if (::geteuid() == 0) room.uid_ = kBuildUid;
  isolation::Spec& spec = room.spec_;
  for (const char* path : {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"})
    spec.binds.push_back({path, path, false, true});
  {
    sys::AsRoot root;
    for (const char* name : {"work", "home", "tmp"}) {
      TRY(sys::make_dirs_at(staging.dir(), name));
      if (room.uid_ && ::fchownat(staging.dir(), name, *room.uid_, *room.uid_, 0) != 0)
        return sys_error("chown", name);
    }
  }
  spec.binds.push_back({staging.path() + "/home", "/build/home", true, false});
  spec.binds.push_back({staging.path() + "/tmp", "/build/tmp", true, false});
  spec.root = isolation::Root::kEmpty;
  if (room.uid_) spec.user = isolation::User{*room.uid_, *room.uid_, {}};
  spec.controls = isolation::Controls::of(isolation::FilterBase::kBuild);
  spec.cwd = "/build/tmp";
  spec.new_session = true;
  spec.hostname = "build";
  spec.network = isolation::Network::kNone;
  return room;
}

Status CondaRoom::show(const std::string& path) {
  for (const isolation::Bind& bind : spec_.binds)
    if (sys::is_beneath(path, bind.target)) return {};
  CallersPath found = TRY(CallersPath::open(path));
  spec_.binds.push_back({found.source(), path, false, false});
  shown_.push_back(std::move(found));
  return {};
}

void CondaRoom::show_own(const std::string& source, const std::string& target) {
  spec_.binds.push_back({source, target, false, false});
}

Status CondaRoom::keep(const store::Store& store, const std::string& name,
                       const std::string& target) {
  const sys::Caller* caller = sys::acting_for();
  std::string folder =
      "blobs/" + name + "-" + std::to_string(caller != nullptr ? caller->uid : ::geteuid());
  sys::AsRoot root;
  TRY(sys::make_dirs_at(store.dir(), folder, 0700));
  kept_ = TRY(sys::open_at(store.dir(), folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (uid_ && ::fchown(kept_.get(), *uid_, *uid_) != 0) return sys_error("chown", folder);
  TRY(sys::touch_at(store.dir(), folder));  // its last use
  spec_.binds.push_back({store.path() + "/" + folder, target, true, false});
  return {};
}

Status CondaRoom::mount(const std::string& prefix, std::vector<std::string> layers, bool writable) {
  isolation::Overlay overlay;
  overlay.target = prefix;
  overlay.lowers = std::move(layers);
  overlay.writable = writable;
  if (writable) {
    overlay.upper = staging_.path() + "/tree", overlay.work = staging_.path() + "/work";
    sys::AsRoot root;
    if (uid_ && ::fchownat(staging_.dir(), "tree", *uid_, *uid_, 0) != 0)
      return sys_error("chown", "tree");
  }
  spec_.overlays.push_back(std::move(overlay));
  return {};
}

Result<CondaRoom::Outcome> CondaRoom::run(std::vector<std::string> argv, const std::string& input,
                                          const std::vector<std::string>& variables) {
  sys::AsRoot root;
  UniqueFd in = TRY(sys::memory_file(input));
  UniqueFd out = TRY(sys::open_at(staging_.dir(), ".", O_TMPFILE | O_RDWR, 0600));
  UniqueFd err = TRY(sys::open_at(staging_.dir(), ".", O_TMPFILE | O_RDWR, 0600));
  isolation::Spec spec = spec_;
  for (isolation::Overlay& overlay : spec.overlays) {
    if (overlay.work.empty()) continue;
    overlay.work += "/" + std::to_string(runs_);  // a volatile mount's is used once
    TRY(sys::make_dirs(overlay.work));
  }
  ++runs_;
  spec.argv = std::move(argv);
  spec.env = {"HOME=/build/home", "TMPDIR=/build/tmp", "LC_ALL=C.UTF-8",
              "PYTHONDONTWRITEBYTECODE=1"};
  for (const std::string& pair : Forwarder::environment()) spec.env.push_back(pair);
  spec.env.insert(spec.env.end(), variables.begin(), variables.end());
  bool has_path = std::any_of(variables.begin(), variables.end(),
                              [](const std::string& v) { return v.starts_with("PATH="); });
  if (!has_path)
    spec.env.push_back("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  spec.listener_to = forwarder_->listener_to();
  spec.stdin_fd = in.get(), spec.stdout_fd = out.get(), spec.stderr_fd = err.get();
  isolation::Sandbox sandbox = TRY(isolation::start(spec));
  pollfd done = {sandbox.done_fd(), POLLIN, 0};
  int n;
  do n = ::poll(&done, 1, milliseconds_until(deadline_));
  while (n < 0 && errno == EINTR);
  if (n == 0)
    return make_error("conda", "", "setup takes longer than allowed",
                      "raise config.setup_timeout_seconds");
  int status = TRY(sandbox.wait());
  Outcome outcome;
  outcome.ok = status == 0;
  outcome.out = TRY(said_in(out.get()));
  outcome.err = TRY(said_in(err.get()));
  outcome.mishaps = forwarder_->mishaps();
  return outcome;
}

}  // namespace rtlaunch::installers
