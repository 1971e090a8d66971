// Overlay mounts, and the vault: one tmpfs that holds every upper and all else that only the
// launcher may name. It is attached over the host's /proc while the sandbox is made (before
// Linux 6.15 layers and uppers must be in a namespace, and nobody keeps a layer below /proc), and
// is covered by the sandbox's own /proc afterwards: no path leads into it, nothing can be unmounted
// without capabilities, and it vanishes with the namespace.
//
// An overlay is made with fsopen and one lowerdir+ per layer (Linux 6.7), or with mount(2) from a
// directory of short symbolic links (its options have to fit into a page). Layers with a name that
// either would misread (long, or with `:`, `,`, `\`) are given by link in both ways. Never
// redirects, metacopy or an index, whatever the kernel's defaults: a layer's own attributes must
// mean nothing.
//
// For another user's sandbox uppers are that user's. An overlay with anything of the host's in it
// is made with that user's rights over files (see sandbox.h), and read-only: overlayfs can't keep
// its work folder without CAP_DAC_OVERRIDE. What a path can't reach with those rights, or must have
// other ids, is attached in the vault first: `owned` layers as idmapped clones (Linux 5.19), and
// with mount(2) every lower.
#pragma once

#include <string>
#include <vector>

#include "isolation/rights.h"
#include "isolation/sandbox.h"
#include "isolation/spares.h"
#include "isolation/sys/mount.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

class Vault {
 public:
  // `bytes` 0: half of the memory. umask must be 0.
  static Result<Vault> make(uint64_t bytes, Spares* spares);

  // A new directory.
  Result<UniqueFd> directory(const std::string& name, mode_t mode) const;
  int fd() const { return mount_.fd(); }
  const sys::Mount& mount() const { return mount_; }

  static constexpr const char* kPath = "/proc";

 private:
  explicit Vault(sys::Mount mount) : mount_(std::move(mount)) {}
  sys::Mount mount_;
};

struct OverlayMount {
  sys::Mount mount;
  UniqueFd upper;  // with `report`
};

struct OverlayContext {
  const Vault& vault;
  const Rights& rights;
  int id_map;
  bool rootless;
  bool use_mount2;
  int count = 0;
};

// By the kernel's version: just trying would leave a line in its log for every launch.
bool has_lowerdir_plus();

constexpr size_t kMostLayers = 500;  // OVL_MAX_STACK

// What an overlay gets in its top layer for others to be mounted on; absolute, as seen inside.
struct MountPoints {
  std::vector<std::string> directories, files;
};

// Not attached yet. Paths in `overlay` are resolved now, as the host sees them.
Result<OverlayMount> make_overlay(const Overlay& overlay, OverlayContext* context,
                                  const MountPoints& points = {});

}  // namespace rtlaunch::isolation
