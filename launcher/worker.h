// From a plan to what the sandbox is told: which layers are mounted where, what the command sees of
// the host, its variables and its working directory.
// Its shape is the profile's (shield.h):
//   own      the host's root read-only but for the caller's home, /tmp, /dev, /dev/shm, ipc
//   private,
//            the store hidden
//   shared   for a process that belongs to a running Ray: the host as the caller sees it, but for
//            processes; the packages and the private working_dir at their places; the store hidden.
//            Its pid is the same outside, and it leads a session, so that a raylet can end it.
// With an image as base, its files are the root, writable and private, and of the host there is
// only what names it in the network. The command has the image's variables in place of the
// caller's, starts in its WorkingDir, and is its Entrypoint and Cmd if none is named (a command
// that is named replaces both, as in Ray). Root's command is run as its User. Of the shared shape
// it has, beside the image: the host's /dev and ipc, RAY_*, Ray's sessions; it is run as its
// caller.
#pragma once

#include <string>
#include <vector>

#include "installers/plan.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "launcher/options.h"
#include "launcher/shield.h"

namespace rtlaunch {

// Where a working_dir that is no directory of this host is mounted, and each of the others below.
inline constexpr char kWorkingDir[] = "/tmp/rtlaunch/working_dir";
inline constexpr char kPyModules[] = "/tmp/rtlaunch/py_modules";
inline constexpr char kJavaJars[] = "/tmp/rtlaunch/java_jars";
inline constexpr char kPlugins[] = "/tmp/rtlaunch/plugins";
// With an image as base, whatever the shape.
inline constexpr char kWorkingDirInImage[] = "/rtlaunch/working_dir";
inline constexpr char kPyModulesInImage[] = "/rtlaunch/py_modules";
inline constexpr char kJavaJarsInImage[] = "/rtlaunch/java_jars";
inline constexpr char kPluginsInImage[] = "/rtlaunch/plugins";
// The same where the shape is shared, and /tmp is the host's: below the store's path, in what
// covers it.
inline constexpr char kWorkingDirInStore[] = "/working_dir";
inline constexpr char kPyModulesInStore[] = "/py_modules";
inline constexpr char kJavaJarsInStore[] = "/java_jars";
inline constexpr char kPluginsInStore[] = "/plugins";

// `store` is the absolute path of the store that the layers lie in; `hidden` are folders that are
// nobody's business inside.
Result<isolation::Spec> worker_spec(const RunOptions& options, const Shape& shape,
                                    const installers::PlanRequest& request,
                                    const installers::Plan& plan, const std::string& store,
                                    std::vector<std::string> hidden);

}  // namespace rtlaunch
