#include "installers/callers_path.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

std::string place;  // written once, by prepare()
int made = 0;       // mounts in it

Result<UniqueFd> open_place() {
  if (place.empty()) return make_error("build", "", "CallersPath::prepare() was not called");
  return sys::open_at(AT_FDCWD, place, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

Result<std::string> attach(const sys::Mount& mount) {
  struct stat info;
  if (::fstat(mount.fd(), &info) != 0) return sys_error("stat", "");
  sys::AsRoot root;
  UniqueFd folder = TRY(open_place());
  std::string name = std::to_string(made++);
  if (S_ISDIR(info.st_mode)) {
    TRY(sys::make_dirs_at(folder.get(), name, 0700));
  } else {
    TRY(sys::open_at(folder.get(), name, O_WRONLY | O_CREAT | O_EXCL, 0600));
  }
  TRY(mount.attach(folder.get(), name));
  return place + "/" + name;
}

Error unreadable(Error error, const std::string& path) {
  error.step = "build";
  error.object = path;
  error.cure = "make it readable for yourself, or name another";
  return error;
}

}  // namespace

Status CallersPath::prepare(const store::Store& store) {
  if (sys::acting_for() == nullptr) return {};
  sys::AsRoot root;
  TRY(sys::unshare_mounts());
  TRY(sys::make_all_private());
  TRY(sys::make_dirs_at(store.dir(), "callers", 0700));
  std::string path = store.path() + "/callers";
  sys::FsContext context = TRY(sys::FsContext::open("tmpfs"));
  TRY(context.set("mode", "0700"));
  sys::Mount mount = TRY(context.mount(sys::kSafe));
  TRY(mount.attach(AT_FDCWD, path));
  place = path;
  return {};
}

Result<CallersPath> CallersPath::open(const std::string& path) {
  if (sys::acting_for() == nullptr) return CallersPath(path, path, sys::Mount());
  auto mount = sys::clone_mount(AT_FDCWD, path, /*recursive=*/true);
  if (!mount) return unreadable(mount.error(), path);
  std::string look = "/proc/self/fd/" + std::to_string(mount->fd());
  auto readable = sys::open_at(AT_FDCWD, look, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!readable) return unreadable(readable.error(), path);
  std::string source = TRY(attach(*mount));
  return CallersPath(std::move(source), std::move(look), std::move(*mount));
}

}  // namespace rtlaunch::installers
