// The layers of an environment's packages: those that are there, and the others downloaded,
// checked, and unpacked two at a time while the next arrive. Each is made once, however many
// environments ask for it at once; nobody waits for a package that he doesn't need.
#pragma once

#include <chrono>
#include <vector>

#include "installers/capture.h"
#include "installers/conda_package.h"
#include "installers/progress.h"
#include "installers/store/store.h"

namespace rtlaunch::installers {

inline constexpr uid_t kCondaUid = kBuildUid;

// In the order of `packages`; leased.
Result<std::vector<CondaLayer>> conda_layers(const std::vector<CondaPackage>& packages,
                                             const CondaPlace& place,
                                             std::chrono::steady_clock::time_point deadline,
                                             store::Store& store, Progress& progress,
                                             std::vector<store::Lease>& leases);

}  // namespace rtlaunch::installers
