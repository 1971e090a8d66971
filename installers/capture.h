// The universal way to a packages layer, and the reference that compose is tested against: run uv
// (or pip) in a build sandbox where an overlay lies on the interpreter's own prefix, and keep what
// it wrote. Works for sdists, VCS, editable and local packages, and any option.
//
// The build sees: the system's programs and libraries, /etc, the interpreter, what the requirements
// name (local packages copy-on-write), and of the variables only what reaches an index plus the
// runtime env's own env_vars. It runs as a user of its own (kBuildUid; rootless: as the caller)
// with a home of its own and a copy-on-write view of our cache, which are thrown away: no build can
// poison another.
#pragma once

#include "installers/compose.h"

namespace rtlaunch::installers {

// Builds run as this user where the caller is root. Concurrent ones are kept apart by namespaces.
inline constexpr uid_t kBuildUid = 59990;

Result<Made> capture(const Job& job);

// --- parts, for tests ---------------------------------------------------------------------------

// The command for the field's options. Errors: an option that would install elsewhere.
struct InstallCommand {
  bool pip = false;                // uv otherwise
  std::string get;                 // "pip==23.3" or "uv==0.5": a tool to be had first
  std::vector<std::string> args;   // options, behind `install`
  std::vector<std::string> files;  // that the options name; the build has to see them
  std::string lines;               // options that may hold credentials, as requirement lines
};
// `files`: absolute paths that they name; relative ones start at `cwd`.
Result<InstallCommand> install_command(const config::Packages& packages,
                                       const std::string& cwd = "/");

// The first option that changes what is installed; "" when none does.
std::string option_that_matters(const std::vector<std::string>& options);

}  // namespace rtlaunch::installers
