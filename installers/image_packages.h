// Packages for an image's own Python: uv runs in a build sandbox whose root is the image, and what
// it writes there becomes one more layer on top, with its bytecode. Nothing of the image is asked
// before, no code of it runs outside. Build half.
//
// The build reaches what every build does (forwarder.h), runs as the build user, to whom the
// image's files belong there, and sees of the host uv and what the requirements name. The image
// needs a Python that uv knows, and the C library that uv is linked to (glibc).
#pragma once

#include "installers/pip.h"
#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// The caller holds store.lock(key). The record is as make_packages() makes it, for a mount at `/`.
Result<store::Record> make_image_packages(const config::Packages& packages,
                                          const store::Record& image,
                                          const PackagesContext& context, const store::Key& key,
                                          store::Store& store, Progress& progress);

}  // namespace rtlaunch::installers
