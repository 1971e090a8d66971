#include "isolation/overlay.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "isolation/sys/files.h"

namespace rtlaunch::isolation {
namespace {

constexpr size_t kMostText = 255;  // of an fsconfig string

// One overlay being made: its directory in the vault holds upper, work, links and mount point.
struct Plan {
  UniqueFd home;
  std::string home_path;
  std::vector<std::string> lowers;  // top first
  std::string upper, work;          // empty: none
  // An upper of the caller's is on a disk: no sync of it is wanted. In the vault there is nothing
  // to sync, and to be volatile takes overlayfs 10 us.
  bool is_volatile = false;
  uint64_t attributes = sys::kSafe;
  bool rootless = false;
  const Rights* rights = nullptr;
  bool as_caller = false;  // made with the caller's rights, which are then the mount's
};

Status link_at(int dir, const std::string& name, const std::string& target) {
  if (::symlinkat(target.c_str(), dir, name.c_str()) == 0) return {};
  return sys_error("symlink", target);
}

bool is_plain(const std::string& path) {
  return path.size() <= kMostText && path.find_first_of("\\:,") == std::string::npos;
}

// Gives what we have made to the user whose sandbox it is.
Status give(int dir, const std::string& name, const User& user) {
  if (::fchownat(dir, name.c_str(), user.uid, user.gid, AT_SYMLINK_NOFOLLOW) == 0) return {};
  return sys_error("chown", name);
}

// Sets `path`, or a link to it in the overlay's home when the option would misread it.
Status set_path(sys::FsContext* context, const char* key, const Plan& plan, const std::string& path,
                const std::string& link) {
  if (is_plain(path)) return context->set(key, path);
  TRY(link_at(plan.home.get(), link, path));
  return context->set(key, plan.home_path + "/" + link);
}

// A directory that looks like `model`: overlayfs shows the uppermost one's owner and mode.
Status make_like(int dir, const char* name, const std::string& model, const Rights& rights) {
  struct stat info;
  {
    Rights::Borrowed as_caller = TRY(rights.borrow_for(model));
    if (::stat(model.c_str(), &info) != 0) return sys_error("overlay", model);
  }
  if (!S_ISDIR(info.st_mode)) return Error{"overlay", ENOTDIR, model, "", "", 125};
  if (::mkdirat(dir, name, info.st_mode & 01777) != 0) return sys_error("mkdir", name);
  if (rights.caller() != nullptr) return give(dir, name, *rights.caller());
  bool foreign = info.st_uid != ::geteuid() || info.st_gid != ::getegid();
  // Without root an owner may have no number here; then the directory stays ours.
  if (foreign) (void)!::fchownat(dir, name, info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW);
  if ((info.st_mode & 06000) || foreign) (void)!::fchmodat(dir, name, info.st_mode & 07777, 0);
  return {};
}

Status make_file(int dir, const std::string& path) {
  size_t slash = path.rfind('/');
  std::string parent = slash == 0 ? "." : path.substr(1, slash - 1);
  UniqueFd at = TRY(sys::open_beneath(dir, parent, O_PATH | O_DIRECTORY));
  if (::mknodat(at.get(), path.substr(slash + 1).c_str(), S_IFREG | 0444, 0) == 0) return {};
  return errno == EEXIST ? Status() : sys_error("mknod", path);
}

// mkdir -p that follows no link: an upper that is used again holds what a worker left in it.
Status make_mount_points(int dir, const std::vector<std::string>& names, const User* owner) {
  for (const std::string& name : names) {
    UniqueFd at = TRY(sys::open_at(dir, ".", O_PATH | O_DIRECTORY));
    std::string rest = sys::absolute_path(name, "/").substr(1);
    while (!rest.empty()) {
      size_t slash = rest.find('/');
      std::string part = rest.substr(0, slash);
      rest = slash == std::string::npos ? "" : rest.substr(slash + 1);
      if (::mkdirat(at.get(), part.c_str(), 0755) != 0 && errno != EEXIST) {
        return sys_error("mkdir", name);
      }
      if (owner != nullptr) TRY(give(at.get(), part, *owner));
      at = TRY(sys::open_at(at.get(), part, O_PATH | O_DIRECTORY | O_NOFOLLOW));
    }
  }
  return {};
}

// The upper: the caller's, one of our own, or (mount points in a read-only stack) one more layer.
Status add_top(const Overlay& overlay, const MountPoints& points, Plan* plan) {
  const std::string& model = overlay.lowers.empty() ? overlay.target : overlay.lowers.front();
  bool own = overlay.upper.empty();
  bool writable = overlay.writable && !plan->as_caller;
  bool has_points = !overlay.mkdirs.empty() || !points.directories.empty() || !points.files.empty();
  if (own && !writable && !has_points) return {};
  const User* owner = own ? plan->rights->caller() : nullptr;
  if (own) TRY(make_like(plan->home.get(), "u", model, *plan->rights));
  UniqueFd top = TRY(own ? sys::open_at(plan->home.get(), "u", O_RDONLY | O_DIRECTORY)
                         : sys::open_at(AT_FDCWD, overlay.upper, O_RDONLY | O_DIRECTORY));
  TRY(make_mount_points(top.get(), overlay.mkdirs, owner));
  TRY(make_mount_points(top.get(), points.directories, owner));
  for (const std::string& file : points.files) {
    TRY(make_mount_points(top.get(), {file.substr(0, file.rfind('/'))}, owner));
    TRY(make_file(top.get(), file));
  }
  if (own && !writable) {
    plan->lowers.push_back(plan->home_path + "/u");
    return {};
  }
  if (own && ::mkdirat(plan->home.get(), "w", 0700) != 0) return sys_error("mkdir", "work");
  if (owner != nullptr) TRY(give(plan->home.get(), "w", *owner));
  plan->is_volatile = !own;
  plan->upper = own ? plan->home_path + "/u" : overlay.upper;
  plan->work = own ? plan->home_path + "/w" : overlay.work;
  return {};
}

Status add_lowers(const Overlay& overlay, Plan* plan) {
  plan->lowers.insert(plan->lowers.end(), overlay.lowers.begin(), overlay.lowers.end());
  if (overlay.over_host) plan->lowers.push_back(overlay.target);
  if (plan->upper.empty() && plan->lowers.size() == 1) {  // overlayfs wants two
    if (::mkdirat(plan->home.get(), "e", 0755) != 0) return sys_error("mkdir", "empty layer");
    plan->lowers.push_back(plan->home_path + "/e");
  }
  if (plan->lowers.empty()) return make_error("overlay", overlay.target, "it has no layers");
  if (plan->lowers.size() > kMostLayers) {
    return make_error("overlay", overlay.target,
                      std::to_string(plan->lowers.size()) + " layers; overlayfs takes at most " +
                          std::to_string(kMostLayers),
                      "use fewer packages, or merge some of them");
  }
  return {};
}

Result<sys::Mount> clone_of(const std::string& lower, const Rights& rights) {
  Rights::Borrowed as_caller = TRY(rights.borrow_for(lower));
  return sys::clone_mount(AT_FDCWD, lower, false);
}

// A clone of a lower in the vault: there it has the ids that it shall have, and is reached whatever
// rights the mount is made with.
Result<std::string> attached(const Plan& plan, const std::string& lower, int id_map, int number) {
  std::string name = "l" + std::to_string(number);
  sys::Mount mount = TRY(clone_of(lower, *plan.rights));
  if (id_map >= 0) TRY(sys::set_id_map(mount.fd(), id_map));
  if (::mkdirat(plan.home.get(), name.c_str(), 0755) != 0) return sys_error("mkdir", name);
  TRY(mount.attach(plan.home.get(), name));
  return plan.home_path + "/" + name;
}

bool is_ours(const Plan& plan, const std::string& path) {
  return sys::is_beneath(path, plan.home_path);
}

// overlayfs reads its layers with the rights of whoever made the mount, and takes a merged
// directory's mode from the uppermost. So where the host's directories are merged with a layer's,
// its maker must be the caller, or a layer's open directory would open the host's closed one.
bool needs_callers_rights(const Overlay& overlay, const Rights& rights) {
  if (rights.caller() == nullptr) return false;
  return overlay.over_host ||
         !std::all_of(overlay.lowers.begin(), overlay.lowers.end(),
                      [&](const std::string& lower) { return rights.is_layer(lower); });
}

Status check_owned(const Overlay& overlay, const Plan& plan) {
  if (!overlay.owned || !plan.as_caller) return {};
  return make_error("overlay", overlay.target, "only layers of the store can be made the caller's");
}

// Only what needs it: each costs a mount.
Status attach_lowers(const Overlay& overlay, const OverlayContext& context, Plan* plan) {
  bool owned = overlay.owned && context.rights.caller() != nullptr;
  int number = 0;
  for (std::string& lower : plan->lowers) {
    if (is_ours(*plan, lower)) continue;
    bool unreachable = plan->as_caller && (context.use_mount2 || !is_plain(lower));
    if (!owned && !unreachable) continue;
    lower = TRY(attached(*plan, lower, owned ? context.id_map : -1, number++));
  }
  return {};
}

Result<Plan> make_plan(const Overlay& overlay, const OverlayContext& context,
                       const MountPoints& points) {
  Plan plan;
  std::string name = "o" + std::to_string(context.count);
  plan.home = TRY(context.vault.directory(name, 0711));  // the vault itself is closed
  plan.home_path = std::string(Vault::kPath) + "/" + name;
  plan.rootless = context.rootless;
  plan.rights = &context.rights;
  plan.as_caller = needs_callers_rights(overlay, context.rights);
  TRY(check_owned(overlay, plan));
  TRY(add_top(overlay, points, &plan));
  TRY(add_lowers(overlay, &plan));
  TRY(attach_lowers(overlay, context, &plan));
  if (plan.upper.empty()) plan.attributes |= MOUNT_ATTR_RDONLY;
  return plan;
}

// --- Linux 6.7: fsopen, lowerdir+ ---

Status set_trust(sys::FsContext* context, bool rootless) {
  TRY(context->set("index", "off"));
  if (rootless) return context->set_flag("userxattr");  // implies the other two
  TRY(context->set("redirect_dir", "nofollow"));
  return context->set("metacopy", "off");
}

Result<sys::Mount> mount_by_context(const Plan& plan) {
  sys::FsContext context = TRY(sys::FsContext::open("overlay"));
  TRY(context.set("source", "overlay"));
  TRY(set_trust(&context, plan.rootless));
  int number = 0;
  for (const std::string& lower : plan.lowers) {
    Rights::Borrowed as_caller;
    if (!is_ours(plan, lower)) as_caller = TRY(plan.rights->borrow_for(lower));
    TRY(set_path(&context, "lowerdir+", plan, lower, std::to_string(number++)));
  }
  if (!plan.upper.empty()) {
    TRY(set_path(&context, "upperdir", plan, plan.upper, "U"));
    TRY(set_path(&context, "workdir", plan, plan.work, "W"));
    if (plan.is_volatile) TRY(context.set_flag("volatile"));
  }
  Rights::Borrowed as_caller;
  if (plan.as_caller) as_caller = TRY(plan.rights->borrow());
  return context.mount(plan.attributes);
}

// --- before: mount(2) from within a directory of links ---

// What lies in the overlay's own directory is named from there: a caller may not look into the
// vault.
std::string from_home(const Plan& plan, const std::string& path) {
  return is_ours(plan, path) ? path.substr(plan.home_path.size() + 1) : path;
}

Result<std::string> mount2_options(const Plan& plan) {
  std::string options = "index=off,";
  options += plan.rootless ? "userxattr" : "redirect_dir=nofollow,metacopy=off";
  int number = 0;
  for (const std::string& lower : plan.lowers) {
    std::string link = std::to_string(number);
    ::unlinkat(plan.home.get(), link.c_str(), 0);
    TRY(link_at(plan.home.get(), link, from_home(plan, lower)));
    options += (number++ == 0 ? ",lowerdir=" : ":") + link;
  }
  if (plan.upper.empty()) return options;
  for (const char* link : {"U", "W"}) ::unlinkat(plan.home.get(), link, 0);
  TRY(link_at(plan.home.get(), "U", from_home(plan, plan.upper)));
  TRY(link_at(plan.home.get(), "W", from_home(plan, plan.work)));
  return options + ",upperdir=U,workdir=W" + (plan.is_volatile ? ",volatile" : "");
}

Status mount_with_rights(const Plan& plan, unsigned long flags, const std::string& options) {
  Rights::Borrowed as_caller;
  if (plan.as_caller) as_caller = TRY(plan.rights->borrow());
  return sys::mount_by_options("overlay", "m", flags, options);
}

Result<sys::Mount> mount_by_options(const Plan& plan) {
  std::string options = TRY(mount2_options(plan));
  if (::mkdirat(plan.home.get(), "m", 0700) != 0) return sys_error("mkdir", "m");
  if (::fchdir(plan.home.get()) != 0) return sys_error("fchdir", plan.home_path);
  unsigned long flags = MS_NOSUID | MS_NODEV | (plan.upper.empty() ? MS_RDONLY : 0);
  Status mounted = mount_with_rights(plan, flags, options);
  if (::chdir("/") != 0) return sys_error("chdir", "/");
  if (!mounted) return mounted.error();
  // A copy: what is attached becomes read-only with the rest of the host.
  return sys::clone_mount(AT_FDCWD, plan.home_path + "/m", false);
}

// --- either ---

bool on_overlay(const std::string& path) {
  struct statfs info;
  return ::statfs(path.c_str(), &info) == 0 && info.f_type == OVERLAYFS_SUPER_MAGIC;
}

Error explain(Error error, const Overlay& overlay, const Plan& plan) {
  error.step = "overlay";
  error.object = overlay.target + (error.object == "overlay" ? "" : ": " + error.object);
  if (!plan.upper.empty() && on_overlay(plan.upper)) {
    error.reason = "what is written would lie on an overlay file system, which overlayfs can't use";
    error.cure = "keep the store on another file system (a container's volume), with --store";
  } else if (error.code == ELOOP) {
    error.reason = "one layer lies inside another: " + error.reason;
  } else if (error.code == EINVAL && plan.rootless && overlay.over_host && error.reason.empty()) {
    error.reason = "without root no overlay can be laid over a directory with mounts below it";
    error.cure = "run it as root, or use an interpreter whose prefix has no mounts in it";
  } else if (error.code == EPERM && plan.rootless && error.cure.empty()) {
    error.cure =
        "rootless overlays need Linux 5.11 and a kernel that allows them; or run it as root";
  }
  return error;
}

}  // namespace

bool has_lowerdir_plus() {
  struct utsname name;
  int major = 0, minor = 0;
  if (::uname(&name) != 0 || std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return false;
  return major > 6 || (major == 6 && minor >= 7);
}

Result<Vault> Vault::make(uint64_t bytes, Spares* spares) {
  sys::Mount mount = TRY(spares->take(Spares::kVault, bytes));
  TRY(mount.attach(AT_FDCWD, kPath));
  return Vault(std::move(mount));
}

Result<UniqueFd> Vault::directory(const std::string& name, mode_t mode) const {
  if (::mkdirat(fd(), name.c_str(), mode) != 0) return sys_error("mkdir", name);
  return sys::open_at(fd(), name, O_PATH | O_DIRECTORY | O_NOFOLLOW);
}

Result<OverlayMount> make_overlay(const Overlay& overlay, OverlayContext* context,
                                  const MountPoints& points) {
  Plan plan = TRY(make_plan(overlay, *context, points));
  ++context->count;
  Result<sys::Mount> mount = context->use_mount2 ? mount_by_options(plan) : mount_by_context(plan);
  if (!mount) return explain(std::move(mount.error()), overlay, plan);
  OverlayMount made;
  made.mount = std::move(mount.value());
  if (overlay.report) {
    made.upper = TRY(sys::open_at(AT_FDCWD, plan.upper, O_RDONLY | O_DIRECTORY));
  }
  return made;
}

}  // namespace rtlaunch::isolation
