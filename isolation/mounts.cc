#include "isolation/mounts.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch::isolation {
namespace {

constexpr uint64_t kReadOnly = sys::kSafe | MOUNT_ATTR_RDONLY;

bool is_directory(int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && S_ISDIR(info.st_mode);
}

std::string below(const std::string& path, const std::string& dir) {
  if (path == dir) return ".";
  return path.substr(dir == "/" ? 1 : dir.size() + 1);
}

// A mount point in our own tmpfs. Nothing but us has written there yet.
Status make_mount_point(int dir, const std::string& path, bool directory) {
  if (directory) return sys::make_dirs_at(dir, path);
  size_t slash = path.find_last_of('/');
  if (slash != std::string::npos) TRY(sys::make_dirs_at(dir, path.substr(0, slash)));
  if (::mknodat(dir, path.c_str(), S_IFREG | 0444, 0) == 0 || errno == EEXIST) return {};
  return sys_error("mknod", path);
}

Error no_mount_point(Error error, const std::string& path) {
  error.step = "mount point";
  error.object = path;
  if (error.code == ENOENT) {
    error.reason = "the path doesn't exist on this host and can't be made";
    error.cure = "make the directory, or choose one that exists";
  } else if (error.code == ELOOP || error.code == ENOTDIR) {
    error.reason = "a part of the path is a symbolic link or no directory; refused";
    error.cure = "the files that are mounted above it must have real directories there";
  }
  return error;
}

bool is_absent(const Error& error) { return error.code == ENOENT || error.code == ENOTDIR; }

// What a caller may change, or has brought to another place, was judged by its path: a link that
// has come into it since isn't followed.
Result<sys::Mount> clone_itself(const std::string& path) {
  UniqueFd root = TRY(sys::open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
  UniqueFd fd = TRY(sys::open_beneath(root.get(), below(path, "/"), O_PATH));
  return sys::clone_mount(fd.get(), "", true);
}

// A clone of what the host has at `path`, safe; an invalid one when `optional` and not there.
Result<sys::Mount> clone_host(const std::string& path, uint64_t attributes, bool optional,
                              bool brought, const Rights& rights) {
  Rights::Borrowed as_caller = TRY(rights.borrow_for(path));
  bool judged = rights.caller() != nullptr && !rights.is_layer(path) &&
                (brought || !(attributes & MOUNT_ATTR_RDONLY));
  Result<sys::Mount> mount = judged ? clone_itself(path) : sys::clone_mount(AT_FDCWD, path, true);
  bool leads_nowhere = !mount && judged && mount.error().code == ELOOP;
  if (!mount && optional &&
      (is_absent(mount.error()) || leads_nowhere || mount.error().code == EACCES)) {
    return sys::Mount();
  }
  if (!mount) return mount;
  TRY(sys::set_mount_attributes(mount->fd(), "", attributes, true));
  return mount;
}

Status add_clone(Tree::Kind kind, const std::string& source, const std::string& target,
                 uint64_t attributes, bool optional, const Rights& rights, Tree* tree) {
  sys::Mount mount = TRY(clone_host(source, attributes, optional, false, rights));
  if (mount.valid()) tree->add(kind, target, std::move(mount));
  return {};
}

// A layer whose files belong to the caller.
Result<sys::Mount> clone_owned(const Bind& bind, int id_map, const Rights& rights) {
  if (!rights.is_layer(bind.source)) {
    return make_error("bind", bind.source, "only layers of the store can be made the caller's");
  }
  sys::Mount mount = TRY(sys::clone_mount(AT_FDCWD, bind.source, false));
  TRY(sys::set_id_map(mount.fd(), id_map));
  TRY(sys::set_mount_attributes(mount.fd(), "", kReadOnly, false));
  return mount;
}

bool stays_writable(const Spec& spec, const std::string& path) {
  if (spec.root == Root::kShared) return true;
  return std::any_of(spec.writable.begin(), spec.writable.end(),
                     [&](const std::string& dir) { return sys::is_beneath(path, dir); });
}

// Mounts that an overlay on `target` would cover go back on top of it. One that a layer has removed
// the mount point of is gone, as the rest of what that layer removed.
Status keep_mounts_below(const Spec& spec, const std::string& target, const Rights& rights,
                         const sys::MountTable& mounts, Tree* tree) {
  for (const std::string& point : mounts.below(target)) {
    uint64_t attributes = stays_writable(spec, point) ? sys::kSafe : kReadOnly;
    TRY(add_clone(Tree::Kind::kUncovered, point, point, attributes, true, rights, tree));
  }
  return {};
}

// Nothing to hide, or no longer a place to put it: the launch goes on.
bool may_be_missing(Tree::Kind kind) {
  return kind == Tree::Kind::kHidden || kind == Tree::Kind::kClosed ||
         kind == Tree::Kind::kUncovered;
}

// Who can't get there needs nothing hidden from it.
bool needs_no_cover(Tree::Kind kind, const Error& error) {
  if (kind == Tree::Kind::kHidden && error.code == EACCES) return true;
  return may_be_missing(kind) && is_absent(error);
}

}  // namespace

// --- Tree ---

void Tree::add(Kind kind, std::string path, sys::Mount mount, UniqueFd make_in) {
  items_.push_back({kind, std::move(path), std::move(mount), std::move(make_in)});
}

void Tree::set_host_root(UniqueFd root) {
  points_.push_back({"/", std::move(root), UniqueFd(), true});
}

void Tree::set_own_root(UniqueFd root, UniqueFd make_in) {
  points_.push_back({"/", std::move(root), std::move(make_in), false});
}

int Tree::at(const std::string& path) const {
  auto found = std::find_if(points_.rbegin(), points_.rend(),
                            [&](const Point& point) { return point.path == path; });
  return found == points_.rend() ? -1 : found->fd.get();
}

// The innermost; of two at one path the later.
const Tree::Point& Tree::point_above(const std::string& path) const {
  const Point* best = &points_.front();
  for (const Point& point : points_) {
    if (sys::is_beneath(path, point.path) && point.path.size() >= best->path.size()) best = &point;
  }
  return *best;
}

// An error must not tell a caller what is in a directory that is closed to it.
Result<UniqueFd> Tree::on_host(int root, const Item& item) const {
  Rights::Borrowed as_caller;
  bool named_by_caller = item.kind != Kind::kPrivate && item.kind != Kind::kClosed;
  if (named_by_caller) as_caller = TRY(rights_.borrow());
  return sys::open_in_root(root, item.path, O_PATH);
}

Result<UniqueFd> Tree::mount_point(const Item& item) const {
  const Point& above = point_above(item.path);
  if (above.is_host_root) return on_host(above.fd.get(), item);
  std::string name = below(item.path, above.path);
  Result<UniqueFd> found = sys::open_beneath(above.fd.get(), name, O_PATH);
  if (found || found.error().code != ENOENT || !above.make_in.valid()) return found;
  TRY(make_mount_point(above.make_in.get(), name, is_directory(item.mount.fd())));
  return sys::open_beneath(above.fd.get(), name, O_PATH);
}

Status Tree::attach(Item* item) {
  Result<UniqueFd> target = mount_point(*item);
  if (!target && needs_no_cover(item->kind, target.error())) {
    // To close it now would wait for all CPUs: with all else of ours, once the command runs.
    (void)item->mount.release().release();
    return {};
  }
  if (!target) return no_mount_point(std::move(target.error()), item->path);
  Status attached = item->mount.attach(target->get(), "");
  if (!attached) return no_mount_point(std::move(attached.error()), item->path);
  points_.push_back({item->path, item->mount.release(), std::move(item->make_in), false});
  return {};
}

// A path is longer than its parents, so by length every mount comes after those it lies on.
Status Tree::attach_all() {
  std::stable_sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
    return std::pair(a.path.size(), a.kind) < std::pair(b.path.size(), b.kind);
  });
  for (Item& item : items_) TRY(attach(&item));
  items_.clear();
  return {};
}

// What is hidden needs none: where the root hasn't got it, it is hidden.
MountPoints Tree::points_in_root() const {
  auto is_made = [](const Item& item) {
    return item.kind != Kind::kHidden && item.kind != Kind::kClosed && item.path != "/";
  };
  MountPoints points;
  for (const Item& item : items_) {
    if (!is_made(item)) continue;
    bool inner = std::any_of(items_.begin(), items_.end(), [&](const Item& outer) {
      return is_made(outer) && outer.path != item.path && sys::is_beneath(item.path, outer.path);
    });
    if (inner) continue;
    (is_directory(item.mount.fd()) ? points.directories : points.files).push_back(item.path);
  }
  return points;
}

// --- sources ---

Status add_writable(const Spec& spec, const Rights& rights, Tree* tree) {
  for (const std::string& dir : spec.writable) {
    if (dir != "/") TRY(add_clone(Tree::Kind::kWritable, dir, dir, sys::kSafe, true, rights, tree));
  }
  return {};
}

Status add_visible(const Spec& spec, const Rights& rights, Tree* tree) {
  for (const std::string& dir : spec.visible) {
    TRY(add_clone(Tree::Kind::kVisible, dir, dir, kReadOnly, true, rights, tree));
  }
  return {};
}

Status add_binds(const Spec& spec, const Rights& rights, Tree* tree) {
  for (const Bind& bind : spec.binds) {
    uint64_t attributes = bind.writable ? sys::kSafe : kReadOnly;
    bool owned = bind.owned && rights.caller() != nullptr;
    sys::Mount mount =
        TRY(owned ? clone_owned(bind, spec.id_map, rights)
                  : clone_host(bind.source, attributes, bind.optional, true, rights));
    if (mount.valid()) tree->add(Tree::Kind::kBind, bind.target, std::move(mount));
  }
  return {};
}

Status add_mounts_below_overlays(const Spec& spec, const Rights& rights, Spares* spares,
                                 Tree* tree) {
  for (const Overlay& overlay : spec.overlays) {
    if (!overlay.over_host) continue;
    if (!spares->mounts) spares->mounts = TRY(sys::MountTable::open());
    TRY(keep_mounts_below(spec, overlay.target, rights, *spares->mounts, tree));
  }
  return {};
}

Status add_overlays(const Spec& spec, OverlayContext* context, Tree* tree, UniqueFd* report) {
  for (const Overlay& overlay : spec.overlays) {
    if (&overlay == root_overlay(spec)) continue;
    OverlayMount made = TRY(make_overlay(overlay, context));
    if (made.upper.valid()) *report = std::move(made.upper);
    tree->add(Tree::Kind::kOverlay, overlay.target, std::move(made.mount));
  }
  return {};
}

const Overlay* root_overlay(const Spec& spec) {
  auto found = std::find_if(spec.overlays.begin(), spec.overlays.end(), [](const Overlay& overlay) {
    return overlay.target == "/" && !overlay.over_host;
  });
  return found == spec.overlays.end() ? nullptr : &*found;
}

Status add_root_overlay(const Spec& spec, OverlayContext* context, Tree* tree, UniqueFd* report) {
  const Overlay* root = root_overlay(spec);
  if (root == nullptr) return {};
  OverlayMount made = TRY(make_overlay(*root, context, tree->points_in_root()));
  if (made.upper.valid()) *report = std::move(made.upper);
  tree->add(Tree::Kind::kOverlay, "/", std::move(made.mount));
  return {};
}

namespace {

// Each of these has an empty directory of its own, as mount points may have to be made in it.
Status add_cover(Tree::Kind kind, const std::string& path, const std::string& name,
                 const Vault& vault, Spares* spares, Tree* tree) {
  std::optional<Spares::Empty> empty = spares->take_empty();
  if (!empty) empty = TRY(Spares::Empty::make(vault.fd(), name));
  tree->add(kind, path, std::move(empty->mount), std::move(empty->dir));
  return {};
}

bool host_has_directory(const char* path) {
  struct stat info;
  return ::lstat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

Status add_own_tmp(uint64_t bytes, Spares* spares, Tree* tree) {
  sys::Mount mount = TRY(spares->take(Spares::kTmp, bytes));
  UniqueFd make_in = TRY(sys::copy_above_stdio(mount.fd()));
  tree->add(Tree::Kind::kPrivate, "/tmp", std::move(mount), std::move(make_in));
  return {};
}

}  // namespace

Status add_hidden(const Spec& spec, const Vault& vault, Spares* spares, Tree* tree) {
  int number = 0;
  auto add = [&](Tree::Kind kind, const std::string& path) {
    return add_cover(kind, path, "h" + std::to_string(number++), vault, spares, tree);
  };
  for (const std::string& path : spec.closed) TRY(add(Tree::Kind::kClosed, path));
  for (const std::string& path : spec.hidden) TRY(add(Tree::Kind::kHidden, path));
  return {};
}

Status add_covers(const std::vector<std::string>& paths, const Vault& vault, Tree* tree) {
  if (paths.empty()) return {};
  constexpr const char* kEmpty = "covers";
  TRY(vault.directory(kEmpty, 0555));
  for (const std::string& path : paths) {
    sys::Mount cover = TRY(sys::clone_mount(vault.fd(), kEmpty, false));
    TRY(sys::set_mount_attributes(cover.fd(), "", kReadOnly, false));
    tree->add(Tree::Kind::kClosed, path, std::move(cover));
  }
  return {};
}

Status add_hosts(const std::vector<HostName>& names, const Vault& vault, Tree* tree) {
  if (names.empty()) return {};
  constexpr const char *kHosts = "/etc/hosts", *kFile = "hosts";
  auto others = sys::read_file(kHosts, 16 << 20);
  UniqueFd file = TRY(sys::open_at(vault.fd(), kFile, O_WRONLY | O_CREAT | O_EXCL, 0444));
  TRY(sys::write_all(file.get(), hosts_lines(names) + (others ? *others : ""), kFile));
  sys::Mount mount = TRY(sys::clone_mount(vault.fd(), kFile, false));
  TRY(sys::set_mount_attributes(mount.fd(), "", kReadOnly, false));
  tree->add(Tree::Kind::kClosed, kHosts, std::move(mount));
  return {};
}

Status add_tmp(const Spec& spec, const Vault& vault, Spares* spares, Tree* tree) {
  if (host_has_directory("/tmp")) TRY(add_own_tmp(spec.tmp_bytes, spares, tree));
  if (!host_has_directory("/var/tmp")) return {};
  UniqueFd make_in = TRY(vault.directory("tmp", 01777));
  sys::Mount mount = TRY(sys::clone_mount(vault.fd(), "tmp", false));
  tree->add(Tree::Kind::kPrivate, "/var/tmp", std::move(mount), std::move(make_in));
  return {};
}

Status add_host_devices(const Rights& rights, Tree* tree) {
  return add_clone(Tree::Kind::kPrivate, "/dev", "/dev", MOUNT_ATTR_NOSUID, false, rights, tree);
}

Status seal_host_root(const Spec& spec) {
  uint64_t attributes = stays_writable(spec, "/") ? sys::kSafe : kReadOnly;
  Status sealed = sys::set_mount_attributes(AT_FDCWD, "/", attributes, true);
  if (!sealed && sealed.error().code == EINVAL) {
    sealed.error().reason = "the root of this process is no mount (it runs in a chroot)";
    sealed.error().cure = "run it outside of the chroot";
  }
  return sealed;
}

Result<UniqueFd> make_empty_root() {
  sys::FsContext context = TRY(sys::FsContext::open("tmpfs"));
  TRY(context.set("mode", "0755"));
  TRY(context.set("size", "1048576"));  // holds mount points only
  sys::Mount root = TRY(context.mount(sys::kSafe));
  TRY(root.attach(AT_FDCWD, Vault::kPath));
  return root.release();
}

}  // namespace rtlaunch::isolation
