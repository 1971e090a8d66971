// Copying a walked directory into a tree, with two threads; for working_dir.cc.
#pragma once

#include <functional>

#include "installers/archive_tree.h"
#include "installers/fetch.h"
#include "installers/source_walk.h"

namespace rtlaunch::installers {

// What it takes on the disk: files of some size that have holes keep them.
uint64_t bytes_to_copy(const Walk& walk);

// `prefix` is "" or ends with a slash. The walk is used up: its memory is given back on the way.
// Error ESTALE: the source changed so much that it has to be walked again.
Status copy_walk(Walk& walk, const std::string& prefix, TreeWriter& tree, Deadline deadline,
                 const std::function<void(uint64_t done)>& progress);

}  // namespace rtlaunch::installers
