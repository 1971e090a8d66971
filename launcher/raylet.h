// What a worker of Ray's, in a sandbox of the shared shape (worker.h), has of its raylet: the
// process that it watches, its session, the variables that it was started with.
#pragma once

#include <string>
#include <vector>

#include "installers/plan.h"
#include "isolation/sandbox.h"

namespace rtlaunch {

// A worker ends when the process of RAY_RAYLET_PID has gone: for one that can't see its raylet,
// that is the pid 1 that lives as long as the raylet wants it to. Nor is anything in there to be
// shut in once more.
void name_raylet(installers::Environment& variables);

// ray.init() in a worker, as in the driver of a submitted job, looks for its node among the command
// lines of all processes. There, too, pid 1 is the raylet: the one that started us, else all that
// are on this machine, of which Ray takes those of its cluster.
std::vector<std::string> shown_as_raylet(const installers::Environment& variables);

// Those of other clusters that this machine has or had: their sockets, logs and files. The link
// session_latest stays as it is.
std::vector<std::string> other_sessions(const std::string& session);

// For an image, which has nothing of the host's: the folder of the sessions, to write to.
void show_session(const std::string& session, isolation::Spec& spec);
// And of the caller's variables Ray's own.
void keep_rays_variables(const installers::Environment& from, installers::Environment& variables);

}  // namespace rtlaunch
