// Keeping house, shared by collection, verification and reservation. A House is a Store seen from
// inside for the time of one call; it owns nothing but the locks it takes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "installers/store/index.h"
#include "installers/store/internal.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {

class House {
 public:
  explicit House(Store& store) : store_(store) {}

  // The index, made equal to the files just now.
  Result<Index*> index();
  // Every layer with its last use; leased, durable and pinned are not looked at. Oldest use first.
  Result<std::vector<Store::LayerRow>> rows();

  // Both locks that a collector needs, or nothing when somebody has a lease.
  struct Exclusive {
    UniqueFd lease, directory;
  };
  Result<std::optional<Exclusive>> try_exclusive(const Digest& digest);
  Result<bool> leased(const Digest& digest);
  bool pinned(const Digest& digest) const;
  // Under this lock no hold is written, so what is not held now can be evicted.
  struct Held {
    UniqueFd lock;
    std::set<Digest> layers;
  };
  Result<Held> held() const;
  // Lease file, rename to trash, row, lease file's name, unlock; false when leased or gone.
  Result<bool> evict(const Digest& digest);

  struct Goal {
    uint64_t bytes = 0, files = 0;  // to free
    int64_t unused_since = 0;       // what was last used before this goes anyhow
    bool all = false;               // all that can go, however young
    bool none() const { return bytes == 0 && files == 0 && unused_since == 0 && !all; }
  };
  struct Bounds {
    uint64_t max_bytes = 0, min_free = 0, max_files = 0, min_files = 0;
    int64_t max_age = 0;
    sys::Space space;
  };
  Result<Bounds> bounds() const;
  Result<Goal> over_limits();
  // Whether anybody has looked for what is too old within the hour; if not, notes that we do.
  Result<bool> age_is_due() const;
  Result<Store::Collected> free_up(const Goal& goal, bool dry_run);

  // caches.cc. All that uv has downloaded, of every user; not while his uv runs.
  Status drop_downloads();
  // What was not used since `unused_since`, then the least recently used down to `most` bytes.
  Status trim_caches(uint64_t most, int64_t unused_since);

  // Records that name a layer that isn't there, unless their key is being made right now, and those
  // that nobody asked for since `unused_since`.
  Status drop_orphans(int64_t unused_since = 0);
  // Lease files without layers, old locks, torn temporary files, holds that have expired.
  Status sweep_leftovers();

  // What other live stagings have reserved, less what they have written when `exactly`.
  struct Reserved {
    uint64_t bytes = 0, files = 0;
  };
  Result<Reserved> reserved_by_others(const std::string& own_uuid, bool exactly) const;
  uint64_t usage(const std::string& folder) const { return disk_usage(dir(), folder); }

  int dir() const { return store_.dir_.get(); }

 private:
  Status sweep_holds();
  bool may_go(const Store::LayerRow& row, const Goal& goal, int64_t now) const;
  Store& store_;
};

}  // namespace rtlaunch::store
