// Mounts by descriptor: fsopen(2), open_tree(2), move_mount(2), mount_setattr(2), Linux 5.12.
//
// A Mount owns one mount that is attached nowhere; closing it unmounts it. attach() gives it to the
// namespace, after which fd() still is a way in (an O_PATH descriptor of its root).
// Single-threaded; everything fails with errno and the object's name. What a file system itself
// says about a failed mount (the messages on its context) ends up in Error.reason.
//
//   FsContext context = TRY(FsContext::open("tmpfs"));
//   TRY(context.set("size", "1048576"));
//   Mount mount = TRY(context.mount(MOUNT_ATTR_NOSUID));
//   TRY(mount.attach(root.get(), "tmp"));
#pragma once

#include <sys/mount.h>

#include <cstdint>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {

// nosuid and nodev: what every mount that a worker can see has.
inline constexpr uint64_t kSafe = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

class Mount {
 public:
  Mount() = default;
  explicit Mount(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }
  // Over `name` in `dir`; over `dir` itself when `name` is empty. A link as last part is not
  // followed.
  Status attach(int dir, const std::string& name) const;
  // The descriptor of the root, once attached.
  UniqueFd release() { return std::move(fd_); }

 private:
  UniqueFd fd_;
};

class FsContext {
 public:
  static Result<FsContext> open(const char* type);
  // At most 255 bytes of value (fsconfig(2)).
  Status set(const char* key, const std::string& value);
  Status set_flag(const char* key);
  // Makes the file system and a detached mount of it with MOUNT_ATTR_* `attributes`.
  Result<Mount> mount(uint64_t attributes);

 private:
  FsContext(const char* type, UniqueFd fd) : type_(type), fd_(std::move(fd)) {}
  Error failed(const std::string& object) const;  // errno and the kernel's messages

  const char* type_;
  UniqueFd fd_;
};

// A detached copy of the mount at `path` (relative to `dir`), or of the part of it below `path`;
// with all mounts below when `recursive`. Follows links in `path`.
Result<Mount> clone_mount(int dir, const std::string& path, bool recursive);

// Sets MOUNT_ATTR_* `attributes` on the mount at `dir`/`path` (an empty path: `dir` itself).
Status set_mount_attributes(int dir, const std::string& path, uint64_t attributes, bool recursive);
// The opposite, for the mount whose root `dir` is.
Status clear_mount_attributes(int dir, uint64_t attributes);
// An option of the file system whose mount's root `dir` is: fspick(2).
Status change_option(int dir, const char* key, const std::string& value);
// MOUNT_ATTR_IDMAP (Linux 5.12): the ids of a detached mount that isn't in use are those of the
// user namespace `userns` from now on. EINVAL: its file system can't.
Status set_id_map(int mount, int userns);
// MS_PRIVATE for the mount at `/` and all below: nothing goes in or out any more.
Status make_all_private();
Status make_private(int mount);  // the same for a detached one and all below
Status make_all_slave();         // MS_SLAVE: what the host mounts later arrives, nothing goes back
// A mount namespace of our own, with a copy of every mount.
Status unshare_mounts();
// The same in a user namespace of our own (user_namespaces(7)), whose maps are still to be written.
Status unshare_user_and_mounts();

// mount(2), for what the new calls can't do on an old kernel.
Status mount_by_options(const char* type, const std::string& target, unsigned long flags,
                        const std::string& options);

// pivot_root(".", ".") into `root`, then the old root is detached. Leaves the caller in `/`.
Status pivot_into(int root);

// The mount points of this process's namespace, as of the last look at /proc/self/mountinfo
// (proc(5)).
class MountTable {
 public:
  static Result<MountTable> open();
  // Looks again if poll(2) says that something was mounted, unmounted or given other attributes:
  // true.
  Result<bool> refresh();
  // Those strictly below `dir`, each once, outermost first, without those that lie below another of
  // them.
  std::vector<std::string> below(const std::string& dir) const;
  int fd() const { return file_.get(); }

 private:
  explicit MountTable(UniqueFd file) : file_(std::move(file)) {}
  Status read();

  UniqueFd file_;
  std::vector<std::string> points_;
};

}  // namespace rtlaunch::sys
