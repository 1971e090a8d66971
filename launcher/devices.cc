#include "launcher/devices.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "isolation/sys/files.h"

namespace rtlaunch {
namespace {

constexpr time_t kSettled = 2;       // seconds
constexpr size_t kMostFolders = 64;  // a request may name some

bool is_character_device(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0 && S_ISCHR(info.st_mode);
}

bool is_settled(const struct timespec& changed) {
  struct timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec - changed.tv_sec >= kSettled;
}

Result<std::vector<std::string>> list(const std::string& path) {
  UniqueFd folder = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY));
  return sys::list_dir(folder.get());
}

}  // namespace

bool DeviceFolders::Folder::is(const struct stat& now) const {
  return device == now.st_dev && inode == now.st_ino && changed.tv_sec == now.st_mtim.tv_sec &&
         changed.tv_nsec == now.st_mtim.tv_nsec;
}

// Its time is asked for before its names: what changes meanwhile has another.
const std::vector<std::string>& DeviceFolders::names_in(const std::string& path) {
  if (folders_.size() >= kMostFolders) folders_.clear();
  Folder& known = folders_[path];
  struct stat now = {};
  bool there = ::stat(path.c_str(), &now) == 0;
  if (there && known.is(now)) return known.names;
  known = {};
  if (auto names = list(path)) known.names = std::move(*names);
  if (!there || !is_settled(now.st_mtim)) return known.names;
  known.device = now.st_dev;
  known.inode = now.st_ino;
  known.changed = now.st_mtim;
  return known.names;
}

std::vector<std::string> DeviceFolders::devices_of(const config::Grants& grants) {
  std::vector<std::string> paths;
  for (const std::string& pattern : grants.names) {
    if (!pattern.ends_with('*')) {
      if (is_character_device(pattern)) paths.push_back(pattern);
      continue;
    }
    std::string folder = pattern.substr(0, pattern.rfind('/') + 1);
    for (const std::string& name : names_in(folder)) {
      std::string path = folder + name;
      if (config::matches(pattern, path) && is_character_device(path)) paths.push_back(path);
    }
  }
  return paths;
}

}  // namespace rtlaunch
