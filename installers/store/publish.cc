// From a key to a layer: the lock that lets one maker through, staging, the rename that makes a
// whole layer visible at once.
#include <fcntl.h>

#include <cerrno>
#include <thread>
#include <utility>

#include "installers/store/failpoint.h"
#include "installers/store/index.h"
#include "installers/store/internal.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

std::string staging_name(const std::string& uuid) { return "tmp/" + uuid; }
std::string staging_lock(const std::string& uuid) { return "tmp/" + uuid + ".lock"; }

Result<UniqueFd> make_directory(int dir, const std::string& name) {
  TRY(sys::make_dirs_at(dir, name, 0755));
  UniqueFd fd = TRY(sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  TRY(sys::set_mode(fd.get(), 0755, name));  // whatever the umask is: workers come here by mounts
  return fd;
}

Status write_new_file(int dir, const std::string& name, const std::function<Status(int)>& fill) {
  TRY(sys::unlink_at(dir, name));
  UniqueFd file = TRY(sys::open_at(dir, name, O_WRONLY | O_CREAT | O_EXCL, 0644));
  return fill(file.get());
}

// Of makers that were killed. Trash is left to who has time. ext4 passes by an inode that was freed
// in the last five minutes, and looks at it each time: where as many files lay just before, a new
// one takes it ten times as long.
Status prepare_for_staging(int store) {
  sys::keep_apart_in(store, "tmp");
  auto lock = TRY(lock_sweep(store));
  return lock ? sweep_stagings(store) : Status();
}

Status write_manifest(int dir, const Manifest& manifest) {
  return write_new_file(dir, "manifest", [&](int file) {
    Status status;
    manifest.write([&](std::string_view piece) {
      if (status.ok()) status = sys::write_all(file, piece, "manifest");
    });
    return status;
  });
}

// A build's cache alone may be tens of thousands of files, and somebody waits for the layer.
Status throw_away_all_but_tree(int dir, int store) {
  for (const std::string& name : TRY(sys::list_dir(dir))) {
    if (name != "tree") TRY(sys::rename_at(dir, name, store, "trash/" + sys::random_name()));
  }
  return {};
}

struct Sealed {
  uint64_t bytes = 0;  // on disk
  Digest digest;
};

// Sealing asks the kernel about every file; digest and manifest need the Manifest alone. Of many
// files each takes as long as the other: two threads.
Result<Sealed> seal_and_write_manifest(const Staging& staging, const Manifest& manifest) {
  constexpr size_t kWorthAThread = 2000;  // entries
  Sealed sealed;
  Status written;
  auto write = [&] {
    sealed.digest = manifest.digest();
    written = write_manifest(staging.dir(), manifest);
  };
  std::thread helper;
  if (manifest.size() >= kWorthAThread) helper = std::thread(write);
  Result<uint64_t> bytes = seal_tree(staging.tree(), manifest);
  if (helper.joinable()) {
    helper.join();
  } else if (bytes) {
    TRY(failpoint("publish.sealed"));
    write();
  }
  sealed.bytes = TRY(std::move(bytes));
  TRY(std::move(written));
  return sealed;
}

// A lease on what is about to be there.
Result<Lease> lease_ahead(int store, const Digest& digest) {
  std::string name = lease_name(digest);
  while (true) {
    UniqueFd fd = TRY(sys::open_at(store, name, O_RDONLY | O_CREAT | O_NOFOLLOW, 0600));
    TRY(sys::lock_file(fd.get(), sys::Lock::kShared, name));
    if (TRY(sys::stat_fd(fd.get(), name)).st_nlink == 0) continue;
    TRY(sys::touch(fd.get(), name));
    return Lease{digest, std::move(fd)};
  }
}

}  // namespace

Staging::Staging(Staging&&) noexcept = default;

Staging& Staging::operator=(Staging&& other) noexcept {
  if (this == &other) return *this;
  drop();
  store_ = std::move(other.store_);
  lock_ = std::move(other.lock_);
  dir_ = std::move(other.dir_);
  tree_ = std::move(other.tree_);
  uuid_ = std::move(other.uuid_);
  path_ = std::move(other.path_);
  return *this;
}

Staging::~Staging() { drop(); }

// What can't be removed now is swept later: without its lock's holder it is stale.
void Staging::drop() {
  sys::AsRoot root;
  if (!store_.valid() || !lock_.valid()) return;
  bool gone = sys::remove_deep_tree_at(store_.get(), staging_name(uuid_)).ok();
  if (gone) (void)sys::unlink_at(store_.get(), staging_lock(uuid_)).ok();
  lock_.reset();
}

Result<std::string> Store::lock_of(const Key& key, Whose whose) const {
  TRY(writable("lock"));
  if (!is_hex64(key.hex)) return make_error("lock", key.hex, "is not a key");
  return "locks/" + salted(key, whose).hex;
}

Result<UniqueFd> Store::lock(const Key& key, const std::function<void()>& waiting,
                             Whose whose) const {
  sys::AsRoot root;
  return lock_name(TRY(lock_of(key, whose)), waiting);
}

Result<std::optional<UniqueFd>> Store::try_lock(const Key& key, Whose whose) const {
  sys::AsRoot root;
  std::string name = TRY(lock_of(key, whose));
  UniqueFd fd = TRY(sys::open_at(dir_.get(), name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  bool ours = TRY(sys::try_lock_file(fd.get(), sys::Lock::kExclusive, name)) &&
              TRY(sys::stat_fd(fd.get(), name)).st_nlink > 0;
  return ours ? std::optional<UniqueFd>(std::move(fd)) : std::nullopt;
}

Result<Staging> Store::stage() {
  sys::AsRoot root;
  TRY(writable("stage"));
  if (!std::exchange(swept_, true))
    (void)prepare_for_staging(dir_.get()).ok();  // a build can do without
  Staging staging;
  staging.store_ = TRY(sys::open_at(dir_.get(), ".", O_RDONLY | O_DIRECTORY));
  while (true) {  // again, if a sweeper took the lock's file before we had locked it
    staging.uuid_ = sys::random_name();
    std::string name = staging_lock(staging.uuid_);
    UniqueFd lock = TRY(sys::open_at(dir_.get(), name, O_RDWR | O_CREAT | O_EXCL, 0600));
    TRY(sys::lock_file(lock.get(), sys::Lock::kExclusive, name));
    if (TRY(sys::stat_fd(lock.get(), name)).st_nlink == 0) continue;
    staging.lock_ = std::move(lock);
    break;
  }
  TRY(failpoint("stage.locked"));
  staging.path_ = path_ + "/" + staging_name(staging.uuid_);
  staging.dir_ = TRY(make_directory(dir_.get(), staging_name(staging.uuid_)));
  staging.tree_ = TRY(make_directory(staging.dir_.get(), "tree"));
  TRY(failpoint("stage.made"));
  return staging;
}

Result<Lease> Store::publish(Staging staging, const Manifest& manifest, const LayerInfo& info) {
  sys::AsRoot root;
  TRY(writable("publish"));
  TRY(throw_away_all_but_tree(staging.dir(), dir_.get()));
  Sealed sealed = TRY(seal_and_write_manifest(staging, manifest));
  Meta meta{sealed.digest, info, sealed.bytes, manifest.size(), sys::now_seconds(), staging.uuid_};
  TRY(failpoint("publish.manifest"));
  TRY(write_new_file(staging.dir(), "meta.json",
                     [&](int file) { return sys::write_all(file, meta_text(meta), "meta.json"); }));
  TRY(failpoint("publish.meta"));
  Lease lease = TRY(lease_ahead(dir_.get(), meta.digest));
  TRY(failpoint("publish.leased"));
  std::string target = layer_dir(meta.digest);
  TRY(sys::make_dirs_at(dir_.get(), target.substr(0, target.find_last_of('/')), 0755));
  TRY(failpoint("publish.folder"));
  Status renamed = sys::rename_new_at(dir_.get(), staging_name(staging.uuid_), dir_.get(), target);
  if (!renamed.ok() && renamed.error().code == EEXIST) return lease;  // as good as ours
  TRY(renamed);
  TRY(failpoint("publish.renamed"));
  // From here on the layer is there for all; a row that is missing is added by who looks next.
  auto known = index();
  if (known) (void)(*known)->put_layer(meta).ok();
  TRY(failpoint("publish.indexed"));
  return lease;
}

Status Store::make_durable() {
  sys::AsRoot root;
  TRY(writable("sync"));
  UniqueFd lock = TRY(lock_name("locks/durable", {}));
  Durable durable = read_durable(dir_.get());
  std::string all, fresh;  // taken before the sync: what is published later may miss it
  size_t live = 0;
  for (const Digest& digest : TRY(layer_names(dir_.get()))) {
    auto meta = read_meta(dir_.get(), digest);
    if (!meta || meta->instance.empty()) continue;
    std::string line = durable_line(digest.hex, meta->instance);
    bool known = durable.contains({digest.hex, meta->instance});
    live += known ? 1 : 0;
    all += line;
    if (!known) fresh += line;
  }
  if (fresh.empty()) return {};
  TRY(failpoint("durable.begin"));
  TRY(sys::sync_file_system(dir_.get(), path_));
  TRY(failpoint("durable.synced"));
  if (durable.size() > 2 * live + 1000) return replace_durably(dir_.get(), "durable.log", all);
  UniqueFd log = TRY(sys::open_at(dir_.get(), "durable.log", O_WRONLY | O_CREAT | O_APPEND, 0600));
  TRY(sys::write_all(log.get(), "\n" + fresh, "durable.log"));  // never on to a torn line
  return sys::sync_data(log.get(), "durable.log");
}

}  // namespace rtlaunch::store
