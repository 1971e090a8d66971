// The user that a worker of root's runs as where its profile has `uids`: a number for each job, out
// of that range. Workers of one job that run at a time share it; two jobs never do, and a worker
// of no job has it alone. A number is free again when its last worker has ended; the first that is
// tried follows from the job's name.
//
// Who has which is in the workers' records, so a new daemon goes on with it.
#pragma once

#include <string>

#include "config/profile.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "launcher/workers.h"

namespace rtlaunch {

// EBUSY: all numbers are in use. The group has the same number; no other groups.
Result<isolation::User> job_user(const config::UidRange& range, const std::string& job,
                                 Workers& workers);

}  // namespace rtlaunch
