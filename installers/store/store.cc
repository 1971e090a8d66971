// Opening, making, and looking up. This file, lease.cc, recover.cc and files.cc are all that a warm
// launch links of the store; none of them knows SQLite.
#include "installers/store/store.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "installers/store/internal.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

constexpr uint64_t kOverlay = 0x794c7630, kNfs = 0x6969;  // statfs(2)
const char* const kFolders[] = {"layers", "layers/sha256", "records", "leases", "pins",
                                "locks",  "tmp",           "trash",   "uv",     "blobs",
                                "wd",     "holds",         "callers"};

const char kElsewhere[] = "choose another folder with --store";

Error refused(int code, const std::string& path, std::string reason, std::string cure) {
  return Error{"store", code, path, std::move(reason), std::move(cure), 125};
}

Status check_file_system(const sys::Space& space, const std::string& path) {
  if (space.type != kOverlay && space.type != kNfs) return {};
  return refused(EOPNOTSUPP, path,
                 space.type == kOverlay
                     ? "lies on an overlay (a container's own root?), which can't hold layers"
                     : "lies on NFS, which can't hold layers",
                 "choose a folder on a volume or a local disk with --store");
}

// A store that others may pass through, to their folder below uv: the first thing in it that is
// open to them, "" when there is none.
Result<std::string> open_in(int dir) {
  for (const std::string& name : TRY(sys::list_dir(dir))) {
    auto info = sys::stat_at(dir, name);
    mode_t allowed = name == "uv" ? 011 : 0;
    if (info && (info->st_mode & 077 & ~allowed) != 0) return name;
  }
  return std::string();
}

Status check_owner(int dir, const std::string& path) {
  struct stat info = TRY(sys::stat_fd(dir, path));
  if (info.st_uid != ::geteuid()) {
    return refused(EPERM, path,
                   "belongs to user " + std::to_string(info.st_uid) + ", not to " +
                       std::to_string(::geteuid()),
                   std::string("run as its owner, or ") + kElsewhere);
  }
  if ((info.st_mode & 077) == 0) return {};
  std::string open = (info.st_mode & 077) == 011 ? TRY(open_in(dir)) : path;
  if (open.empty()) return {};
  return refused(EPERM, open, "is open to other users", "chmod 0700 " + path);
}

// An empty folder, or one in which an earlier making was cut short.
Status check_is_free(int dir, const std::string& path) {
  for (const std::string& name : TRY(sys::list_dir(dir))) {
    bool ours = name == "lost+found" || name == "boot" || name.starts_with("boot.") ||
                name.starts_with("FORMAT") || name == "reserve";
    for (const char* folder : kFolders) ours |= name == folder;
    if (!ours) {
      return refused(ENOTEMPTY, path, "is not a store, and not empty: it has " + name,
                     "choose an empty or new folder with --store");
    }
  }
  return {};
}

Status make_layout(int dir, const std::string& path) {
  TRY(check_is_free(dir, path));
  TRY(sys::set_mode(dir, 0700, path));
  for (const char* folder : kFolders) TRY(sys::make_dirs_at(dir, folder, 0700));
  TRY(sys::replace_file_at(dir, "boot", boot_text(clock_now()), 0600));
  // Last, and only once, whoever else is making this store now: with FORMAT it is one.
  std::string staged = "FORMAT." + sys::random_name();
  UniqueFd file = TRY(sys::open_at(dir, staged, O_WRONLY | O_CREAT | O_EXCL, 0600));
  std::string format =
      "rtlaunch-store " + std::to_string(kFormat) + " " + sys::random_name() + "\n";
  TRY(sys::write_all(file.get(), format, staged));
  Status linked = sys::link_new_at(dir, staged, "FORMAT");
  TRY(sys::unlink_at(dir, staged));
  if (!linked.ok() && linked.error().code != EEXIST) return linked;
  auto reserve = sys::open_at(dir, "reserve", O_WRONLY | O_CREAT, 0600);
  if (reserve)
    (void)sys::preallocate(reserve->get(), kReserve, "reserve").ok();  // kind, not needed
  return {};
}

// "rtlaunch-store <format> <uuid>"
bool parse_format(std::string_view text, uint64_t& format, std::string& uuid) {
  constexpr std::string_view kName = "rtlaunch-store ";
  if (!text.starts_with(kName) || !text.ends_with("\n")) return false;
  text.remove_prefix(kName.size());
  text.remove_suffix(1);
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), format);
  size_t used = static_cast<size_t>(end - text.data());
  if (code != std::errc() || used >= text.size() || text[used] != ' ') return false;
  uuid = text.substr(used + 1);
  return !uuid.empty();
}

}  // namespace

Store::Store() = default;
Store::Store(Store&&) noexcept = default;
Store& Store::operator=(Store&&) noexcept = default;
Store::~Store() = default;

Result<Store> Store::open(const std::string& path, bool create, Limits limits) {
  sys::AsRoot root;
  Store store = TRY(open_folder(path, create));
  store.limits_ = limits;
  TRY(store.check_boot());
  return store;
}

Result<Store> Store::open_for_caches(const std::string& path) {
  sys::AsRoot root;
  return open_folder(path, true);
}

Result<Store> Store::open_folder(const std::string& path, bool create) {
  auto dir = sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (!dir && dir.error().code == ENOENT && create) {
    std::string absolute = sys::absolute_path(path, TRY(sys::real_path(".")));
    size_t slash = absolute.find_last_of('/');
    if (slash != 0) TRY(sys::make_dirs(absolute.substr(0, slash), 0755));
    TRY(sys::make_dirs(absolute, 0700));
    dir = sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  }
  if (!dir) {
    dir.error().step = "store";
    if (dir.error().cure.empty()) dir.error().cure = kElsewhere;
    return dir.error();
  }
  Store store;
  store.dir_ = std::move(*dir);
  store.path_ = TRY(sys::real_path(path));  // by its descriptor /proc would be asked: 15 µs more
  sys::Space space = TRY(sys::space_of(store.dir_.get(), store.path_));
  store.read_only_ = space.read_only;
  TRY(check_file_system(space, store.path_));

  auto format = sys::read_file_at(store.dir_.get(), "FORMAT", 4096);
  if (!format && format.error().code == ENOENT && create && !store.read_only_) {
    struct stat info = TRY(sys::stat_fd(store.dir_.get(), store.path_));
    if (info.st_uid == ::geteuid()) TRY(make_layout(store.dir_.get(), store.path_));
    format = sys::read_file_at(store.dir_.get(), "FORMAT", 4096);
  }
  TRY(check_owner(store.dir_.get(), store.path_));
  if (!format) {
    return refused(format.error().code, store.path_, "is not a store: it has no file FORMAT",
                   kElsewhere);
  }
  TRY(store.check_format(*format));
  return store;
}

namespace {

// From 0700 to 0711: first all that lies in it is closed, then the way to uv is opened.
Status open_the_way(int store, const std::string& path) {
  for (const std::string& name : TRY(sys::list_dir(store))) {
    auto entry = sys::open_at(store, name, O_PATH | O_NOFOLLOW);
    if (!entry) continue;
    struct stat info = TRY(sys::stat_fd(entry->get(), name));
    mode_t mode = name == "uv" ? 0711 : info.st_mode & 0700;
    if ((info.st_mode & 0777) != mode) TRY(sys::set_mode(entry->get(), mode, name));
  }
  return sys::set_mode(store, 0711, path);
}

}  // namespace

Result<std::string> Store::uv_home() const {
  if (caller_ == 0) return path_ + "/uv";
  sys::AsRoot root;
  TRY(writable("uv"));
  struct stat info = TRY(sys::stat_fd(dir_.get(), path_));
  if ((info.st_mode & 011) != 011) {
    UniqueFd lock = TRY(lock_name("locks/way", {}));
    TRY(open_the_way(dir_.get(), path_));
  }
  UniqueFd uv = TRY(sys::open_at(dir_.get(), "uv", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  std::string name = std::to_string(caller_);
  TRY(sys::make_dirs_at(uv.get(), name, 0700));
  const sys::Caller* caller = sys::acting_for();
  TRY(sys::set_owner_at(uv.get(), name, caller_, caller != nullptr ? caller->gid : gid_t(-1)));
  TRY(sys::touch_at(uv.get(), name));  // its last use
  return path_ + "/uv/" + name;
}

Status Store::check_format(const std::string& text) const {
  uint64_t format = 0;
  std::string uuid;
  if (!parse_format(text, format, uuid)) {
    return refused(EINVAL, path_, "its file FORMAT is damaged", kElsewhere);
  }
  if (format > kFormat) {
    return refused(EPROTO, path_,
                   "was made by a newer rtlaunch (format " + std::to_string(format) +
                       ", this one knows " + std::to_string(kFormat) + ")",
                   std::string("update rtlaunch, or ") + kElsewhere);
  }
  return {};
}

Status Store::usable() const {
  sys::AsRoot root;
  return writable("store");
}

Status Store::writable(const std::string& step) const {
  struct stat ours = TRY(sys::stat_fd(dir_.get(), path_));
  auto there = sys::stat_at(AT_FDCWD, path_);
  if (!there || there->st_ino != ours.st_ino || there->st_dev != ours.st_dev) {
    return Error{step,
                 ESTALE,
                 path_,
                 there ? "another folder lies where the store was" : "the store was removed",
                 "try again: it is opened or made anew",
                 125};
  }
  if (!read_only_ && !TRY(sys::space_of(dir_.get(), path_)).read_only) return {};
  return Error{step,
               EROFS,
               path_,
               "the store is on a read-only file system",
               "mount it writable, or choose another folder with --store",
               125};
}

Result<Store> Store::for_caller(uid_t uid) const {
  sys::AsRoot root;
  Store store;
  store.dir_ = TRY(sys::open_at(dir_.get(), ".", O_RDONLY | O_DIRECTORY));
  store.path_ = path_;
  store.read_only_ = read_only_;
  store.limits_ = limits_;
  store.caller_ = uid;
  return store;
}

Result<std::optional<std::string>> Store::lookup_text(const Key& key, Whose whose) const {
  sys::AsRoot root;
  if (!is_hex64(key.hex)) return make_error("lookup", key.hex, "is not a key");
  auto text = sys::read_file_at(dir_.get(), record_name(salted(key, whose)));
  if (!text && text.error().code == ENOENT) return std::optional<std::string>();
  if (!text) return text.error();
  return std::optional<std::string>(std::move(*text));
}

std::optional<Record> Store::record_of(const std::string& text) {
  auto file = parse_record(text);
  return file ? std::optional<Record>(std::move(file->record)) : std::nullopt;
}

Result<std::optional<Record>> Store::lookup(const Key& key, Whose whose) const {
  auto text = TRY(lookup_text(key, whose));
  return text ? record_of(*text) : std::nullopt;
}

std::string Store::layer_name(const Digest& digest) { return layer_dir(digest) + "/tree"; }

std::string Store::layer_path(const Digest& digest) const {
  return path_ + "/" + layer_name(digest);
}

void Store::touch(const Key& key, Whose whose) const {
  sys::AsRoot root;
  if (read_only_ || !is_hex64(key.hex)) return;
  (void)sys::touch_at(dir_.get(), record_name(salted(key, whose))).ok();
}

}  // namespace rtlaunch::store
