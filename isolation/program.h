// What a command's name leads to, looked at before it is executed. Until then its process is still
// of the launcher's own program: /proc/self/exe, a magic link, leads to that program's file as the
// host has it mounted, past all that the sandbox has made read-only. Whoever got it executed inside
// could open or chmod it there (CVE-2019-5736). So no magic link is executed, neither as a command
// nor as the interpreter of a script, where the worker could change that file.
//
// Between this and the exec a file may be exchanged: by who writes where the command lies, so by
// who could exchange the command itself. The spawner's own file is on a mount of its own that can't
// be written (launcher/spawner_main.cc), and rtlaunch as root lets nobody reach its own through it
// (launcher/launch_main.cc).
//
// Rests on openat2(2), RESOLVE_NO_MAGICLINKS; execve(2) for what an interpreter's line means.
#pragma once

#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// For the worker, with its own rights, in its working directory. What isn't there is passed over;
// where it is looked for, it is no candidate afterwards.
Status check_program(std::vector<std::string>* candidates);

}  // namespace rtlaunch::isolation
