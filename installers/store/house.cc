// The index and what is read from it.
#include "installers/store/house.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "installers/store/failpoint.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::store {
namespace {

class IndexOwner : public IndexHolder {
 public:
  explicit IndexOwner(std::unique_ptr<Index> index) : index_(std::move(index)) {}
  ~IndexOwner() override {
    sys::AsRoot root;                     // its log is written back and goes
    if (!mine()) (void)index_.release();  // SQLite's rule: a connection is not closed across fork
    index_.reset();
  }
  bool mine() const { return pid_ == ::getpid(); }
  Index* get() const { return index_.get(); }

 private:
  std::unique_ptr<Index> index_;
  pid_t pid_ = ::getpid();
};

Result<std::unique_ptr<Index>> open_equal(int store, const std::string& path, bool in_memory) {
  std::unique_ptr<Index> index = TRY(Index::open(path, in_memory));
  TRY(index->reconcile(store));
  return index;
}

bool is_tmp_lock(const std::string& name) { return name.ends_with(".lock"); }

// SQLite says "I/O error" for some kinds of a full disk.
bool no_room(const Error& error) { return error.code == ENOSPC || error.code == EIO; }

// What is damaged is made anew. Where there is no room the reserve is given up; where that is not
// enough the index lives in memory, since collection is what makes room and must always work.
Result<std::unique_ptr<Index>> open_anyhow(int store, const std::string& path) {
  auto opened = open_equal(store, path, false);
  if (!opened && opened.error().code == EUCLEAN) {
    TRY(remove_index(store));
    opened = open_equal(store, path, false);
  }
  if (opened || !no_room(opened.error())) return opened;
  TRY(sys::unlink_at(store, "reserve"));
  opened = open_equal(store, path, false);
  if (opened || !no_room(opened.error())) return opened;
  return open_equal(store, path, /*in_memory=*/true);
}

}  // namespace

Result<Index*> Store::index() {
  auto* owner = static_cast<IndexOwner*>(index_.get());
  if (owner != nullptr && owner->mine()) return owner->get();
  auto opened = open_equal(dir_.get(), path_, read_only_);
  if (!opened && !read_only_ && (opened.error().code == EUCLEAN || no_room(opened.error()))) {
    UniqueFd lock = TRY(lock_name("locks/index", {}));  // one mends it
    opened = open_anyhow(dir_.get(), path_);
  }
  if (!opened) return opened.error();
  index_ = std::make_unique<IndexOwner>(std::move(*opened));
  return static_cast<IndexOwner*>(index_.get())->get();
}

Result<Index*> House::index() {
  bool fresh = store_.index_ == nullptr;
  Index* index = TRY(store_.index());
  if (fresh) return index;
  Status equal = index->reconcile(dir());
  if (equal.ok()) return index;
  if (equal.error().code != EUCLEAN && !no_room(equal.error())) return equal.error();
  store_.index_.reset();  // damaged, or out of room, while we had it open
  return store_.index();
}

Result<std::vector<Store::LayerRow>> House::rows() {
  std::vector<Store::LayerRow> rows;
  Index* known = TRY(index());
  for (Meta& meta : TRY(known->layers())) {
    if (!sys::exists_at(dir(), layer_dir(meta.digest))) continue;  // collected this moment
    Store::LayerRow row{meta.digest, std::move(meta.info), meta.bytes, meta.files, meta.created};
    auto lease = sys::stat_at(dir(), lease_name(row.digest));
    row.last_used_ns = lease ? lease->st_mtim.tv_sec * 1'000'000'000LL + lease->st_mtim.tv_nsec
                             : row.created * 1'000'000'000LL;
    row.last_used = row.last_used_ns / 1'000'000'000LL;
    rows.push_back(std::move(row));
  }
  auto older = [](const Store::LayerRow& a, const Store::LayerRow& b) {
    return std::tie(a.last_used_ns, a.digest) < std::tie(b.last_used_ns, b.digest);
  };
  std::sort(rows.begin(), rows.end(), older);
  return rows;
}

bool House::pinned(const Digest& digest) const {
  return sys::exists_at(dir(), "pins/" + digest.hex);
}

Result<std::vector<Store::LayerRow>> Store::list() {
  sys::AsRoot root;
  House house(*this);
  std::vector<LayerRow> rows = TRY(house.rows());
  std::reverse(rows.begin(), rows.end());
  Durable durable = read_durable(dir_.get());
  std::set<Digest> held = TRY(held_layers(dir_.get()));
  for (LayerRow& row : rows) {
    row.held = held.contains(row.digest);
    row.leased = TRY(house.leased(row.digest));
    row.pinned = house.pinned(row.digest);
    auto meta = read_meta(dir_.get(), row.digest);
    row.durable = meta && durable.contains({row.digest.hex, meta->instance});
  }
  return rows;
}

Result<std::vector<Store::RecordRow>> Store::records(const std::string& kind) {
  sys::AsRoot root;
  std::vector<RecordRow> rows;
  Index* known = TRY(House(*this).index());
  for (Index::RecordLine& line : TRY(known->records(kind))) {
    if (caller_ != 0 && line.file.uid != caller_) continue;
    rows.push_back(row_of(dir_.get(), std::move(line.key), std::move(line.file)));
    if (caller_ != 0) rows.back().key = rows.back().asked;
  }
  return rows;
}

Result<Store::Stats> Store::stats() {
  sys::AsRoot root;
  House house(*this);
  House::Bounds bounds = TRY(house.bounds());
  Stats stats;
  for (const LayerRow& row : TRY(house.rows())) {
    stats.layers++;
    stats.bytes += row.bytes;
    stats.files += row.files;
    stats.leased += TRY(house.leased(row.digest)) ? 1 : 0;
  }
  stats.records = TRY(record_keys(dir_.get())).size();
  stats.limit = bounds.max_bytes;
  stats.free = bounds.space.free;
  stats.total = bounds.space.total;
  stats.trash = house.usage("trash");
  stats.staging = house.usage("tmp");
  for (const char* cache : {"uv", "blobs", "wd"}) stats.caches += house.usage(cache);
  return stats;
}

Result<Store::Why> Store::why(const Digest& asked) {
  sys::AsRoot root;
  Digest digest = is_hex64(asked.hex) ? asked : TRY(resolve(asked.hex));
  House house(*this);
  Index* known = TRY(house.index());
  Why why;
  for (Index::RecordLine& line : TRY(known->records_of(digest))) {
    why.records.push_back(row_of(dir_.get(), std::move(line.key), std::move(line.file)));
  }
  for (Hold& hold : TRY(holds())) {
    if (std::count(hold.layers.begin(), hold.layers.end(), digest) > 0) {
      why.holds.push_back(std::move(hold));
    }
  }
  why.leased = TRY(house.leased(digest));
  auto lease = sys::stat_at(dir_.get(), lease_name(digest));
  // Not /proc/locks: it names whoever took the lease, who may long be gone, having handed it on.
  if (why.leased && lease) why.pids = sys::processes_with_open(*lease);
  return why;
}

Result<Digest> Store::resolve(const std::string& prefix) {
  sys::AsRoot root;
  if (prefix.size() < 4) {
    return make_error("store", prefix, "is too short for a layer", "give at least 4 hex digits");
  }
  std::vector<Digest> found;
  for (Digest& digest : TRY(layer_names(dir_.get()))) {
    if (digest.hex.starts_with(prefix)) found.push_back(std::move(digest));
  }
  if (found.size() == 1) return found[0];
  if (found.empty())
    return Error{"store", ENOENT, prefix, "no layer has this name", "see: rtlaunch store ls", 125};
  return make_error("store", prefix, std::to_string(found.size()) + " layers begin so",
                    "give more digits");
}

Status sweep_stagings(int store) {
  UniqueFd tmp = TRY(sys::open_at(store, "tmp", O_RDONLY | O_DIRECTORY));
  for (const std::string& name : TRY(sys::list_dir(tmp.get()))) {
    std::string uuid = is_tmp_lock(name) ? name.substr(0, name.size() - 5) : name;
    auto maker = sys::open_at(tmp.get(), uuid + ".lock", O_RDWR | O_NOFOLLOW);
    if (maker && !TRY(sys::try_lock_file(maker->get(), sys::Lock::kExclusive, name))) continue;
    TRY(failpoint("sweep.tmp"));
    TRY(sys::remove_deep_tree_at(tmp.get(), uuid));
    TRY(sys::unlink_at(tmp.get(), uuid + ".lock"));
  }
  return {};
}

Result<std::optional<UniqueFd>> lock_sweep(int store) {
  UniqueFd lock = TRY(sys::open_at(store, "locks/sweep", O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  bool ours = TRY(sys::try_lock_file(lock.get(), sys::Lock::kExclusive, "sweep"));
  return ours ? std::optional(std::move(lock)) : std::nullopt;
}

Status Store::sweep() const {
  sys::AsRoot root;
  TRY(writable("sweep"));
  auto lock = TRY(lock_sweep(dir_.get()));
  if (!lock) return {};
  UniqueFd trash = TRY(sys::open_at(dir_.get(), "trash", O_RDONLY | O_DIRECTORY));
  for (const std::string& name : TRY(sys::list_dir(trash.get()))) {
    TRY(failpoint("sweep.trash"));
    TRY(sys::remove_deep_tree_at(trash.get(), name));
  }
  return sweep_stagings(dir_.get());
}

}  // namespace rtlaunch::store
