// An environment of more packages than overlayfs stacks (500): the lowest are merged into one layer
// of hard links to theirs, as the kernel would show them, so that nothing is copied.
#pragma once

#include <vector>

#include "installers/conda_package.h"
#include "installers/store/store.h"

namespace rtlaunch::installers {

// How many of the first have to be one, for all of them and their bytecode to be stacked; 0: none.
size_t conda_layers_to_merge(const std::vector<CondaLayer>& layers);

// Of layers without whiteouts, lowest first, which the caller has leased.
Result<store::Lease> merged_layer(const std::vector<store::Digest>& layers, store::Store& store);

}  // namespace rtlaunch::installers
