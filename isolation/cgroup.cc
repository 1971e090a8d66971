#include "isolation/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <sstream>

#include "isolation/sys/files.h"

namespace rtlaunch::isolation {
namespace {

bool is_plain(const std::string& path) {
  if ((path + "/").find("/../") != std::string::npos) return false;
  return std::all_of(path.begin(), path.end(), [](unsigned char c) {
    return std::isalnum(c) || std::string_view("/-_.@:").find(char(c)) != std::string_view::npos;
  });
}

std::optional<uint64_t> number_after(const std::string& text, const std::string& key) {
  size_t at = text.find(key);
  if (at == std::string::npos) return std::nullopt;
  uint64_t value = 0;
  const char* begin = text.data() + at + key.size();
  auto [end, code] = std::from_chars(begin, text.data() + text.size(), value);
  return code == std::errc() ? std::optional(value) : std::nullopt;
}

}  // namespace

// Field 5 of a line of mountinfo is the mount point, and what follows " - " begins with the type
// (proc(5)).
std::string cgroup_hierarchy() {
  Result<std::string> text = sys::read_file("/proc/self/mountinfo");
  if (!text) return "";
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find(" - cgroup2 ") == std::string::npos) continue;
    std::istringstream fields(line);
    std::string field;
    for (int i = 0; i < 5; ++i) fields >> field;
    return field;
  }
  return "";
}

std::string own_cgroup() {
  Result<std::string> text = sys::read_file("/proc/self/cgroup");
  size_t at = text ? text->find("0::/") : std::string::npos;
  if (at == std::string::npos) return "";
  std::string path = text->substr(at + 3, text->find('\n', at) - at - 3);
  return path == "/" ? "" : path;
}

std::optional<Cgroups> Cgroups::open(const std::string& folder, const std::string& name) {
  std::string root = cgroup_hierarchy();
  std::string path = folder.empty() ? own_cgroup() + "/" + name : folder;
  if (root.empty() || !is_plain(path) || !sys::make_dirs(root + path)) return std::nullopt;
  Result<UniqueFd> dir = sys::open_at(AT_FDCWD, root + path, O_RDONLY | O_DIRECTORY);
  if (!dir || ::faccessat(dir->get(), ".", W_OK, 0) != 0) return std::nullopt;
  Cgroups cgroups(path, std::move(*dir));
  Result<std::vector<std::string>> names = sys::list_dir(cgroups.dir_.get());
  for (size_t i = 0; names && i < names->size(); ++i) {
    if ((*names)[i].starts_with("w-")) cgroups.waiting_.push_back((*names)[i]);
  }
  cgroups.sweep();
  return cgroups;
}

// Whoever used it before may have left it, and taken it away, since we opened it.
Status Cgroups::make_folder() {
  std::string path = cgroup_hierarchy() + folder_;
  TRY(sys::make_dirs(path));
  dir_ = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY));
  return {};
}

Result<Leaf> Cgroups::make() {
  std::string name = "w-" + sys::random_name();
  int made = ::mkdirat(dir_.get(), name.c_str(), 0755);
  if (made != 0 && errno == ENOENT) {
    TRY(make_folder());
    made = ::mkdirat(dir_.get(), name.c_str(), 0755);
  }
  if (made != 0) return sys_error("cgroup", name);
  ours_.insert(name);
  Result<UniqueFd> fd = sys::open_at(dir_.get(), name, O_RDONLY | O_DIRECTORY);
  if (!fd) return fd.error();
  return Leaf{folder_ + "/" + name, std::move(*fd)};
}

void Cgroups::end(const std::string& path) {
  std::string name = path.substr(path.rfind('/') + 1);
  ours_.erase(name);
  if (::unlinkat(dir_.get(), name.c_str(), AT_REMOVEDIR) == 0) return;
  if (auto kill = sys::open_at(dir_.get(), name + "/cgroup.kill", O_WRONLY)) {
    (void)!::write(kill->get(), "1", 1);
  }
  waiting_.push_back(std::move(name));
}

bool Cgroups::sweep() {
  std::erase_if(waiting_, [&](const std::string& name) {
    return ::unlinkat(dir_.get(), name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT;
  });
  return waiting_.empty();
}

void Cgroups::leave() {
  sweep();
  for (const std::string& name : ours_) ::unlinkat(dir_.get(), name.c_str(), AT_REMOVEDIR);
  ::rmdir((cgroup_hierarchy() + folder_).c_str());
}

Result<CgroupUse> cgroup_use(const std::string& path) {
  static std::string root;
  if (root.empty()) root = cgroup_hierarchy();
  if (root.empty()) return Error{"cgroup", ENOENT, path, "no cgroup2 is mounted", "", 125};
  std::string folder = root + path;
  CgroupUse use;
  std::string stat = TRY(sys::read_file(folder + "/cpu.stat", 4096));
  use.cpu_microseconds = number_after(stat, "usage_usec ").value_or(0);
  if (auto memory = sys::read_file(folder + "/memory.current", 64)) {
    use.memory_bytes = number_after(*memory, "");
  }
  return use;
}

}  // namespace rtlaunch::isolation
