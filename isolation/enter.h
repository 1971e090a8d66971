// For a process of ours that has to see layers where its sandboxes will have them: a read-only
// stack at a path of the host's, in a mount namespace of the process's own (without root in a user
// namespace too, in which its ids stay what they are). Until it ends; nobody else sees it.
#pragma once

#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// Single-threaded callers only, once a process. `target` is a directory that is there; `lowers` are
// absolute directories, top first; `work` an empty directory of ours, needed for the time of the
// call. `own_namespace`: this process has one already.
Status enter_overlay(const std::string& target, const std::vector<std::string>& lowers, int work,
                     bool own_namespace);

}  // namespace rtlaunch::isolation
