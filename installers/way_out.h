// What the builds of a packages field may reach: from its requirement lines, its options, the
// configuration of its indexes, and the projects of the caller's own that it names.
#pragma once

#include "installers/capture.h"
#include "installers/forwarder.h"

namespace rtlaunch::installers {

// A proxy that pip's options name is taken out of the command: it is the forwarder's.
WayOut way_out_of(const Job& job, InstallCommand* command);

// The Error of a build that failed, told together with what its forwarder saw: a build that was
// refused something says so first.
Error with_mishaps(Error error, const std::vector<Mishap>& mishaps, const std::string& said);

// The same of our planner, whom an index's page or a name has led there.
Error led_astray(Error error, const std::vector<Mishap>& mishaps);

// What was refused, for people: "a.example:443 (asked for by pip/25.0)".
std::string refused_places(const std::vector<Mishap>& mishaps);

}  // namespace rtlaunch::installers
