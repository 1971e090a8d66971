#include "isolation/dev.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch::isolation {
namespace {

struct Known {
  const char* name;
  unsigned major, minor;
};
constexpr Known kKnown[] = {{"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
                            {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};

struct Link {
  const char *name, *target;
};
constexpr Link kLinks[] = {{"fd", "/proc/self/fd"},
                           {"stdin", "/proc/self/fd/0"},
                           {"stdout", "/proc/self/fd/1"},
                           {"stderr", "/proc/self/fd/2"},
                           {"ptmx", "pts/ptmx"}};

constexpr const char* kFolders[] = {"pts", "shm", "mqueue"};

Status check_device(int fd, const std::string& path, dev_t expected) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return sys_error("device", path);
  if (S_ISCHR(info.st_mode) && info.st_rdev == expected) return {};
  return make_error("device", path, "it is not the device that its name says",
                    "repair this host's /dev");
}

// Major 1 is memory, ports and the log, but for those that every sandbox has.
Status check_grantable(int fd, const std::string& path) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return sys_error("device", path);
  if (!S_ISCHR(info.st_mode)) return make_error("device", path, "it is no character device");
  if (major(info.st_rdev) != 1) return {};
  return make_error("device", path, "the kernel's own memory and log are given to nobody");
}

// The path of the terminal behind `fd`, as this process sees it; empty when it is none.
std::string terminal_path(int fd, dev_t* device) {
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISCHR(info.st_mode) || !::isatty(fd)) return "";
  char path[256];
  ssize_t length =
      ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path - 1);
  if (length <= 0 || path[0] != '/') return "";
  *device = info.st_rdev;
  return std::string(path, static_cast<size_t>(length));
}

Result<sys::Mount> clone_device(const std::string& path, dev_t device) {
  sys::Mount mount = TRY(sys::clone_mount(AT_FDCWD, path, false));
  TRY(check_device(mount.fd(), path, device));
  return mount;
}

Status mount_at(int dev, const char* name, Spares::Kind kind, Spares* spares) {
  sys::Mount mount = TRY(spares->take(kind));
  return mount.attach(dev, name);
}

Status add_shared_memory(uint64_t bytes, Spares* spares, Tree* tree) {
  sys::Mount mount = TRY(spares->take(Spares::kShm, bytes));
  UniqueFd make_in = TRY(sys::copy_above_stdio(mount.fd()));
  tree->add(Tree::Kind::kPrivate, "/dev/shm", std::move(mount), std::move(make_in));
  return {};
}

}  // namespace

Result<Devices> Devices::open() {
  Devices devices;
  for (const Known& known : kKnown) {
    std::string path = std::string("/dev/") + known.name;
    Result<sys::Mount> mount = clone_device(path, makedev(known.major, known.minor));
    if (!mount && mount.error().code == ENOENT && !devices.nodes_.empty()) continue;
    if (!mount) return mount.error();
    devices.nodes_.push_back({known.name, std::move(mount.value())});
  }
  return devices;
}

// The name may have folders in it ("infiniband/uverbs0"), and no link on the way.
Status Devices::grant(const std::string& path, bool optional) {
  std::string name = path.starts_with("/dev/") ? path.substr(5) : "";
  UniqueFd dev = TRY(sys::open_at(AT_FDCWD, "/dev", O_PATH | O_DIRECTORY));
  Result<UniqueFd> node = sys::open_beneath(dev.get(), name, O_PATH);
  if (!node && optional && node.error().code == ENOENT) return {};
  if (!node) return Error{"device", node.error().code, path, "", "name one below /dev", 125};
  TRY(check_grantable(node->get(), path));
  sys::Mount mount = TRY(sys::clone_mount(node->get(), "", false));
  nodes_.push_back({name, std::move(mount)});
  return {};
}

void Devices::add_console(const int (&stdio)[3]) {
  for (int fd : stdio) {
    dev_t device;
    std::string path = terminal_path(fd, &device);
    if (path.empty()) continue;
    Result<sys::Mount> mount = clone_device(path, device);
    // A terminal of another namespace has no path here; then there is no console.
    if (mount) nodes_.push_back({"console", std::move(mount.value())});
    break;
  }
}

void Devices::append_to(std::vector<int>* descriptors) const {
  for (const Node& node : nodes_) descriptors->push_back(node.mount.fd());
  descriptors->insert(descriptors->end(), {dir_.get(), mount_.fd()});
}

void Devices::make_ahead(Spares* spares) {
  const sys::Mount& vault = spares->peek(Spares::kVault);
  if (!vault.valid()) return;
  if (make_directory(vault.fd()).ok()) (void)fill(mount_.fd(), spares).ok();
}

// All or nothing: the directory goes again if it can't be mounted yet.
Status Devices::make_directory(int vault) {
  if (::mkdirat(vault, "dev", 0755) != 0) return sys_error("mkdir", "dev");
  Result<sys::Mount> mount = sys::clone_mount(vault, "dev", false);
  if (!mount) {
    ::unlinkat(vault, "dev", AT_REMOVEDIR);
    return mount.error();
  }
  constexpr uint64_t kAttributes = sys::kSafe | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC;
  dir_ = TRY(sys::open_at(vault, "dev", O_PATH | O_DIRECTORY | O_NOFOLLOW));
  TRY(sys::set_mount_attributes(mount->fd(), "", kAttributes, false));
  for (const Link& link : kLinks) {
    if (::symlinkat(link.target, dir_.get(), link.name) != 0)
      return sys_error("symlink", link.name);
  }
  for (const char* name : kFolders) {
    if (::mkdirat(dir_.get(), name, 0755) != 0) return sys_error("mkdir", name);
  }
  mount_ = std::move(*mount);
  return add_mount_points();
}

Status Devices::add_mount_points() {
  for (; points_ < nodes_.size(); ++points_) {
    const std::string& name = nodes_[points_].name;
    size_t slash = name.rfind('/');
    if (slash != std::string::npos) TRY(sys::make_dirs_at(dir_.get(), name.substr(0, slash)));
    if (::mknodat(dir_.get(), name.c_str(), S_IFREG | 0666, 0) != 0)
      return sys_error("mknod", name);
  }
  return {};
}

Status Devices::add_to(const Vault& vault, uint64_t shm_bytes, Spares* spares, Tree* tree) {
  TRY(mount_.valid() ? add_mount_points() : make_directory(vault.fd()));
  tree->add(Tree::Kind::kPrivate, "/dev", std::move(mount_), std::move(dir_));
  return add_shared_memory(shm_bytes, spares, tree);
}

Status Devices::fill(int dev, Spares* spares) {
  if (!has_file_systems_) {
    TRY(mount_at(dev, "pts", Spares::kPts, spares));
    Status queues = mount_at(dev, "mqueue", Spares::kQueues, spares);
    if (!queues && queues.error().code != ENODEV) return queues;  // kernel without POSIX queues
    has_file_systems_ = true;
  }
  for (; mounted_ < nodes_.size(); ++mounted_) {
    TRY(nodes_[mounted_].mount.attach(dev, nodes_[mounted_].name));
  }
  return {};
}

}  // namespace rtlaunch::isolation
