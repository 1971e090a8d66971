// The installers' caches: uv's own (one for each caller: uv/<uid>, and uv itself for the store's
// owner), downloads, stat caches. What goes comes back at the price of a download or a walk.
//
// A caller's folder is his to fill, so nothing in it is believed: it is entered by descriptor,
// links are not followed, and what goes is renamed to trash before it is looked at.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "installers/store/house.h"
#include "isolation/sys/files.h"

namespace rtlaunch::store {
namespace {

struct Cached {
  int folder;  // borrowed
  std::string name;
  uint64_t bytes = 0;
  int64_t last_used = 0;
  bool downloads = false;  // a uv cache, which is emptied, not removed
};

bool is_uid(const std::string& name) {
  return !name.empty() && name.find_first_not_of("0123456789") == std::string::npos;
}

Result<UniqueFd> open_folder(int dir, const std::string& name) {
  return sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

// uv, and each uv/<uid>.
Result<std::vector<UniqueFd>> uv_homes(int store) {
  std::vector<UniqueFd> homes;
  auto uv = open_folder(store, "uv");
  if (!uv) return homes;
  for (const std::string& name : TRY(sys::list_dir(uv->get()))) {
    auto home = is_uid(name) ? open_folder(uv->get(), name) : Result<UniqueFd>(Error());
    if (home) homes.push_back(std::move(*home));
  }
  homes.push_back(std::move(*uv));
  return homes;
}

// A uv that runs holds its cache's lock. Not there: nobody has run yet.
Result<std::optional<UniqueFd>> lock_cache(int cache) {
  auto lock = sys::open_at(cache, ".lock", O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (!lock) return std::optional<UniqueFd>(UniqueFd());
  if (!TRY(sys::try_lock_file(lock->get(), sys::Lock::kExclusive, ".lock"))) {
    return std::optional<UniqueFd>();
  }
  return std::optional<UniqueFd>(std::move(*lock));
}

// The file `builds-v0` stays: it keeps uv from running code while it plans (installers/uv.h).
Status empty_cache(int home, int store) {
  auto cache = open_folder(home, "cache");
  if (!cache) return {};
  auto lock = TRY(lock_cache(cache->get()));
  if (!lock) return {};
  for (const std::string& name : TRY(sys::list_dir(cache->get()))) {
    if (name.starts_with(".") || name.starts_with("builds")) continue;
    Status moved = sys::rename_at(cache->get(), name, store, "trash/" + sys::random_name());
    if (!moved.ok() && moved.error().code != ENOENT) return moved;
  }
  return {};
}

int64_t last_use(const struct stat& info) {
  return std::max<int64_t>(info.st_atime, info.st_mtime);
}

void add_entries(int folder, std::vector<Cached>& cached) {
  auto names = sys::list_dir(folder);
  if (!names) return;
  for (std::string& name : *names) {
    auto info = sys::stat_at(folder, name);
    if (!info) continue;
    uint64_t bytes = disk_usage(folder, name);
    cached.push_back({folder, std::move(name), bytes, last_use(*info)});
  }
}

void add_downloads(int home, std::vector<Cached>& cached) {
  auto own = sys::stat_fd(home, "uv");
  auto cache = sys::stat_at(home, "cache");
  if (!own || !cache) return;
  int64_t used = std::max<int64_t>(own->st_mtime, cache->st_mtime);
  cached.push_back({home, "cache", disk_usage(home, "cache"), used, true});
}

}  // namespace

Status House::drop_downloads() {
  for (const UniqueFd& home : TRY(uv_homes(dir()))) TRY(empty_cache(home.get(), dir()));
  return store_.sweep();
}

Status House::trim_caches(uint64_t most, int64_t unused_since) {
  std::vector<UniqueFd> homes = TRY(uv_homes(dir())), folders;
  std::vector<Cached> cached;
  for (const UniqueFd& home : homes) {
    add_downloads(home.get(), cached);
    if (auto views = open_folder(home.get(), "views")) folders.push_back(std::move(*views));
  }
  for (const char* name : {"wd", "blobs"}) {
    if (auto folder = open_folder(dir(), name)) folders.push_back(std::move(*folder));
  }
  for (const UniqueFd& folder : folders) add_entries(folder.get(), cached);
  uint64_t sum = 0;
  for (const Cached& one : cached) sum += one.bytes;
  uint64_t goal = sum > most ? most / 10 * 9 : sum;
  std::sort(cached.begin(), cached.end(),
            [](const Cached& a, const Cached& b) { return a.last_used < b.last_used; });
  for (const Cached& one : cached) {
    if (sum <= goal && one.last_used >= unused_since) continue;
    Status gone = one.downloads
                      ? empty_cache(one.folder, dir())
                      : sys::rename_at(one.folder, one.name, dir(), "trash/" + sys::random_name());
    if (!gone.ok() && gone.error().code != ENOENT) return gone;
    sum -= std::min(sum, one.bytes);
  }
  return {};
}

}  // namespace rtlaunch::store
