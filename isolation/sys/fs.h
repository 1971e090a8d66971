// What a store of files needs of the kernel beyond opening and reading: locks, renames that never
// replace, syncs, space, times, modes and extended attributes. Names never follow a link in their
// last part. Errors carry errno and the name as given.
//
// Rests on flock(2), renameat2(2), syncfs(2), fstatfs(2), utimensat(2), xattr(7).
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {

enum class Lock { kShared, kExclusive };
// A flock belongs to the open file description: it ends with the last copy of the descriptor, in
// whatever process, also after SIGKILL.
Status lock_file(int fd, Lock kind, const std::string& name);            // waits
Result<bool> try_lock_file(int fd, Lock kind, const std::string& name);  // false: somebody has it
void unlock_file(int fd);

Result<struct stat> stat_fd(int fd, const std::string& name);
Result<struct stat> stat_at(int dir, const std::string& name);
bool exists_at(int dir, const std::string& name);

Status rename_at(int from_dir, const std::string& from, int to_dir, const std::string& to);
// RENAME_NOREPLACE: EEXIST when `to` is there. Where the file system can't, a plain rename, which
// for directories refuses a target that holds anything (rename(2)) and reads EEXIST as well.
Status rename_new_at(int from_dir, const std::string& from, int to_dir, const std::string& to);
Status link_new_at(int dir, const std::string& from, const std::string& to);  // link(2)
Status unlink_at(int dir, const std::string& name);  // gone already is fine
Status remove_dir_at(int dir, const std::string& name);

Status sync_data(int fd, const std::string& name);         // fdatasync
Status sync_file_system(int fd, const std::string& name);  // syncfs; reports lost writes since 5.8

struct Space {
  uint64_t total = 0, free = 0;              // bytes; free to an unprivileged user
  uint64_t files_total = 0, files_free = 0;  // 0 and 0 where inodes have no limit (btrfs)
  uint64_t type = 0;                         // f_type, e.g. 0x794c7630 for overlay
  bool read_only = false;
};
Result<Space> space_of(int fd, const std::string& name);
Status preallocate(int fd, uint64_t bytes, const std::string& name);  // posix_fallocate
Result<std::string> read_start_at(int dir, const std::string& name, size_t bytes);  // or less
Status write_over(int fd, std::string_view data, const std::string& name);  // truncates first

// Seconds since 1970; the nanoseconds become 0.
Status set_mtime_at(int dir, const std::string& name, int64_t seconds);
Status set_mtime(int fd, int64_t seconds, const std::string& name);
Status touch_at(int dir, const std::string& name);  // now
Status touch(int fd, const std::string& name);
int64_t now_seconds();

// By descriptor, O_PATH ones too (through /proc/self/fd, which can't be redirected by a link).
Status set_mode(int fd, mode_t mode, const std::string& name);
Status set_owner_at(int dir, const std::string& name, uid_t uid, gid_t gid);

// Extended attributes of an open file or directory. A file system without them has none.
std::vector<std::string> list_xattrs(int fd);
std::optional<std::string> get_xattr(int fd, const std::string& name);
Status set_xattr(int fd, const std::string& name, const std::string& value);
Status remove_xattr(int fd, const std::string& name);
// The same for what can't be opened (a link, a whiteout).
std::vector<std::string> list_xattrs_at(int dir, const std::string& name);
Status remove_xattr_at(int dir, const std::string& name, const std::string& xattr);

// Each directory in `name` from now on gets a part of the disk of its own (ext4's "top of a
// hierarchy", chattr(1) +T), far from where others were just removed. Other file systems: nothing.
void keep_apart_in(int dir, const std::string& name);

Result<std::string> read_link_at(int dir, const std::string& name);
Result<std::string> path_of(int fd);  // absolute, links resolved
std::string boot_id();                // "" where /proc doesn't say

// Copies what is left in `from` to `to`, by copy_file_range where it can.
Status copy_contents(int from, int to, const std::string& name);

// As remove_tree_at, for trees of any depth: where the plain way runs out of descriptors, deep
// directories are first renamed up. Needs one free name beside `name`.
Status remove_deep_tree_at(int dir, const std::string& name);

// Who has the file with this device and inode open, by /proc/*/fd as far as we may look. Sorted.
std::vector<int> processes_with_open(const struct stat& file);

}  // namespace rtlaunch::sys
