#include "isolation/sys/fs.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>

#include "isolation/sys/files.h"

namespace rtlaunch::sys {
namespace {

std::string fd_path(int fd) { return "/proc/self/fd/" + std::to_string(fd); }

int flock_flag(Lock kind) { return kind == Lock::kShared ? LOCK_SH : LOCK_EX; }

std::vector<std::string> split_names(const char* list, ssize_t size) {
  std::vector<std::string> names;
  for (ssize_t at = 0; at < size;) {
    names.emplace_back(list + at);
    at += static_cast<ssize_t>(names.back().size()) + 1;
  }
  return names;
}

// Moves every directory that is two levels down up by one, until none is; then all is shallow.
Status flatten(int dir, const std::string& name) {
  UniqueFd top = TRY(open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  std::vector<std::string> waiting = TRY(list_dir(top.get()));
  while (!waiting.empty()) {
    std::string child = std::move(waiting.back());
    waiting.pop_back();
    auto sub = open_at(top.get(), child, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!sub) continue;
    TRY(set_mode(sub->get(), 0700, child));
    for (const std::string& inner : TRY(list_dir(sub->get()))) {
      auto info = stat_at(sub->get(), inner);
      if (!info || !S_ISDIR(info->st_mode)) continue;
      waiting.push_back(random_name());
      TRY(rename_at(sub->get(), inner, top.get(), waiting.back()));
    }
  }
  return {};
}

}  // namespace

Status lock_file(int fd, Lock kind, const std::string& name) {
  while (::flock(fd, flock_flag(kind)) != 0) {
    if (errno != EINTR) return sys_error("lock", name);
  }
  return {};
}

Result<bool> try_lock_file(int fd, Lock kind, const std::string& name) {
  while (::flock(fd, flock_flag(kind) | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return false;
    if (errno != EINTR) return sys_error("lock", name);
  }
  return true;
}

void unlock_file(int fd) { ::flock(fd, LOCK_UN); }

Result<struct stat> stat_fd(int fd, const std::string& name) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return sys_error("stat", name);
  return info;
}

Result<struct stat> stat_at(int dir, const std::string& name) {
  struct stat info;
  if (::fstatat(dir, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return sys_error("stat", name);
  return info;
}

bool exists_at(int dir, const std::string& name) {
  return ::faccessat(dir, name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

Status rename_at(int from_dir, const std::string& from, int to_dir, const std::string& to) {
  if (::renameat(from_dir, from.c_str(), to_dir, to.c_str()) != 0) return sys_error("rename", from);
  return {};
}

Status rename_new_at(int from_dir, const std::string& from, int to_dir, const std::string& to) {
  if (::renameat2(from_dir, from.c_str(), to_dir, to.c_str(), RENAME_NOREPLACE) == 0) return {};
  if (errno != EINVAL && errno != ENOSYS) return sys_error("rename", from);
  if (::renameat(from_dir, from.c_str(), to_dir, to.c_str()) == 0) return {};
  if (errno == ENOTEMPTY) errno = EEXIST;
  return sys_error("rename", from);
}

Status link_new_at(int dir, const std::string& from, const std::string& to) {
  if (::linkat(dir, from.c_str(), dir, to.c_str(), 0) != 0) return sys_error("link", to);
  return {};
}

Status unlink_at(int dir, const std::string& name) {
  if (::unlinkat(dir, name.c_str(), 0) != 0 && errno != ENOENT) return sys_error("remove", name);
  return {};
}

Status remove_dir_at(int dir, const std::string& name) {
  if (::unlinkat(dir, name.c_str(), AT_REMOVEDIR) != 0) return sys_error("remove", name);
  return {};
}

Status sync_data(int fd, const std::string& name) {
  if (::fdatasync(fd) != 0) return sys_error("sync", name);
  return {};
}

Status sync_file_system(int fd, const std::string& name) {
  if (::syncfs(fd) != 0) return sys_error("sync", name);
  return {};
}

Result<Space> space_of(int fd, const std::string& name) {
  struct statfs info;
  if (::fstatfs(fd, &info) != 0) return sys_error("statfs", name);
  uint64_t block = static_cast<uint64_t>(info.f_frsize != 0 ? info.f_frsize : info.f_bsize);
  return Space{info.f_blocks * block,
               info.f_bavail * block,
               info.f_files,
               info.f_ffree,
               static_cast<uint64_t>(info.f_type),
               (info.f_flags & ST_RDONLY) != 0};
}

Status preallocate(int fd, uint64_t bytes, const std::string& name) {
  int code = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  if (code == 0) return {};
  errno = code;
  return sys_error("allocate", name);
}

Result<std::string> read_start_at(int dir, const std::string& name, size_t bytes) {
  UniqueFd fd = TRY(open_at(dir, name, O_RDONLY | O_NOFOLLOW));
  std::string text(bytes, '\0');
  ssize_t count;
  do {
    count = ::pread(fd.get(), text.data(), bytes, 0);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return sys_error("read", name);
  text.resize(static_cast<size_t>(count));
  return text;
}

Status write_over(int fd, std::string_view data, const std::string& name) {
  if (::ftruncate(fd, 0) != 0 || ::lseek(fd, 0, SEEK_SET) != 0) return sys_error("write", name);
  return write_all(fd, data, name);
}

Status set_mtime_at(int dir, const std::string& name, int64_t seconds) {
  struct timespec times[2] = {{0, UTIME_OMIT}, {static_cast<time_t>(seconds), 0}};
  if (::utimensat(dir, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    return sys_error("set time", name);
  }
  return {};
}

Status set_mtime(int fd, int64_t seconds, const std::string& name) {
  struct timespec times[2] = {{0, UTIME_OMIT}, {static_cast<time_t>(seconds), 0}};
  if (::futimens(fd, times) != 0) return sys_error("set time", name);
  return {};
}

Status touch_at(int dir, const std::string& name) {
  if (::utimensat(dir, name.c_str(), nullptr, AT_SYMLINK_NOFOLLOW) != 0) {
    return sys_error("touch", name);
  }
  return {};
}

Status touch(int fd, const std::string& name) {
  if (::futimens(fd, nullptr) != 0) return sys_error("touch", name);
  return {};
}

int64_t now_seconds() {
  struct timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec;
}

Status set_mode(int fd, mode_t mode, const std::string& name) {
  if (::fchmod(fd, mode) == 0) return {};
  if (errno == EBADF && ::chmod(fd_path(fd).c_str(), mode) == 0) return {};
  return sys_error("chmod", name);
}

Status set_owner_at(int dir, const std::string& name, uid_t uid, gid_t gid) {
  int flags = AT_SYMLINK_NOFOLLOW | (name.empty() ? AT_EMPTY_PATH : 0);
  if (::fchownat(dir, name.c_str(), uid, gid, flags) != 0) return sys_error("chown", name);
  return {};
}

std::vector<std::string> list_xattrs(int fd) {
  ssize_t size = ::flistxattr(fd, nullptr, 0);
  if (size <= 0) return {};
  std::string list(static_cast<size_t>(size) + 1024, '\0');
  return split_names(list.data(), ::flistxattr(fd, list.data(), list.size()));
}

std::optional<std::string> get_xattr(int fd, const std::string& name) {
  char value[256];
  ssize_t size = ::fgetxattr(fd, name.c_str(), value, sizeof value);
  if (size < 0) return std::nullopt;
  return std::string(value, static_cast<size_t>(size));
}

Status set_xattr(int fd, const std::string& name, const std::string& value) {
  if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) == 0) return {};
  return sys_error("set attribute", name);
}

Status remove_xattr(int fd, const std::string& name) {
  if (::fremovexattr(fd, name.c_str()) != 0) return sys_error("remove attribute", name);
  return {};
}

std::vector<std::string> list_xattrs_at(int dir, const std::string& name) {
  std::string path = fd_path(dir) + "/" + name;
  char list[4096];
  return split_names(list, ::llistxattr(path.c_str(), list, sizeof list));
}

Status remove_xattr_at(int dir, const std::string& name, const std::string& xattr) {
  std::string path = fd_path(dir) + "/" + name;
  if (::lremovexattr(path.c_str(), xattr.c_str()) != 0) return sys_error("remove attribute", name);
  return {};
}

void keep_apart_in(int dir, const std::string& name) {
  auto fd = open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  int flags = 0;
  if (!fd || ::ioctl(fd->get(), FS_IOC_GETFLAGS, &flags) != 0 || (flags & FS_TOPDIR_FL)) return;
  flags |= FS_TOPDIR_FL;
  (void)!::ioctl(fd->get(), FS_IOC_SETFLAGS, &flags);
}

Result<std::string> read_link_at(int dir, const std::string& name) {
  char target[4096];
  ssize_t size = ::readlinkat(dir, name.c_str(), target, sizeof target);
  if (size < 0) return sys_error("read link", name);
  return std::string(target, static_cast<size_t>(size));
}

Result<std::string> path_of(int fd) { return read_link_at(AT_FDCWD, fd_path(fd)); }

std::string boot_id() {
  auto text = read_file("/proc/sys/kernel/random/boot_id", 256);
  if (!text) return "";
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return *text;
}

Status copy_contents(int from, int to, const std::string& name) {
  while (true) {
    ssize_t copied = ::copy_file_range(from, nullptr, to, nullptr, size_t{1} << 30, 0);
    if (copied == 0) break;
    if (copied < 0 && errno == EINTR) continue;
    if (copied < 0 && errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) {
      return sys_error("copy", name);
    }
    if (copied < 0) break;
  }
  char buffer[65536];  // what the kernel would not copy by itself
  while (true) {
    ssize_t count = ::read(from, buffer, sizeof buffer);
    if (count == 0) return {};
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sys_error("copy", name);
    TRY(write_all(to, std::string_view(buffer, static_cast<size_t>(count)), name));
  }
}

Status remove_deep_tree_at(int dir, const std::string& name) {
  Status removed = remove_tree_at(dir, name);
  if (removed.ok() || (removed.error().code != EMFILE && removed.error().code != ENFILE)) {
    return removed;
  }
  TRY(flatten(dir, name));
  return remove_tree_at(dir, name);
}

std::vector<int> processes_with_open(const struct stat& file) {
  std::vector<int> pids;
  auto proc = open_at(AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY);
  if (!proc) return pids;
  auto names = list_dir(proc->get());
  if (!names) return pids;
  for (const std::string& pid : *names) {
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    auto fds = open_at(proc->get(), pid + "/fd", O_RDONLY | O_DIRECTORY);
    if (!fds) continue;
    auto numbers = list_dir(fds->get());
    if (!numbers) continue;
    for (const std::string& number : *numbers) {
      struct stat info;
      if (::fstatat(fds->get(), number.c_str(), &info, 0) != 0) continue;
      if (info.st_dev != file.st_dev || info.st_ino != file.st_ino) continue;
      pids.push_back(std::atoi(pid.c_str()));
      break;
    }
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

}  // namespace rtlaunch::sys
