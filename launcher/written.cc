#include "launcher/written.h"

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "isolation/sys/files.h"

namespace rtlaunch {
namespace {

struct Walk {
  const std::vector<std::string>& skip;
  Written written;
};

Status copy_file(int from_dir, int to_dir, const std::string& name, const struct stat& info) {
  UniqueFd from = TRY(sys::open_at(from_dir, name, O_RDONLY | O_NOFOLLOW));
  TRY(sys::remove_tree_at(to_dir, name));
  UniqueFd to = TRY(sys::open_at(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  while (true) {
    ssize_t count = ::sendfile(to.get(), from.get(), nullptr, 1 << 30);
    if (count == 0) break;
    if (count < 0 && errno != EINTR) return sys_error("--keep", name);
  }
  struct timespec times[2] = {info.st_atim, info.st_mtim};
  if (::fchmod(to.get(), info.st_mode & 0777) != 0 || ::futimens(to.get(), times) != 0) {
    return sys_error("--keep", name);
  }
  return {};
}

Status copy_link(int from_dir, int to_dir, const std::string& name) {
  char target[4096];
  ssize_t length = ::readlinkat(from_dir, name.c_str(), target, sizeof target - 1);
  if (length < 0) return sys_error("--keep", name);
  target[length] = '\0';
  TRY(sys::remove_tree_at(to_dir, name));
  if (::symlinkat(target, to_dir, name.c_str()) != 0) return sys_error("--keep", name);
  return {};
}

// `to_dir` is where the copy goes, or -1 to count only.
Status walk(int dir, const std::string& path, int to_dir, Walk& state);

Status walk_directory(int dir, const std::string& name, const std::string& path, int to_dir,
                      Walk& state) {
  UniqueFd child = TRY(sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  if (to_dir < 0) return walk(child.get(), path, -1, state);
  if (::mkdirat(to_dir, name.c_str(), 0755) != 0 && errno != EEXIST)
    return sys_error("--keep", path);
  UniqueFd to = TRY(sys::open_at(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  return walk(child.get(), path, to.get(), state);
}

Status walk(int dir, const std::string& path, int to_dir, Walk& state) {
  for (const std::string& name : TRY(sys::list_dir(dir))) {
    std::string inner = path.empty() ? name : path + "/" + name;
    if (std::find(state.skip.begin(), state.skip.end(), inner) != state.skip.end()) continue;
    struct stat info;
    if (::fstatat(dir, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
      return sys_error("stat", inner);
    if (S_ISDIR(info.st_mode)) {
      TRY(walk_directory(dir, name, inner, to_dir, state));
    } else if (S_ISCHR(info.st_mode)) {
      ++state.written.deleted;
    } else if (S_ISREG(info.st_mode) || S_ISLNK(info.st_mode)) {
      ++state.written.files;
      state.written.bytes += static_cast<uint64_t>(info.st_size);
      if (to_dir >= 0) {
        TRY(S_ISLNK(info.st_mode) ? copy_link(dir, to_dir, name)
                                  : copy_file(dir, to_dir, name, info));
      }
    }
  }
  return {};
}

}  // namespace

Result<Written> count_written(int upper, const std::vector<std::string>& skip) {
  Walk state{skip, {}};
  TRY(walk(upper, "", -1, state));
  return state.written;
}

Result<Written> keep_written(int upper, const std::vector<std::string>& skip,
                             const std::string& destination) {
  TRY(sys::make_dirs(destination));
  UniqueFd root = TRY(sys::open_at(AT_FDCWD, destination, O_RDONLY | O_DIRECTORY));
  Walk state{skip, {}};
  TRY(walk(upper, "", root.get(), state));
  return state.written;
}

}  // namespace rtlaunch
