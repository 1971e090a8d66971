#include "installers/build_root.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "installers/capture.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/run_program.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

constexpr size_t kSaidLimit = 1 << 20;
constexpr size_t kMostSkeleton = 50'000;

std::vector<std::string> names_in(const std::string& path) {
  auto fd = sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (!fd.ok()) return {};
  auto names = sys::list_dir(fd->get());
  return names.ok() ? std::move(names.value()) : std::vector<std::string>{};
}

Status give(int dir, const std::string& name, uid_t uid) {
  if (::fchownat(dir, name.c_str(), uid, uid, AT_SYMLINK_NOFOLLOW) != 0)
    return sys_error("chown", name);
  struct stat st;
  if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return sys_error("stat", name);
  if (!S_ISDIR(st.st_mode)) return {};
  UniqueFd sub = TRY(sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  for (const std::string& child : TRY(sys::list_dir(sub.get()))) TRY(give(sub.get(), child, uid));
  return {};
}

// The links on the way to the program: /opt/py/bin/python → python3 → python3.11.
std::vector<std::string> folders_of_links(std::string path) {
  std::vector<std::string> folders;
  for (int i = 0; i < 16; ++i) {
    folders.push_back(sys::parent_of(path));
    char target[4096];
    ssize_t n = ::readlink(path.c_str(), target, sizeof target - 1);
    if (n <= 0) break;
    path = sys::absolute_path(std::string(target, size_t(n)), sys::parent_of(path));
  }
  return folders;
}

Result<std::string> tail_of(int fd) {
  off_t size = ::lseek(fd, 0, SEEK_END);
  off_t start = size > off_t(kSaidLimit) ? size - off_t(kSaidLimit) : 0;
  std::string text(size_t(size - start), '\0');
  ssize_t n = ::pread(fd, text.data(), text.size(), start);
  text.resize(n > 0 ? size_t(n) : 0);
  return text;
}

// What tools open for writing rather than replace: markers of a cache, and a build's own metadata.
bool is_opened_for_writing(const std::string& folder, const std::string& name,
                           const struct stat& st) {
  bool marker = name == ".git" || name == ".gitignore" || name == ".lock" || name == "CACHEDIR.TAG";
  return S_ISREG(st.st_mode) && ((marker && st.st_size < 4096) ||
                                 (folder.ends_with(".egg-info") && st.st_size < (1 << 20)));
}

// Whether the caller may look into it. What he may not see must not be opened up by a directory of
// the same name in an upper.
bool is_open_to_caller(const std::string& path) {
  return sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW).ok();
}

Status add_folder(int into, const std::string& name, UniqueFd& made) {
  sys::AsRoot root;
  TRY(sys::make_dirs_at(into, name));
  made = TRY(sys::open_at(into, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  return {};
}

Status add_file(int into, const std::string& name, const std::string& text) {
  sys::AsRoot root;
  return sys::replace_file_at(into, name, text);
}

// An upper in which the build user owns every folder of `source` that the caller may look into.
Status make_writable_upper(const std::string& source, int into, size_t& folders) {
  if (++folders > kMostSkeleton) return {};  // what is beyond can be read, not written
  for (const std::string& name : names_in(source)) {
    std::string from = source + "/" + name;
    struct stat st;
    if (::lstat(from.c_str(), &st) != 0) continue;
    if (S_ISDIR(st.st_mode) && name != ".git" && is_open_to_caller(from)) {
      UniqueFd folder;
      TRY(add_folder(into, name, folder));
      TRY(make_writable_upper(from, folder.get(), folders));
    } else if (is_opened_for_writing(source, name, st)) {
      auto text = sys::read_file(from);
      if (text) TRY(add_file(into, name, *text));
    }
  }
  return {};
}

Status give_as_root(int dir, const std::string& name, uid_t uid) {
  sys::AsRoot root;
  return give(dir, name, uid);
}

bool in_pycache(const std::string& path) { return path.find("__pycache__") != std::string::npos; }

// Regular files in __pycache__ go (whiteouts there stay: they hide the base's); then empty ones of
// the skeleton and empty __pycache__ folders. True when the directory is to be removed.
Result<bool> tidy_folder(int dir, const std::string& path, const std::set<std::string>& skeleton) {
  for (const std::string& name : TRY(sys::list_dir(dir))) {
    std::string child = path.empty() ? name : path + "/" + name;
    struct stat st;
    if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0)
      return sys_error("stat", child);
    if (S_ISREG(st.st_mode) && in_pycache(child) && name.ends_with(".pyc")) {
      if (::unlinkat(dir, name.c_str(), 0) != 0) return sys_error("unlink", child);
    } else if (S_ISDIR(st.st_mode)) {
      UniqueFd sub = TRY(sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      bool empty = TRY(tidy_folder(sub.get(), child, skeleton));
      bool ours = skeleton.count(child) != 0 || name == "__pycache__";
      if (empty && ours) ::unlinkat(dir, name.c_str(), AT_REMOVEDIR);
    }
  }
  return TRY(sys::list_dir(dir)).empty();
}

}  // namespace

Status BuildRoot::make_folders() {
  sys::AsRoot root;
  for (const char* name : {"work", "home", "tmp", "tools"})
    TRY(sys::make_dirs_at(staging_.dir(), name));
  if (!uid_) return {};
  for (const char* name : {"home", "tmp", "tools"})
    if (::fchownat(staging_.dir(), name, *uid_, *uid_, AT_SYMLINK_NOFOLLOW) != 0)
      return sys_error("chown", name);
  return {};
}

Status BuildRoot::show(const std::string& path, bool optional) {
  for (const isolation::Bind& bind : spec_.binds)
    if (sys::is_beneath(path, bind.target)) return {};  // seen already
  if (sys::is_beneath(path, job_.python.mount())) return {};
  auto found = CallersPath::open(path);
  if (found) spec_.binds.push_back({found->source(), path, false, optional});
  return found || optional ? Status() : found.error();
}

Status BuildRoot::bind_system() {
  for (const char* path : {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc",
                           "/run/systemd/resolve"})
    (void)show(path);
  const Interpreter& python = job_.python;
  std::vector<std::string> seen = {python.base_prefix, sys::parent_of(python.base_executable)};
  for (const std::string& folder : folders_of_links(python.executable)) seen.push_back(folder);
  seen.insert(seen.end(), python.mounts.begin() + 1, python.mounts.end());
  seen.insert(seen.end(), python.site_dirs.begin(), python.site_dirs.end());
  for (const std::string& path : seen)
    if (!path.empty() && path != "/") (void)show(path);
  for (const char* name :
       {"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"}) {
    auto it = job_.context.environment.find(name);
    if (it != job_.context.environment.end() && it->second.starts_with("/")) (void)show(it->second);
  }
  auto bind = [&](const char* name, const std::string& target) {
    spec_.binds.push_back({staging_.path() + "/" + name, target, true, false});
  };
  bind("home", "/build/home"), bind("tmp", "/build/tmp");
  bind("tools", "/build/tools");
  spec_.binds.push_back({job_.uv.program(), "/build/uv", false, false});
  return {};
}

Status BuildRoot::add_skeleton(const std::string& path, bool recurse) {
  std::string base = prefix_->look() + "/" + path;
  struct stat st;
  if (::lstat(base.c_str(), &st) != 0 || !S_ISDIR(st.st_mode)) return {};
  if (!is_open_to_caller(base)) return {};
  if (skeleton_.size() > kMostSkeleton)
    return make_error(job_.field, base, "the interpreter's prefix holds too many folders",
                      "use a virtualenv");
  for (std::string p = path; !p.empty() && skeleton_.insert(p).second; p = sys::parent_of(p)) {
  }
  if (!recurse) return {};
  for (const std::string& name : names_in(base))
    TRY(add_skeleton(path.empty() ? name : path + "/" + name, true));
  return {};
}

// The site folders with all that is in them (uninstalling needs every one), and of the rest what
// installers write to: bin, include, share, etc.
Status BuildRoot::make_skeleton() {
  const Scheme& s = job_.python.scheme;
  std::string data = s.data == "." ? "" : s.data;
  std::string library = sys::parent_of(s.purelib);
  for (const std::string& path : {s.purelib, s.platlib}) TRY(add_skeleton(path, true));
  for (const std::string& path :
       {s.scripts, s.headers, sys::parent_of(s.headers), library, sys::parent_of(library)})
    TRY(add_skeleton(path, false));
  TRY(add_skeleton(data, false));
  for (const char* name : {"share", "etc", "man", "doc"})
    TRY(add_skeleton(data.empty() ? name : data + "/" + name, true));
  for (const char* name : {"include", "lib", "lib64", "bin", "src"})
    TRY(add_skeleton(data.empty() ? name : data + "/" + name, false));
  sys::AsRoot root;
  for (const std::string& path : skeleton_) TRY(sys::make_dirs_at(staging_.tree(), path));
  return {};
}

Status BuildRoot::hand_over() {
  if (!uid_) return {};
  sys::AsRoot root;
  return give(staging_.dir(), "tree", *uid_);
}

Result<UniqueFd> BuildRoot::make_upper_and_work(const std::string& name) {
  sys::AsRoot root;
  for (const char* part : {"/upper", "/work"}) TRY(sys::make_dirs_at(staging_.dir(), name + part));
  return sys::open_at(staging_.dir(), name, O_RDONLY | O_DIRECTORY);
}

Status BuildRoot::show_writable(const std::string& source, const std::string& target) {
  std::string name = "src" + std::to_string(writables_++);
  std::string root = staging_.path() + "/" + name;
  UniqueFd dir = TRY(make_upper_and_work(name));
  UniqueFd upper = TRY(sys::open_at(dir.get(), "upper", O_RDONLY | O_DIRECTORY));
  size_t folders = 0;
  CallersPath found = TRY(CallersPath::open(source));
  TRY(make_writable_upper(found.look(), upper.get(), folders));
  if (uid_) TRY(give_as_root(dir.get(), "upper", *uid_));
  isolation::Overlay overlay;
  overlay.target = target, overlay.lowers = {found.source()};
  overlay.upper = root + "/upper", overlay.work = root + "/work";
  overlay.writable = true;
  spec_.overlays.push_back(overlay);
  return {};
}

// Where the cache proper has a file that stops every build (uv.h), ours has the folder.
Status BuildRoot::allow_builds() {
  sys::AsRoot as_root;
  std::string upper = "src" + std::to_string(writables_ - 1) + "/upper";
  UniqueFd dir = TRY(sys::open_at(staging_.dir(), upper, O_RDONLY | O_DIRECTORY));
  TRY(sys::make_dirs_at(dir.get(), Uv::kBuilds));
  return uid_ ? give(dir.get(), Uv::kBuilds, *uid_) : Status();
}

Result<BuildRoot> BuildRoot::make(const Job& job, const store::Staging& staging) {
  BuildRoot root(job, staging);
  if (::geteuid() == 0) root.uid_ = kBuildUid;
  TRY(root.make_folders());
  TRY(root.bind_system());
  // What uv learned while planning, copy-on-write: no build can poison another's.
  TRY(root.show_writable(job.uv.cache(), "/build/cache"));
  TRY(root.allow_builds());
  root.prefix_ = TRY(CallersPath::open(job.python.mount()));
  TRY(root.make_skeleton());
  isolation::Overlay overlay;
  overlay.target = job.python.mount();
  overlay.lowers = {root.prefix_->source()};
  overlay.upper = staging.path() + "/tree", overlay.work = staging.path() + "/work";
  overlay.writable = true;
  root.spec_.overlays.push_back(overlay);
  root.spec_.root = isolation::Root::kEmpty;
  if (root.uid_) root.spec_.user = isolation::User{*root.uid_, *root.uid_, {}};
  root.spec_.controls = isolation::Controls::of(isolation::FilterBase::kBuild);
  root.spec_.cwd = "/build/tmp";
  root.spec_.new_session = true;
  root.spec_.hostname = "build";
  root.spec_.network = isolation::Network::kNone;
  return root;
}

std::vector<std::string> BuildRoot::environment(const std::vector<std::string>& extra) const {
  std::vector<std::string> env;
  auto known = [&](const std::string& name) {
    return std::any_of(env.begin(), env.end(),
                       [&](const std::string& e) { return e.starts_with(name + "="); });
  };
  auto add = [&](const std::string& pair) {
    if (!known(pair.substr(0, pair.find('=')))) env.push_back(pair);
  };
  std::string bin = sys::parent_of(job_.python.executable);
  for (const char* fixed : {"HOME=/build/home", "TMPDIR=/build/tmp", "UV_CACHE_DIR=/build/cache",
                            "XDG_CACHE_HOME=/build/cache", "PYTHONDONTWRITEBYTECODE=1",
                            "PIP_CONFIG_FILE=/dev/null", "PIP_DISABLE_PIP_VERSION_CHECK=1"})
    add(fixed);
  for (const std::string& pair : Forwarder::environment()) add(pair);
  for (const std::string& pair : extra) add(pair);
  for (const auto& [name, value] : job_.context.env_vars) add(name + "=" + value);
  for (const std::string& pair : job_.uv.environment()) add(pair);
  add("LC_ALL=C.UTF-8");
  add("PATH=" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  return env;
}

Result<BuildRoot::Outcome> BuildRoot::run(std::vector<std::string> argv, const std::string& input,
                                          const std::vector<std::string>& extra_env) {
  if (!forwarder_) forwarder_ = TRY(Forwarder::start(way_out_));
  sys::AsRoot root;
  UniqueFd in = TRY(sys::memory_file(input));
  UniqueFd said = TRY(sys::open_at(staging_.dir(), ".", O_TMPFILE | O_RDWR, 0600));
  isolation::Spec spec = spec_;
  for (isolation::Overlay& overlay :
       spec.overlays) {  // a volatile mount's work folder is used once
    overlay.work += "/" + std::to_string(runs_);
    TRY(sys::make_dirs(overlay.work));
  }
  ++runs_;
  spec.argv = std::move(argv);
  spec.env = environment(extra_env);
  spec.listener_to = forwarder_->listener_to();
  spec.stdin_fd = in.get();
  spec.stdout_fd = spec.stderr_fd = said.get();
  isolation::Sandbox sandbox = TRY(isolation::start(spec));
  pollfd done = {sandbox.done_fd(), POLLIN, 0};
  auto left = job_.uv.milliseconds_left();
  int n;
  do n = ::poll(&done, 1, left ? int(std::min<int64_t>(*left, INT32_MAX)) : -1);
  while (n < 0 && errno == EINTR);
  if (n == 0)
    return make_error(job_.field, "", "setup takes longer than allowed",
                      "raise config.setup_timeout_seconds");
  int status = TRY(sandbox.wait());
  return Outcome{status == 0, TRY(tail_of(said.get())), forwarder_->mishaps()};
}

Status BuildRoot::tidy() {
  sys::AsRoot root;
  (void)sys::remove_tree_at(staging_.tree(), ".lock");  // uv's, in a virtualenv
  TRY(tidy_folder(staging_.tree(), "", skeleton_));
  return {};
}

}  // namespace rtlaunch::installers
