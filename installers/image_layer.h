// One layer of an OCI image, a tar archive of changes, becomes a tree of the store: `.wh.NAME` a
// whiteout, `.wh..wh..opq` an opaque directory, as overlayfs has them; but it knows no opaque root,
// so the layers below one are left out of the stack (image_make.cc).
//
// Nothing is ever made outside of the tree: names are read as text first (`..` is refused), parents
// are reached by descriptor without following a link, and an archive that puts something below a
// link of its own is refused. Links themselves may lead anywhere: they mean something only inside,
// where the image is the root. A name that comes twice is what it was last. Hard links are links to
// one inode, within their layer; holes of sparse files stay holes.
//
// What a layer of the store doesn't have: owners (all of it belongs to whoever runs the command,
// store/README.md), fifos and sockets, extended attributes but user.* (and these only where the
// store's file system has them). What it has only if the policy says so, and root makes it: setuid
// and setgid bits, file capabilities, devices; to be seen, since no mount honours them and no
// command gains privileges. Left out, and counted.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "installers/image_stream.h"
#include "installers/store/manifest.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

struct LayerLimits {
  uint64_t max_bytes = 100ull << 30;  // of the archive, unpacked
  uint64_t max_entries = 2'000'000;
  bool special_files = false;  // are kept
};

struct LayerLeftOut {
  uint64_t devices = 0, setuid = 0, attributes = 0;  // files that had them
};

// Fills `dir`, and the manifest, which is finished. `name` is what the layer is called in errors.
// The stream's digests are the caller's to compare.
Status apply_image_layer(ImageStream& stream, const std::string& name, int dir,
                         store::Manifest& manifest, LayerLeftOut* left_out,
                         const LayerLimits& limits = {},
                         const std::function<void(uint64_t done)>& progress = {});

}  // namespace rtlaunch::installers
