// From a plan to what the sandbox is told: which layers are mounted where, what the command sees of
// the host, its variables and its working directory. Profile `ml`: the host's root read-only but
// for the caller's home, /tmp, /dev, /dev/shm, ipc private, the store hidden.
#pragma once

#include <string>
#include <vector>

#include "installers/plan.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "launcher/options.h"

namespace rtlaunch {

// Where a working_dir that is no directory of this host is mounted, and each py_module below.
inline constexpr char kWorkingDir[] = "/tmp/rtlaunch/working_dir";
inline constexpr char kPyModules[] = "/tmp/rtlaunch/py_modules";

// `store` is the absolute path of the store that the layers lie in; `hidden` are folders that are
// nobody's business inside.
Result<isolation::Spec> worker_spec(const RunOptions& options,
                                    const installers::PlanRequest& request,
                                    const installers::Plan& plan, const std::string& store,
                                    std::vector<std::string> hidden);

}  // namespace rtlaunch
