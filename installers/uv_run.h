// What `uv run` syncs for a project with a lock, as a layer: a plugin of ours, uv_run.py, which
// lies beside our programs and counts for everybody. Only the agent writes its field
// (launcher/ray/uv_run.h). Its Python and uv, and what these need (`show`), are the caller's,
// opened with his rights; of the network it has what the project's files and `pages` name.
//
// Packages that lie in the project's own folders are built from `files`, a copy of these, so their
// content is part of the key. An editable one is found where it lies: then the copy lies at
// `place`, where the workers have the working_dir, and that is part of the key, too. A build that
// leaves something in such a folder, as compiled modules are, can't be made once for all: it is an
// error, with the words of kWritesIntoFolder, and each worker syncs by itself.
#pragma once

#include <string>

#include "installers/plugin.h"

namespace rtlaunch::installers {

inline constexpr char kUvRun[] = "uv_run";
inline constexpr char kWritesIntoFolder[] = "writes into its own folder";  // uv_run.py's words

// `tools`: the folder with uv. Errors: `value` is none that an agent writes.
Result<Plugin> uv_run_plugin(const std::string& tools, const std::string& value);

}  // namespace rtlaunch::installers
