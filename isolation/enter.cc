#include "isolation/enter.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "isolation/overlay.h"
#include "isolation/sys/files.h"
#include "isolation/sys/mount.h"
#include "isolation/userns.h"

namespace rtlaunch::isolation {
namespace {

Status take_namespace(bool rootless) {
  if (!rootless) {
    TRY(sys::unshare_mounts());
    return sys::make_all_private();
  }
  uid_t uid = ::geteuid();
  gid_t gid = ::getegid();
  TRY(sys::unshare_user_and_mounts());
  return map_own_ids(uid, gid);
}

// Short names, whatever the layers' are: mount(2) has a page for all of them.
Status make_links(int work, const std::vector<std::string>& lowers) {
  for (size_t i = 0; i < lowers.size(); ++i)
    if (::symlinkat(lowers[i].c_str(), work, std::to_string(i).c_str()) != 0)
      return sys_error("symlink", lowers[i]);
  return {};
}

Result<sys::Mount> mount_by_context(size_t count, bool rootless) {
  sys::FsContext context = TRY(sys::FsContext::open("overlay"));
  TRY(context.set("source", "overlay"));
  TRY(context.set("index", "off"));
  if (rootless) {
    TRY(context.set_flag("userxattr"));
  } else {
    TRY(context.set("redirect_dir", "nofollow"));
    TRY(context.set("metacopy", "off"));
  }
  for (size_t i = 0; i < count; ++i) TRY(context.set("lowerdir+", "./" + std::to_string(i)));
  return context.mount(sys::kSafe | MOUNT_ATTR_RDONLY);
}

Status mount_by_options(const std::string& target, size_t count, bool rootless) {
  std::string options = "index=off,";
  options += rootless ? "userxattr" : "redirect_dir=nofollow,metacopy=off";
  for (size_t i = 0; i < count; ++i) options += (i == 0 ? ",lowerdir=" : ":") + std::to_string(i);
  return sys::mount_by_options("overlay", target, MS_NOSUID | MS_NODEV | MS_RDONLY, options);
}

Status mount_here(const std::string& target, size_t count, bool rootless) {
  if (!has_lowerdir_plus()) return mount_by_options(target, count, rootless);
  sys::Mount mount = TRY(mount_by_context(count, rootless));
  return mount.attach(AT_FDCWD, target);
}

// overlayfs wants two.
Status attach_one(const std::string& lower, const std::string& target) {
  sys::Mount mount = TRY(sys::clone_mount(AT_FDCWD, lower, false));
  TRY(sys::set_mount_attributes(mount.fd(), "", sys::kSafe | MOUNT_ATTR_RDONLY, false));
  return mount.attach(AT_FDCWD, target);
}

}  // namespace

Status enter_overlay(const std::string& target, const std::vector<std::string>& lowers, int work,
                     bool own_namespace) {
  if (lowers.empty() || lowers.size() > kMostLayers)
    return make_error("enter", target, "no layers, or too many");
  bool rootless = is_rootless();
  if (!own_namespace) TRY(take_namespace(rootless));
  if (lowers.size() == 1) return attach_one(lowers[0], target);
  TRY(make_links(work, lowers));
  UniqueFd before = TRY(sys::open_at(AT_FDCWD, ".", O_PATH | O_DIRECTORY));
  if (::fchdir(work) != 0) return sys_error("fchdir", target);
  Status mounted = mount_here(target, lowers.size(), rootless);
  if (::fchdir(before.get()) != 0) return sys_error("fchdir", "back");
  return mounted;
}

}  // namespace rtlaunch::isolation
