// What comes out of a build is somebody else's work: setuid bits, devices, and attributes that
// overlayfs or the kernel would obey (a planted trusted.overlay.redirect shows another layer's
// files) end here.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "installers/store/manifest.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

constexpr int kDeepest = 200;

bool is_opaque_mark(const std::string& xattr) {
  return xattr == "trusted.overlay.opaque" || xattr == "user.overlay.opaque";
}

// A security module's own label can't be taken off, and means nothing to a layer.
bool may_stay(const Error& error, const std::string& xattr) {
  return error.code == ENODATA || (xattr.starts_with("security.") &&
                                   (error.code == EOPNOTSUPP || error.code == EACCES ||
                                    error.code == EPERM || error.code == EINVAL) &&
                                   xattr != "security.capability");
}

class Cleaner {
 public:
  explicit Cleaner(std::vector<std::string>* refused) : refused_(refused) {}

  Status clean_directory(int dir, const std::string& path, int depth) {
    for (const std::string& name : TRY(sys::list_dir(dir))) {
      TRY(clean(dir, name, path.empty() ? name : path + "/" + name, depth));
    }
    TRY(strip(dir, path, /*directory=*/true));
    TRY(own(dir, "", path));
    TRY(sys::set_mode(dir, 0755, path));
    return sys::set_mtime(dir, kFixedMtime, path);
  }

 private:
  Status clean(int dir, const std::string& name, const std::string& path, int depth) {
    struct stat info = TRY(sys::stat_at(dir, name));
    if (S_ISDIR(info.st_mode) && depth < kDeepest) {
      UniqueFd sub = TRY(open_anyhow(dir, name, O_DIRECTORY, 0700));
      return clean_directory(sub.get(), path, depth + 1);
    }
    if (S_ISREG(info.st_mode)) return clean_file(dir, name, path, info);
    bool whiteout = S_ISCHR(info.st_mode) && info.st_rdev == 0;
    if (S_ISLNK(info.st_mode) || whiteout) return clean_unopenable(dir, name, path);
    if (refused_ != nullptr) refused_->push_back(path);
    return sys::remove_deep_tree_at(dir, name);
  }

  Status clean_file(int dir, const std::string& name, const std::string& path,
                    const struct stat& info) {
    if (info.st_nlink > 1) TRY(give_own_inode(dir, name));
    TRY(own(dir, name, path));  // first: it clears setuid, and chmod below must have the last word
    UniqueFd file = TRY(open_anyhow(dir, name, O_NONBLOCK, 0600));
    TRY(strip(file.get(), path, /*directory=*/false));
    TRY(sys::set_mode(file.get(), (info.st_mode & 0100) != 0 ? 0755 : 0644, path));
    return sys::set_mtime(file.get(), kFixedMtime, path);
  }

  Status clean_unopenable(int dir, const std::string& name, const std::string& path) {
    TRY(own(dir, name, path));
    for (const std::string& xattr : sys::list_xattrs_at(dir, name)) {
      Status removed = sys::remove_xattr_at(dir, name, xattr);
      if (!removed.ok() && !may_stay(removed.error(), xattr)) return removed;
    }
    return sys::set_mtime_at(dir, name, kFixedMtime);
  }

  static Status strip(int fd, const std::string& path, bool directory) {
    for (const std::string& xattr : sys::list_xattrs(fd)) {
      if (directory && is_opaque_mark(xattr) && sys::get_xattr(fd, xattr) == "y") continue;
      Status removed = sys::remove_xattr(fd, xattr);
      if (!removed.ok() && !may_stay(removed.error(), xattr)) {
        removed.error().object = path + ": " + xattr;
        return removed;
      }
    }
    return {};
  }

  // Another link to the inode may be in somebody's hands (a build's cache): a layer's files are its
  // own. The copy costs space only where a build made hard links.
  static Status give_own_inode(int dir, const std::string& name) {
    UniqueFd from = TRY(open_anyhow(dir, name, O_NONBLOCK, 0600));
    std::string copy = sys::random_name();
    UniqueFd to = TRY(sys::open_at(dir, copy, O_WRONLY | O_CREAT | O_EXCL, 0600));
    Status copied = sys::copy_contents(from.get(), to.get(), name);
    if (copied.ok()) copied = sys::rename_at(dir, copy, dir, name);
    if (!copied.ok()) (void)sys::unlink_at(dir, copy).ok();
    return copied;
  }

  Status own(int dir, const std::string& name, const std::string& path) {
    struct stat info = name.empty() ? TRY(sys::stat_fd(dir, path)) : TRY(sys::stat_at(dir, name));
    if (info.st_uid == uid_ && info.st_gid == gid_) return {};
    return sys::set_owner_at(dir, name, uid_, gid_);
  }

  // For reading; where the mode forbids that to its owner, the mode is opened up first.
  static Result<UniqueFd> open_anyhow(int dir, const std::string& name, int flags, mode_t mode) {
    auto fd = sys::open_at(dir, name, O_RDONLY | O_NOFOLLOW | flags);
    if (fd || fd.error().code != EACCES) return fd;
    UniqueFd path = TRY(sys::open_at(dir, name, O_PATH | O_NOFOLLOW));
    TRY(sys::set_mode(path.get(), mode, name));
    return sys::open_at(dir, name, O_RDONLY | O_NOFOLLOW | flags);
  }

  std::vector<std::string>* refused_;
  uid_t uid_ = ::geteuid();
  gid_t gid_ = ::getegid();
};

}  // namespace

Status clean_tree(int dir, std::vector<std::string>* refused) {
  return Cleaner(refused).clean_directory(dir, "", 0);
}

}  // namespace rtlaunch::store
