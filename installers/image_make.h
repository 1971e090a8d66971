// From an image to its layers. One layer of the store per layer of the image, found by its diffID:
// images that share layers share them, whoever asked, and what is there isn't unpacked again. Build
// half.
//
// What isn't a folder already is brought by skopeo, which runs as the caller: with the caller's
// auth file (REGISTRY_AUTH_FILE, or where podman and docker keep theirs), the host's
// registries.conf and signature policy. Digests are held to all the same: of the blob, and of the
// archive in it.
//
//   UniqueFd lock = TRY(store.lock(key));
//   Record record = TRY(make_image(ref, key, variables, store, progress, deadline));
#pragma once

#include "installers/fetch.h"
#include "installers/image.h"
#include "installers/progress.h"
#include "installers/python.h"
#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// The caller holds store.lock(key). Publishes what is missing and records it (kind "image").
Result<store::Record> make_image(const ImageRef& ref, const store::Key& key,
                                 const Environment& variables, store::Store& store,
                                 Progress& progress, Deadline deadline);

}  // namespace rtlaunch::installers
