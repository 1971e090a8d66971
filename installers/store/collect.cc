// Collection. A victim is renamed to trash while its lease file is held exclusively, so whoever
// asks for it either has a lease, and it stays, or sees a miss: never half a tree. Deleting comes
// later and may be cut short at any point; a rename under a live mount would be harmless, a removal
// not.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "installers/store/failpoint.h"
#include "installers/store/house.h"
#include "isolation/sys/files.h"

namespace rtlaunch::store {
namespace {

constexpr int64_t kOldLock = 24 * 3600;  // seconds; a lock's file is only a name, and cheap

}  // namespace

Result<std::optional<House::Exclusive>> House::try_exclusive(const Digest& digest) {
  std::optional<Exclusive> none;
  std::string name = lease_name(digest);
  int flags = store_.read_only_ ? O_RDONLY : O_RDONLY | O_CREAT;
  auto lease = sys::open_at(dir(), name, flags | O_NOFOLLOW, 0600);
  if (!lease && !store_.read_only_) return lease.error();
  Exclusive held;
  if (lease) {
    if (!TRY(sys::try_lock_file(lease->get(), sys::Lock::kExclusive, name))) return none;
    if (TRY(sys::stat_fd(lease->get(), name)).st_nlink == 0) return none;  // another collector's
    held.lease = std::move(*lease);
  }
  auto tree = sys::open_at(dir(), layer_dir(digest), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (tree) {
    if (!TRY(sys::try_lock_file(tree->get(), sys::Lock::kExclusive, name))) return none;
    held.directory = std::move(*tree);
  }
  return std::optional<Exclusive>(std::move(held));
}

// Asked without making a lease file: who looks leaves no trace.
Result<bool> House::leased(const Digest& digest) {
  for (const std::string& name : {lease_name(digest), layer_dir(digest)}) {
    auto fd = sys::open_at(dir(), name, O_RDONLY | O_NOFOLLOW);
    if (!fd) continue;
    if (!TRY(sys::try_lock_file(fd->get(), sys::Lock::kExclusive, name))) return true;
  }
  return false;
}

Result<bool> House::evict(const Digest& digest) {
  std::optional<Exclusive> held = TRY(try_exclusive(digest));
  if (!held) return false;
  TRY(failpoint("collect.locked"));
  bool there = held->directory.valid();
  if (there) TRY(sys::rename_at(dir(), layer_dir(digest), dir(), "trash/" + sys::random_name()));
  TRY(failpoint("collect.renamed"));
  auto index = store_.index();
  if (index) (void)(*index)->drop_layer(digest).ok();
  TRY(failpoint("collect.unindexed"));
  TRY(sys::unlink_at(dir(), lease_name(digest)));
  TRY(failpoint("collect.unleased"));
  return there;
}

Result<House::Held> House::held() const {
  Held held;
  if (!store_.read_only_) held.lock = TRY(store_.lock_name("locks/holds", {}));
  held.layers = TRY(held_layers(dir()));
  return held;
}

bool House::may_go(const Store::LayerRow& row, const Goal& goal, int64_t now) const {
  bool young = now - std::max(row.last_used, row.created) < store_.limits_.min_age_seconds;
  return (goal.all || !young) && !pinned(row.digest);
}

Result<Store::Collected> House::free_up(const Goal& goal, bool dry_run) {
  Store::Collected collected;
  collected.dry = dry_run;
  uint64_t files = 0;
  int64_t now = sys::now_seconds();
  std::vector<Store::LayerRow> oldest_first = TRY(rows());
  Held held = TRY(this->held());
  for (Store::LayerRow& row : oldest_first) {
    if (!goal.all && collected.bytes >= goal.bytes && files >= goal.files) break;
    if (held.layers.contains(row.digest) || !may_go(row, goal, now)) continue;
    bool gone = dry_run ? !TRY(leased(row.digest)) : TRY(evict(row.digest));
    if (!gone) continue;
    collected.bytes += row.bytes;
    files += row.files;
    collected.layers.push_back(std::move(row));
  }
  held.lock.reset();
  if (dry_run) return collected;
  TRY(drop_orphans());
  TRY(sweep_leftovers());
  TRY(store_.sweep());
  return collected;
}

// What uv has downloaded comes back at the price of a download, so it goes before any layer; not
// while a uv runs, which holds its cache's lock. The file `builds-v0` stays: it keeps uv from
// running code while it plans (installers/uv.h).
Status House::drop_caches() {
  auto cache = sys::open_at(dir(), "uv/cache", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!cache) return {};
  auto lock = sys::open_at(cache->get(), ".lock", O_RDONLY | O_NOFOLLOW);
  if (lock && !TRY(sys::try_lock_file(lock->get(), sys::Lock::kExclusive, ".lock"))) return {};
  for (const std::string& name : TRY(sys::list_dir(cache->get()))) {
    if (name.starts_with(".") || name.starts_with("builds")) continue;
    TRY(sys::rename_at(cache->get(), name, dir(), "trash/" + sys::random_name()));
  }
  return store_.sweep();
}

Status House::drop_orphans() {
  Index* index = TRY(this->index());
  for (const Index::RecordLine& line : TRY(index->records(""))) {
    auto lost = [&](const Digest& digest) { return !sys::exists_at(dir(), layer_dir(digest)); };
    auto any_lost = [&](const Record& record) {
      return std::any_of(record.layers.begin(), record.layers.end(), lost);
    };
    if (!any_lost(line.file.record)) continue;
    std::string name = "locks/" + line.key.hex;
    UniqueFd lock = TRY(sys::open_at(dir(), name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    if (!TRY(sys::try_lock_file(lock.get(), sys::Lock::kExclusive, name))) continue;
    auto now = read_record(dir(), line.key);  // it may have been made again meanwhile
    if (now && !any_lost(now->record)) continue;
    TRY(failpoint("collect.orphan"));
    TRY(sys::unlink_at(dir(), record_name(line.key)));
    (void)index->drop_record(line.key).ok();  // a row may be late, a full disk doesn't matter
  }
  return {};
}

namespace {

// Whoever waits for a lock looks whether its file still has a name (lock_name, take).
Status unlink_unless_held(int dir, const std::string& name) {
  auto fd = sys::open_at(dir, name, O_RDONLY | O_NOFOLLOW);
  if (!fd || !TRY(sys::try_lock_file(fd->get(), sys::Lock::kExclusive, name))) return {};
  return sys::unlink_at(dir, name);
}

bool older(int dir, const std::string& name, int64_t seconds) {
  auto info = sys::stat_at(dir, name);
  return info && sys::now_seconds() - info->st_mtime > seconds;
}

Status sweep_torn_records(int store) {
  UniqueFd top = TRY(sys::open_at(store, "records", O_RDONLY | O_DIRECTORY));
  for (const std::string& prefix : TRY(sys::list_dir(top.get()))) {
    UniqueFd dir = TRY(sys::open_at(top.get(), prefix, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    for (const std::string& name : TRY(sys::list_dir(dir.get()))) {
      if (!name.ends_with(".json") && older(dir.get(), name, 3600)) {
        TRY(sys::unlink_at(dir.get(), name));
      }
    }
  }
  return {};
}

}  // namespace

Status House::sweep_holds() {
  Held held = TRY(this->held());
  auto folder = sys::open_at(dir(), "holds", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!folder) return {};  // made with the first one
  Clock now = clock_now();
  for (const std::string& name : TRY(sys::list_dir(folder->get()))) {
    auto file = read_hold(folder->get(), name);
    if (!file || seconds_left(*file, now) <= 0) TRY(sys::unlink_at(folder->get(), name));
  }
  return {};
}

Status House::sweep_leftovers() {
  TRY(sweep_holds());
  UniqueFd leases = TRY(sys::open_at(dir(), "leases", O_RDONLY | O_DIRECTORY));
  for (const std::string& name : TRY(sys::list_dir(leases.get()))) {
    // A publisher holds the lease before its layer is there.
    if (!sys::exists_at(dir(), layer_dir(Digest{name})))
      TRY(unlink_unless_held(leases.get(), name));
  }
  UniqueFd locks = TRY(sys::open_at(dir(), "locks", O_RDONLY | O_DIRECTORY));
  for (const std::string& name : TRY(sys::list_dir(locks.get()))) {
    if (is_hex64(name) && older(locks.get(), name, kOldLock))
      TRY(unlink_unless_held(locks.get(), name));
  }
  return sweep_torn_records(dir());
}

Result<Store::Collected> Store::collect(std::optional<uint64_t> target, bool dry_run) {
  if (!dry_run) TRY(writable("collect"));
  House house(*this);
  UniqueFd lock;
  if (!dry_run) lock = TRY(lock_name("locks/collect", {}));
  if (!dry_run) TRY(sweep());
  House::Goal goal;
  if (target) {
    Index* known = TRY(house.index());
    uint64_t bytes = TRY(known->bytes());
    goal.bytes = bytes > *target ? bytes - *target : 0;
    goal.all = *target == 0;
  } else {
    goal = TRY(house.over_limits());
  }
  if (!dry_run && !goal.none()) {
    TRY(house.drop_caches());
    if (!target) goal = TRY(house.over_limits());
  }
  return house.free_up(goal, dry_run);
}

Status Store::collect_if_over() {
  if (read_only_) return {};
  if (TRY(House(*this).over_limits()).none()) return {};
  TRY(collect(std::nullopt, false));
  return {};
}

Status Store::remove_layer(const Digest& digest) {
  TRY(writable("remove"));
  if (!is_hex64(digest.hex)) return make_error("remove", digest.hex, "is not a digest");
  House house(*this);
  if (!sys::exists_at(dir_.get(), layer_dir(digest))) {
    return Error{"remove", ENOENT, digest.hex, "there is no such layer", "see: rtlaunch store ls",
                 125};
  }
  House::Held held = TRY(house.held());
  bool free = !held.layers.contains(digest) && TRY(house.evict(digest));
  held.lock.reset();
  if (!free) {
    return Error{
        "remove",
        EBUSY,
        digest.hex,
        held.layers.contains(digest) ? "somebody holds it" : "a worker or a build needs it",
        "see: rtlaunch store why " + digest.hex.substr(0, 12),
        125};
  }
  TRY(house.drop_orphans());
  return sweep();
}

Status Store::pin(const Digest& digest, bool pinned) {
  TRY(writable("pin"));
  if (!is_hex64(digest.hex)) return make_error("pin", digest.hex, "is not a digest");
  std::string name = "pins/" + digest.hex;
  if (!pinned) return sys::unlink_at(dir_.get(), name);
  TRY(sys::make_dirs_at(dir_.get(), "pins", 0755));
  TRY(sys::open_at(dir_.get(), name, O_WRONLY | O_CREAT | O_NOFOLLOW, 0600));
  return {};
}

}  // namespace rtlaunch::store
