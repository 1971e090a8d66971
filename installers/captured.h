// What code that isn't ours has written, made fit for a layer: cleaned (store/manifest.h,
// clean_tree), what was left out told as warnings of `field`, and scanned.
//
//   sys::AsRoot root;
//   store::Manifest manifest = TRY(clean_captured(staging.tree(), "pip", progress));
#pragma once

#include <string>

#include "installers/progress.h"
#include "installers/store/manifest.h"

namespace rtlaunch::installers {

Result<store::Manifest> clean_captured(int tree, const std::string& field, Progress& progress);

}  // namespace rtlaunch::installers
