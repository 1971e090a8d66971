#include "isolation/sys/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <memory>

namespace rtlaunch::sys {
namespace {

Result<UniqueFd> open_resolved(int dir, const std::string& path, int flags, mode_t mode,
                               uint64_t resolve) {
  struct open_how how = {};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.mode = (flags & (O_CREAT | __O_TMPFILE)) ? mode : 0;
  how.resolve = resolve;
  while (true) {
    long fd = ::syscall(SYS_openat2, dir, path.c_str(), &how, sizeof how);
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    if (errno != EINTR && errno != EAGAIN) return sys_error("open", path);
  }
}

uint64_t mount_id(int fd) {
  struct statx info = {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &info) != 0) return 0;
  return info.stx_mnt_id;
}

Status remove_contents(int dir, uint64_t mount, const std::string& path);

Status remove_directory(int parent, const std::string& name, uint64_t mount,
                        const std::string& path) {
  auto dir = open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!dir && dir.error().code == EACCES) {
    if (::fchmodat(parent, name.c_str(), 0700, 0) != 0) return sys_error("remove", path);
    dir = open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  }
  if (!dir) return dir.error();
  if (mount_id(dir->get()) != mount) {
    return Error{"remove", EXDEV, path, "another file system is mounted here", "", 125};
  }
  TRY(remove_contents(dir->get(), mount, path));
  if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) != 0) return sys_error("remove", path);
  return {};
}

Status remove_contents(int dir, uint64_t mount, const std::string& path) {
  bool opened_up = false;
  for (const std::string& name : TRY(list_dir(dir))) {
    if (::unlinkat(dir, name.c_str(), 0) == 0 || errno == ENOENT) continue;
    if (errno == EACCES && !opened_up) {
      opened_up = true;
      if (::fchmod(dir, 0700) == 0 && ::unlinkat(dir, name.c_str(), 0) == 0) continue;
    }
    if (errno != EISDIR) return sys_error("remove", path + "/" + name);
    if (!opened_up) {
      struct stat info;
      if (::fstat(dir, &info) == 0 && (info.st_mode & 0200) == 0)
        opened_up = ::fchmod(dir, 0700) == 0;
    }
    TRY(remove_directory(dir, name, mount, path + "/" + name));
  }
  return {};
}

}  // namespace

Result<UniqueFd> open_at(int dir, const std::string& name, int flags, mode_t mode) {
  while (true) {
    int fd = ::openat(dir, name.c_str(), flags | O_CLOEXEC, mode);
    if (fd >= 0) return UniqueFd(fd);
    if (errno != EINTR) return sys_error("open", name);
  }
}

Result<UniqueFd> open_beneath(int dir, const std::string& path, int flags, mode_t mode) {
  return open_resolved(dir, path, flags, mode,
                       RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS);
}

Result<UniqueFd> open_in_root(int root, const std::string& path, int flags, mode_t mode) {
  return open_resolved(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

Result<std::string> read_all(int fd, const std::string& name, uint64_t limit) {
  std::string data;
  struct stat info;
  size_t whole = 0;  // unknown
  if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) {
    whole = static_cast<size_t>(info.st_size);
    data.reserve(std::min<uint64_t>(static_cast<uint64_t>(info.st_size) + 1, limit + 1));
  }
  char buffer[16384];
  while (true) {
    ssize_t count = ::read(fd, buffer, sizeof buffer);
    if (count == 0) return data;
    if (count < 0) {
      if (errno == EINTR) continue;
      return sys_error("read", name);
    }
    data.append(buffer, static_cast<size_t>(count));
    if (data.size() > limit) {
      return Error{"read", EFBIG, name, "more than " + std::to_string(limit) + " bytes", "", 125};
    }
    // All that there was, and a read that could have given more: this is the end.
    if (data.size() == whole && static_cast<size_t>(count) < sizeof buffer) return data;
  }
}

Result<std::string> read_file_at(int dir, const std::string& name, uint64_t limit) {
  UniqueFd fd = TRY(open_at(dir, name, O_RDONLY | O_NOCTTY));
  return read_all(fd.get(), name, limit);
}

Result<std::string> read_file(const std::string& path, uint64_t limit) {
  return read_file_at(AT_FDCWD, path, limit);
}

Status write_all(int fd, std::string_view data, const std::string& name) {
  while (!data.empty()) {
    ssize_t count = ::write(fd, data.data(), data.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      return sys_error("write", name);
    }
    data.remove_prefix(static_cast<size_t>(count));
  }
  return {};
}

Status replace_file_at(int dir, const std::string& name, std::string_view data, mode_t mode) {
  std::string staged = name + "." + random_name();
  UniqueFd fd = TRY(open_at(dir, staged, O_WRONLY | O_CREAT | O_EXCL, mode));
  Status written = write_all(fd.get(), data, name);
  if (written && ::renameat(dir, staged.c_str(), dir, name.c_str()) != 0) {
    written = sys_error("rename", name);
  }
  if (!written) ::unlinkat(dir, staged.c_str(), 0);
  return written;
}

Status make_dirs_at(int dir, const std::string& path, mode_t mode) {
  if (::mkdirat(dir, path.c_str(), mode) == 0) return {};
  if (errno == EEXIST) {
    struct stat info;
    if (::fstatat(dir, path.c_str(), &info, 0) == 0 && S_ISDIR(info.st_mode)) return {};
    return Error{"mkdir", ENOTDIR, path, "", "", 125};
  }
  size_t slash = path.find_last_of('/');
  if (errno != ENOENT || slash == std::string::npos || slash == 0) return sys_error("mkdir", path);
  TRY(make_dirs_at(dir, path.substr(0, slash), mode));
  if (::mkdirat(dir, path.c_str(), mode) != 0 && errno != EEXIST) return sys_error("mkdir", path);
  return {};
}

Status make_dirs(const std::string& path, mode_t mode) {
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.back() == '/') trimmed.pop_back();
  return make_dirs_at(AT_FDCWD, trimmed, mode);
}

// Not by readdir(3), which takes 32 KiB to look at a directory that is mostly empty.
Result<std::vector<std::string>> list_dir(int dir) {
  UniqueFd copy = TRY(open_at(dir, ".", O_RDONLY | O_DIRECTORY));
  std::vector<std::string> names;
  alignas(struct dirent64) char buffer[8192];
  ssize_t size;
  while ((size = ::getdents64(copy.get(), buffer, sizeof buffer)) > 0) {
    for (ssize_t at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const struct dirent64*>(buffer + at);
      std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
      at += entry->d_reclen;
    }
  }
  if (size < 0) return sys_error("list", "directory");
  std::sort(names.begin(), names.end());
  return names;
}

Status remove_tree_at(int dir, const std::string& name) {
  if (::unlinkat(dir, name.c_str(), 0) == 0 || errno == ENOENT) return {};
  if (errno != EISDIR) return sys_error("remove", name);
  UniqueFd parent = TRY(open_at(dir, ".", O_PATH | O_DIRECTORY));
  size_t slash = name.find_last_of('/');
  std::string base = name;
  if (slash != std::string::npos) {
    parent = TRY(open_at(dir, slash == 0 ? "/" : name.substr(0, slash), O_PATH | O_DIRECTORY));
    base = name.substr(slash + 1);
  }
  return remove_directory(parent.get(), base, mount_id(parent.get()), name);
}

Result<std::string> real_path(const std::string& path) {
  std::unique_ptr<char, void (*)(void*)> resolved(::realpath(path.c_str(), nullptr), ::free);
  if (!resolved) return sys_error("resolve", path);
  return std::string(resolved.get());
}

std::string absolute_path(const std::string& path, const std::string& base) {
  std::string joined = !path.empty() && path[0] == '/' ? path : base + "/" + path;
  std::vector<std::string_view> parts;
  std::string_view rest = joined;
  while (!rest.empty()) {
    size_t slash = rest.find('/');
    std::string_view part = rest.substr(0, slash);
    rest = slash == std::string_view::npos ? std::string_view() : rest.substr(slash + 1);
    if (part.empty() || part == ".") continue;
    if (part != "..") {
      parts.push_back(part);
    } else if (!parts.empty()) {
      parts.pop_back();
    }
  }
  std::string result;
  for (std::string_view part : parts) result.append("/").append(part);
  return result.empty() ? "/" : result;
}

bool is_beneath(std::string_view path, std::string_view dir) {
  if (dir == "/") return !path.empty() && path[0] == '/';
  return path.substr(0, dir.size()) == dir &&
         (path.size() == dir.size() || path[dir.size()] == '/');
}

std::string random_name() {
  unsigned char bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) std::abort();
  static const char kHex[] = "0123456789abcdef";
  std::string name;
  for (unsigned char byte : bytes) {
    name += kHex[byte >> 4];
    name += kHex[byte & 15];
  }
  return name;
}

}  // namespace rtlaunch::sys
