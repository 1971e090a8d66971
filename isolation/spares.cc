#include "isolation/spares.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "isolation/sys/files.h"

namespace rtlaunch::isolation {
namespace {

constexpr uint64_t kNoPrograms = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;

struct FileSystem {
  const char* type;
  const char* mode;  // of its root
  uint64_t attributes;
};
constexpr FileSystem kFileSystems[Spares::kCount] = {
    {"tmpfs", "0700", sys::kSafe},  {"tmpfs", "1777", sys::kSafe},
    {"tmpfs", "1777", sys::kSafe},  {"proc", nullptr, sys::kSafe | MOUNT_ATTR_NOEXEC},
    {"devpts", "620", kNoPrograms}, {"mqueue", nullptr, kNoPrograms | MOUNT_ATTR_NODEV},
};

Result<sys::Mount> make(Spares::Kind kind, uint64_t bytes) {
  const FileSystem& wanted = kFileSystems[kind];
  sys::FsContext context = TRY(sys::FsContext::open(wanted.type));
  if (kind == Spares::kPts) {
    TRY(context.set_flag("newinstance"));
    TRY(context.set("ptmxmode", "0666"));
  }
  if (wanted.mode != nullptr) TRY(context.set("mode", wanted.mode));
  if (bytes > 0) TRY(context.set("size", std::to_string(bytes)));
  return context.mount(wanted.attributes);
}

}  // namespace

void Spares::make_all(int covers) {
  for (size_t kind = 0; kind < kCount; ++kind) {
    Result<sys::Mount> mount = make(static_cast<Kind>(kind), 0);
    if (mount) ready_[kind] = std::move(*mount);
  }
  if (auto table = sys::MountTable::open()) mounts = std::move(*table);
  for (int i = 0; i < covers && ready_[kVault].valid(); ++i) {
    Result<Empty> empty = Empty::make(ready_[kVault].fd(), "e" + std::to_string(i));
    if (!empty) break;
    empty_.push_back(std::move(*empty));
  }
}

Result<Spares::Empty> Spares::Empty::make(int vault, const std::string& name) {
  if (::mkdirat(vault, name.c_str(), 0555) != 0) return sys_error("mkdir", name);
  Empty empty;
  empty.dir = TRY(sys::open_at(vault, name, O_PATH | O_DIRECTORY | O_NOFOLLOW));
  empty.mount = TRY(sys::clone_mount(vault, name, false));
  TRY(sys::set_mount_attributes(empty.mount.fd(), "", sys::kSafe | MOUNT_ATTR_RDONLY, false));
  return empty;
}

std::optional<Spares::Empty> Spares::take_empty() {
  if (empty_.empty()) return std::nullopt;
  Empty empty = std::move(empty_.back());
  empty_.pop_back();
  return empty;
}

void Spares::append_to(std::vector<int>* descriptors) const {
  for (const sys::Mount& mount : ready_) descriptors->push_back(mount.fd());
  for (const Empty& empty : empty_) {
    descriptors->insert(descriptors->end(), {empty.dir.get(), empty.mount.fd()});
  }
  descriptors->push_back(sys.fd());
  if (mounts) descriptors->push_back(mounts->fd());
  if (network) {
    descriptors->insert(descriptors->end(), {network->network.get(), network->translation.get()});
  }
}

Result<sys::Mount> Spares::take(Kind kind, uint64_t bytes) {
  if (bytes > 0 || !ready_[kind].valid()) return make(kind, bytes);
  return std::move(ready_[kind]);
}

}  // namespace rtlaunch::isolation
