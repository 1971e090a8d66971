// What `uv run` syncs for a project with a lock, as a layer: a plugin of ours, uv_run.py, which
// lies beside our programs and counts for everybody. Only the agent writes its field
// (launcher/ray/uv_run.h). Its Python and uv, and what these need (`show`), are the caller's,
// opened with his rights; of the network it has what the project's files and `pages` name.
#pragma once

#include <string>

#include "installers/plugin.h"

namespace rtlaunch::installers {

inline constexpr char kUvRun[] = "uv_run";

// `tools`: the folder with uv.
Result<Plugin> uv_run_plugin(const std::string& tools);

}  // namespace rtlaunch::installers
