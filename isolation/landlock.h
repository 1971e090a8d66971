// The controls that Landlock gives: files, TCP ports, scopes. Each as far as this kernel
// goes; what it lacks is in the log, or stops the launch when it was required. One ruleset for all;
// then something that it forbids is tried.
#pragma once

#include "isolation/controls.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// Of the calling thread, which has no_new_privs and stands where its paths mean what they say.
Status take_landlock(const Controls& controls, ControlLog* log);

}  // namespace rtlaunch::isolation
