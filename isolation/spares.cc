#include "isolation/spares.h"

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

void Spares::make_all() {
  for (size_t kind = 0; kind < kCount; ++kind) {
    Result<sys::Mount> mount = make(static_cast<Kind>(kind), 0);
    if (mount) ready_[kind] = std::move(*mount);
  }
}

void Spares::append_to(std::vector<int>* descriptors) const {
  for (const sys::Mount& mount : ready_) descriptors->push_back(mount.fd());
}

Result<sys::Mount> Spares::take(Kind kind, uint64_t bytes) {
  if (bytes > 0 || !ready_[kind].valid()) return make(kind, bytes);
  return std::move(ready_[kind]);
}

}  // namespace rtlaunch::isolation
