// The tree of a sandbox: collects detached mounts with the path each shall be at, then attaches
// them from the outermost to the innermost. Every mount point is reached by descriptor:
//   - on the host's own root with openat2 RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, and never made;
//   - below anything that a layer, a bind or an earlier run could have filled, no symbolic link is
//     followed at all: a layer that ships the parent of a mount point as a link stops the launch;
//   - below our own tmpfs it is made when missing.
// What a caller named is looked up with that caller's rights.
// So nothing is ever created on the host, and a mount can only land where its path says.
//
// Everything that shall be opened as the host sees it has to be added before attach_all().
#pragma once

#include <string>
#include <vector>

#include "isolation/net_names.h"
#include "isolation/overlay.h"
#include "isolation/rights.h"
#include "isolation/sandbox.h"
#include "isolation/sys/mount.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

class Tree {
 public:
  // Of two mounts at one path the later kind is on top.
  enum class Kind { kWritable, kPrivate, kOverlay, kUncovered, kBind, kHidden, kClosed, kVisible };

  explicit Tree(const Rights& rights) : rights_(rights) {}

  // `make_in`: a directory through which mount points below this one are made; none: never made.
  void add(Kind kind, std::string path, sys::Mount mount, UniqueFd make_in = {});

  // The root that targets are looked up from: the host's, or (its mount points are made) our own.
  void set_host_root(UniqueFd root);
  void set_own_root(UniqueFd root, UniqueFd make_in);
  int root() const { return at("/"); }

  Status attach_all();
  // Where a root of our own needs mount points: what was added and lies below nothing else of it.
  MountPoints points_in_root() const;
  // The root of what was attached at `path`, -1 if nothing was.
  int at(const std::string& path) const;

 private:
  struct Item {
    Kind kind;
    std::string path;
    sys::Mount mount;
    UniqueFd make_in;
  };
  struct Point {  // something attached, below which others may follow
    std::string path;
    UniqueFd fd, make_in;
    bool is_host_root = false;
  };

  Status attach(Item* item);
  Result<UniqueFd> mount_point(const Item& item) const;
  Result<UniqueFd> on_host(int root, const Item& item) const;
  const Point& point_above(const std::string& path) const;

  const Rights& rights_;
  std::vector<Item> items_;
  std::vector<Point> points_;
};

// --- what goes into it; each opens its sources now, with the caller's rights ---

// kHost: clones of the directories that stay writable. A missing one is left out.
Status add_writable(const Spec& spec, const Rights& rights, Tree* tree);
// kHost: directories below a private or hidden one, read-only.
Status add_visible(const Spec& spec, const Rights& rights, Tree* tree);
Status add_binds(const Spec& spec, const Rights& rights, Tree* tree);
// `report` gets the upper that the caller asked for.
Status add_overlays(const Spec& spec, OverlayContext* context, Tree* tree, UniqueFd* report);
// The mounts that lie below the target of an overlay over the host, to go back on top of it.
Status add_mounts_below_overlays(const Spec& spec, const Rights& rights, Spares* spares,
                                 Tree* tree);
Status add_hidden(const Spec& spec, const Vault& vault, Spares* spares, Tree* tree);
// One empty directory over all of these; no mount point can be made in it.
Status add_covers(const std::vector<std::string>& paths, const Vault& vault, Tree* tree);
// The host's /etc/hosts with these names before what else it says; without names nothing.
Status add_hosts(const std::vector<HostName>& names, const Vault& vault, Tree* tree);
// /tmp, a tmpfs of its own, and the seldom used /var/tmp, which shares the vault's size with the
// uppers. What the host doesn't have the sandbox doesn't have.
Status add_tmp(const Spec& spec, const Vault& vault, Spares* spares, Tree* tree);

// The host's /dev, as it is, with /dev/shm and all else that is mounted in it.
Status add_host_devices(const Rights& rights, Tree* tree);

// The overlay that is the root, if there is one; after everything else has been added.
const Overlay* root_overlay(const Spec& spec);
Status add_root_overlay(const Spec& spec, OverlayContext* context, Tree* tree, UniqueFd* report);

// kHost: the whole root becomes read-only, nosuid, nodev; with `/` in spec.writable, only the
// latter.
Status seal_host_root(const Spec& spec);
// kEmpty: a tmpfs as root, attached over the vault.
Result<UniqueFd> make_empty_root();

}  // namespace rtlaunch::isolation
