// The wheel layers of a resolution: those that the store has are leased, the others downloaded and
// unpacked, which overlaps. Each is made once, whoever asks: its lock is held meanwhile, and locks
// are taken in the order of their names, so that two builds never wait for each other.
#pragma once

#include <vector>

#include "installers/compose.h"
#include "installers/first_import.h"
#include "installers/resolve.h"
#include "installers/wheel.h"

namespace rtlaunch::installers {

// In the order of `locked`. Errors: of the network, the disk, or unusual(). `first`, if there is
// one, hears of each wheel that had to be unpacked; what it compiled is published as well.
Result<std::vector<WheelLayer>> wheel_layers(const Job& job, const std::vector<LockedWheel>& locked,
                                             FirstImport* first, Made& made);

}  // namespace rtlaunch::installers
