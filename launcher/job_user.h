// The user that a worker of root's runs as where its profile has `uids`: a number for each job, out
// of that range. Workers of one job that run at a time share it; two jobs never do, and a worker
// of no job has it alone. A number is free again when its last worker has ended; the first that is
// tried follows from the job's name.
//
// Who has which is known to all that start workers here, daemons and commands without one, by one
// folder: a file for each number, with the job's name, locked by the workers that have it, for as
// long as they live. Numbers that processes of others run as are passed over.
#pragma once

#include <string>

#include "config/profile.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

inline constexpr char kJobUsers[] = "/run/rtlaunch/uids";

// The group has the same number; no other groups.
struct HeldUser {
  isolation::User user;
  UniqueFd hold;  // the worker's pid 1 keeps it
};
// EBUSY: all numbers are in use. EAGAIN: others choose for longer than we wait for them.
Result<HeldUser> hold_job_user(const config::UidRange& range, const std::string& job,
                               int patience_ms);

}  // namespace rtlaunch
