// Collection. A victim is renamed to trash while its lease file is held exclusively, so whoever
// asks for it either has a lease, and it stays, or sees a miss: never half a tree. Deleting comes
// later and may be cut short at any point; a rename under a live mount would be harmless, a removal
// not.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "installers/store/failpoint.h"
#include "installers/store/house.h"
#include "isolation/sys/caller.h"
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

// A layer that was used in the future was so by a clock that has been set back since: not young.
bool House::may_go(const Store::LayerRow& row, const Goal& goal, int64_t now) const {
  int64_t age = now - std::max(row.last_used, row.created);
  bool young = std::abs(age) < store_.limits_.min_age_seconds;
  return (goal.all || !young) && !pinned(row.digest);
}

namespace {

// GreedyDual-Size with the clock as its ageing term: what a layer cost to make, per MiB that its
// going would free, is worth so much longer a life; and no more than kMostCredit, so that nothing
// stays for ever. README.md has the formula and examples.
int64_t credit_seconds(const Store::LayerRow& row) {
  constexpr double kDay = 24 * 3600, kMostCredit = 30 * kDay;
  double mib = std::max(1.0, static_cast<double>(row.bytes) / (1 << 20));
  double seconds = static_cast<double>(std::max<int64_t>(row.info.build_ms, 0)) / 1000;
  return static_cast<int64_t>(std::min(kDay * std::log2(1 + seconds / mib), kMostCredit));
}

// First to go first.
void sort_by_worth(std::vector<Store::LayerRow>& rows, int64_t now) {
  auto worth = [now](const Store::LayerRow& row) {
    constexpr int64_t kNano = 1'000'000'000;
    return std::min(row.last_used_ns, (now + 1) * kNano) + credit_seconds(row) * kNano;
  };
  std::sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
    return std::pair(worth(a), a.digest) < std::pair(worth(b), b.digest);
  });
}

}  // namespace

Result<Store::Collected> House::free_up(const Goal& goal, bool dry_run) {
  Store::Collected collected;
  collected.dry = dry_run;
  uint64_t files = 0;
  int64_t now = sys::now_seconds();
  std::vector<Store::LayerRow> rows = TRY(this->rows());
  sort_by_worth(rows, now);
  Held held = TRY(this->held());
  for (Store::LayerRow& row : rows) {
    bool enough = !goal.all && collected.bytes >= goal.bytes && files >= goal.files;
    bool old = row.last_used < goal.unused_since;
    if ((enough && !old) || held.layers.contains(row.digest) || !may_go(row, goal, now)) continue;
    bool gone = dry_run ? !TRY(leased(row.digest)) : TRY(evict(row.digest));
    if (!gone) continue;
    collected.bytes += row.bytes;
    files += row.files;
    collected.layers.push_back(std::move(row));
  }
  held.lock.reset();
  if (dry_run) return collected;
  TRY(drop_orphans(goal.unused_since));
  TRY(sweep_leftovers());
  TRY(store_.sweep());
  return collected;
}

// A record that leads to nothing that could be lost (a lock, what an interpreter is) or only names
// what others keep (an environment) goes when nobody asked for it for long enough.
Status House::drop_orphans(int64_t unused_since) {
  Index* index = TRY(this->index());
  std::set<Digest> held = TRY(held_layers(dir()));
  for (const Index::RecordLine& line : TRY(index->outlines())) {
    const Record& record = line.file.record;
    auto lost = [&](const Digest& digest) { return !sys::exists_at(dir(), layer_dir(digest)); };
    auto is_held = [&](const Digest& digest) { return held.contains(digest); };
    bool goes = std::any_of(record.layers.begin(), record.layers.end(), lost);
    if (!goes && (record.layers.empty() || record.kind == "env")) {
      auto info = sys::stat_at(dir(), record_name(line.key));
      goes = info && info->st_mtime < unused_since &&
             std::none_of(record.layers.begin(), record.layers.end(), is_held);
    }
    if (!goes) continue;
    std::string name = "locks/" + line.key.hex;
    UniqueFd lock = TRY(sys::open_at(dir(), name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    if (!TRY(sys::try_lock_file(lock.get(), sys::Lock::kExclusive, name))) continue;
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
  sys::AsRoot root;
  if (!dry_run) TRY(writable("collect"));
  House house(*this);
  UniqueFd lock;
  if (!dry_run) lock = TRY(lock_name("locks/collect", {}));
  if (!dry_run) TRY(sweep());
  House::Goal goal;
  if (target) {
    Index* known = TRY(house.index());
    uint64_t bytes = TRY(known->sum()).bytes;
    goal.bytes = bytes > *target ? bytes - *target : 0;
    goal.all = *target == 0;
  } else {
    goal = TRY(house.over_limits());
  }
  if (!dry_run && !goal.none()) {
    TRY(house.drop_downloads());
    if (!target) goal = TRY(house.over_limits());
  }
  if (!target) {
    House::Bounds bounds = TRY(house.bounds());
    goal.unused_since = believed_now(dir_.get()) - bounds.max_age;
    if (!dry_run) TRY(house.trim_caches(bounds.max_bytes / 10, goal.unused_since));
  }
  return house.free_up(goal, dry_run);
}

Result<bool> House::age_is_due() const {
  constexpr char kMark[] = "locks/aged";
  if (!older(dir(), kMark, 3600) && sys::exists_at(dir(), kMark)) return false;
  UniqueFd mark = TRY(sys::open_at(dir(), kMark, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  TRY(sys::touch(mark.get(), kMark));
  return true;
}

Status Store::collect_if_over() {
  sys::AsRoot root;
  if (read_only_) return {};
  House house(*this);
  bool over = !TRY(house.over_limits()).none();
  if (!over && !TRY(house.age_is_due())) return sweep();
  TRY(collect(std::nullopt, false));
  return {};
}

Status Store::remove_layer(const Digest& digest) {
  sys::AsRoot root;
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
  sys::AsRoot root;
  TRY(writable("pin"));
  if (!is_hex64(digest.hex)) return make_error("pin", digest.hex, "is not a digest");
  std::string name = "pins/" + digest.hex;
  if (!pinned) return sys::unlink_at(dir_.get(), name);
  TRY(sys::make_dirs_at(dir_.get(), "pins", 0755));
  TRY(sys::open_at(dir_.get(), name, O_WRONLY | O_CREAT | O_NOFOLLOW, 0600));
  return {};
}

}  // namespace rtlaunch::store
