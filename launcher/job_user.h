// The user that a worker of root's runs as where its profile has `uids`: a number for each job, out
// of that range. Workers of one job that run at a time share it; two jobs never do, and a worker
// of no job has it alone. A number is free again when its last worker has ended; the first that is
// tried follows from the job's name.
//
// Who has which is in the workers' records, so a new daemon goes on with it. Root without a daemon
// has a folder of its own for it: a file for each number, with the job's name, locked by the
// workers that have it; numbers that processes of others run as, a daemon's workers too, are passed
// over. The daemon knows nothing of these: where both are used, give each a range.
#pragma once

#include <string>

#include "config/profile.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"
#include "launcher/workers.h"

namespace rtlaunch {

// EBUSY: all numbers are in use. The group has the same number; no other groups.
Result<isolation::User> job_user(const config::UidRange& range, const std::string& job,
                                 Workers& workers);

struct HeldUser {
  isolation::User user;
  UniqueFd hold;  // the worker's pid 1 keeps it
};
Result<HeldUser> hold_job_user(const config::UidRange& range, const std::string& job,
                               const std::string& folder);

}  // namespace rtlaunch
