// Files and directories, by directory descriptor and name. Names never follow a symbolic link in
// their last part; where the whole path is somebody else's, use open_beneath. Errors carry errno
// and the path as it was given.
//
// Rests on openat2(2) (Linux 5.6), renameat2(2), unlinkat(2).
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {

// Opens relative to `dir` (AT_FDCWD for the current directory); O_CLOEXEC is added.
Result<UniqueFd> open_at(int dir, const std::string& name, int flags, mode_t mode = 0);

// openat2 with RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS: refuses `..`,
// absolute names and every link on the way.
Result<UniqueFd> open_beneath(int dir, const std::string& path, int flags, mode_t mode = 0);

// openat2 with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS: `root` is `/` for the path and its links.
Result<UniqueFd> open_in_root(int root, const std::string& path, int flags, mode_t mode = 0);

// The whole file; fails with EFBIG over `limit` bytes.
Result<std::string> read_file_at(int dir, const std::string& name, uint64_t limit = 64 << 20);
Result<std::string> read_file(const std::string& path, uint64_t limit = 64 << 20);
Result<std::string> read_all(int fd, const std::string& name, uint64_t limit = 64 << 20);

Status write_all(int fd, std::string_view data, const std::string& name);
// Creates or replaces `name` as a whole: written beside it, then renamed. Not synced.
Status replace_file_at(int dir, const std::string& name, std::string_view data, mode_t mode = 0644);

// mkdir -p. An existing directory (or a link to one) is fine.
Status make_dirs(const std::string& path, mode_t mode = 0755);
Status make_dirs_at(int dir, const std::string& path, mode_t mode = 0755);

// Names in the directory, without `.` and `..`, sorted by bytes.
Result<std::vector<std::string>> list_dir(int dir);

// Removes `name` and all below it. Never follows a link and never crosses a mount: a directory on
// another mount stays, and the removal fails with EXDEV. A name that isn't there is fine.
// Read-only directories (mode 0555) are opened up on the way.
Status remove_tree_at(int dir, const std::string& name);

// The absolute path with every link resolved (realpath(3)); the path must exist.
Result<std::string> real_path(const std::string& path);
// Absolute and without `.`, `..`, `//`, but links are left alone; need not exist.
std::string absolute_path(const std::string& path, const std::string& base);

bool is_beneath(std::string_view path, std::string_view dir);  // equal counts

// 16 random bytes as 32 hex digits, from getrandom(2).
std::string random_name();

}  // namespace rtlaunch::sys
