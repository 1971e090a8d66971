// The wheel layers of a resolution: those that the store has are leased, the others downloaded and
// unpacked, which overlaps. Each is made once, whoever asks: its lock is held meanwhile, and locks
// are taken in the order of their names, so that two builds never wait for each other.
#pragma once

#include <vector>

#include "installers/compose.h"
#include "installers/early_wheels.h"
#include "installers/resolve.h"
#include "installers/wheel.h"

namespace rtlaunch::installers {

// In the order of `locked`. Errors: of the network, the disk, or unusual(). What has come `early`
// is taken. What a first import
// needs of large wheels is compiled while they arrive, and published as well (first_import.h).
Result<std::vector<WheelLayer>> wheel_layers(const Job& job, const std::vector<LockedWheel>& locked,
                                             EarlyWheels& early, Made& made);

}  // namespace rtlaunch::installers
