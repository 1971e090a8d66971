#include "isolation/sys/mount.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "isolation/sys/files.h"

namespace rtlaunch::sys {
namespace {

// What the file system said about it: lines like "e overlay: ...", until ENODATA.
std::string context_messages(int fd) {
  std::string text;
  char line[1024];
  while (true) {
    ssize_t count = ::read(fd, line, sizeof line);
    if (count <= 0) return text;
    std::string_view message(line, static_cast<size_t>(count));
    if (message.size() > 2 && message[1] == ' ') message.remove_prefix(2);
    while (!message.empty() && message.back() == '\n') message.remove_suffix(1);
    text.append(text.empty() ? "" : "; ").append(message);
  }
}

// mountinfo writes space, tab, newline and backslash as \ooo.
std::string unescaped(std::string_view field) {
  std::string text;
  for (size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size()) {
      text += static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 +
                                (field[i + 3] - '0'));
      i += 3;
    } else {
      text += field[i];
    }
  }
  return text;
}

std::string_view nth_field(std::string_view line, int n) {
  while (n-- > 0) {
    size_t space = line.find(' ');
    if (space == std::string_view::npos) return {};
    line.remove_prefix(space + 1);
  }
  return line.substr(0, line.find(' '));
}

}  // namespace

Status Mount::attach(int dir, const std::string& name) const {
  unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | (name.empty() ? MOVE_MOUNT_T_EMPTY_PATH : 0);
  if (::move_mount(fd_.get(), "", dir, name.c_str(), flags) != 0) return sys_error("mount", name);
  return {};
}

Result<FsContext> FsContext::open(const char* type) {
  int fd = ::fsopen(type, FSOPEN_CLOEXEC);
  if (fd < 0) return sys_error("mount", type);
  return FsContext(type, UniqueFd(fd));
}

Error FsContext::failed(const std::string& object) const {
  Error error = sys_error("mount", object);
  error.reason = context_messages(fd_.get());
  return error;
}

Status FsContext::set(const char* key, const std::string& value) {
  if (::fsconfig(fd_.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0) return {};
  return failed(std::string(type_) + " " + key + "=" + value);
}

Status FsContext::set_flag(const char* key) {
  if (::fsconfig(fd_.get(), FSCONFIG_SET_FLAG, key, nullptr, 0) == 0) return {};
  return failed(std::string(type_) + " " + key);
}

Result<Mount> FsContext::mount(uint64_t attributes) {
  if (::fsconfig(fd_.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return failed(type_);
  int fd = ::fsmount(fd_.get(), FSMOUNT_CLOEXEC, static_cast<unsigned>(attributes));
  if (fd < 0) return failed(type_);
  return Mount(UniqueFd(fd));
}

Result<Mount> clone_mount(int dir, const std::string& path, bool recursive) {
  unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0) |
                   (path.empty() ? AT_EMPTY_PATH : 0);
  int fd = ::open_tree(dir, path.c_str(), flags);
  if (fd < 0) return sys_error("open_tree", path);
  return Mount(UniqueFd(fd));
}

Status set_mount_attributes(int dir, const std::string& path, uint64_t attributes, bool recursive) {
  struct mount_attr attr = {};
  attr.attr_set = attributes;
  unsigned flags = (recursive ? AT_RECURSIVE : 0) | (path.empty() ? AT_EMPTY_PATH : 0);
  if (::mount_setattr(dir, path.c_str(), flags, &attr, sizeof attr) == 0) return {};
  return sys_error("mount_setattr", path);
}

Status clear_mount_attributes(int dir, uint64_t attributes) {
  struct mount_attr attr = {};
  attr.attr_clr = attributes;
  if (::mount_setattr(dir, "", AT_EMPTY_PATH, &attr, sizeof attr) == 0) return {};
  return sys_error("mount_setattr", "");
}

Status change_option(int dir, const char* key, const std::string& value) {
  UniqueFd context(::fspick(dir, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC));
  if (!context.valid()) return sys_error("fspick", key);
  if (::fsconfig(context.get(), FSCONFIG_SET_STRING, key, value.c_str(), 0) != 0 ||
      ::fsconfig(context.get(), FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0) != 0) {
    Error error = sys_error("remount", std::string(key) + "=" + value);
    error.reason = context_messages(context.get());
    return error;
  }
  return {};
}

Status set_id_map(int mount, int userns) {
  struct mount_attr attr = {};
  attr.attr_set = MOUNT_ATTR_IDMAP;
  attr.userns_fd = static_cast<uint64_t>(userns);
  if (::mount_setattr(mount, "", AT_EMPTY_PATH, &attr, sizeof attr) == 0) return {};
  return sys_error("mount_setattr", "id map");
}

namespace {

Status set_propagation(int dir, const char* path, unsigned flags, uint64_t propagation) {
  struct mount_attr attr = {};
  attr.propagation = propagation;
  if (::mount_setattr(dir, path, flags | AT_RECURSIVE, &attr, sizeof attr) == 0) return {};
  return sys_error("mount_setattr", path);
}

}  // namespace

Status make_all_private() { return set_propagation(AT_FDCWD, "/", 0, MS_PRIVATE); }
Status make_all_slave() { return set_propagation(AT_FDCWD, "/", 0, MS_SLAVE); }
Status make_private(int mount) { return set_propagation(mount, "", AT_EMPTY_PATH, MS_PRIVATE); }

Status unshare_mounts() {
  if (::unshare(CLONE_NEWNS) == 0) return {};
  return sys_error("unshare", "mount namespace");
}

Status unshare_user_and_mounts() {
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) return {};
  return sys_error("unshare", "user and mount namespace");
}

Status mount_by_options(const char* type, const std::string& target, unsigned long flags,
                        const std::string& options) {
  if (::mount(type, target.c_str(), type, flags, options.c_str()) == 0) return {};
  return sys_error("mount", target);
}

Status pivot_into(int root) {
  if (::fchdir(root) != 0) return sys_error("fchdir", "the new root");
  if (::syscall(SYS_pivot_root, ".", ".") != 0) return sys_error("pivot_root", "the new root");
  if (::umount2(".", MNT_DETACH) != 0) return sys_error("umount", "the old root");
  if (::chdir("/") != 0) return sys_error("chdir", "/");
  return {};
}

Result<MountTable> MountTable::open() {
  MountTable table(TRY(open_at(AT_FDCWD, "/proc/self/mountinfo", O_RDONLY)));
  TRY(table.read());
  return table;
}

Status MountTable::read() {
  if (::lseek(file_.get(), 0, SEEK_SET) != 0) return sys_error("lseek", "mountinfo");
  std::string text = TRY(read_all(file_.get(), "mountinfo"));
  points_.clear();
  std::string_view rest = text;
  while (!rest.empty()) {
    size_t end = rest.find('\n');
    points_.push_back(unescaped(nth_field(rest.substr(0, end), 4)));
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
  std::sort(points_.begin(), points_.end());
  return {};
}

Result<bool> MountTable::refresh() {
  struct pollfd changed = {file_.get(), POLLPRI, 0};
  if (::poll(&changed, 1, 0) == 0) return false;
  TRY(read());
  return true;
}

std::vector<std::string> MountTable::below(const std::string& dir) const {
  std::vector<std::string> outermost;
  for (const std::string& point : points_) {
    if (point == dir || !is_beneath(point, dir)) continue;
    bool inside = std::any_of(outermost.begin(), outermost.end(),
                              [&](const std::string& outer) { return is_beneath(point, outer); });
    if (!inside) outermost.push_back(point);
  }
  return outermost;
}

}  // namespace rtlaunch::sys
