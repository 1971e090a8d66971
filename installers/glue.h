// The few kilobytes of an environment that no wheel can bring, because they name its interpreter or
// its request: console scripts, `#!python` scripts with the real first line, REQUESTED, and the
// RECORDs that mention them. All as uv writes them.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "installers/wheel.h"

namespace rtlaunch::installers {

// Fills a staging's tree and the manifest (unfinished). `requested`: normalized names that the user
// asked for. False when there was nothing to write.
Result<bool> write_glue(const std::vector<WheelLayer>& wheels,
                        const std::set<std::string>& requested, const Interpreter& python,
                        const store::Store& store, int tree, store::Manifest& manifest);

// "#!/usr/bin/python3", or a /bin/sh trampoline where the kernel would cut or split the path.
std::string shebang(const std::string& executable);
std::string console_script(const EntryPoint& point, const std::string& executable);

}  // namespace rtlaunch::installers
