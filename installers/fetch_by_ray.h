// Packages out of a cloud's storage (s3://, gs://, azure://, abfss://), fetched by what Ray's own
// agent uses for it: ray._private.runtime_env.protocol, with smart_open and the cloud's library
// behind it, in the interpreter that RTLAUNCH_RAY_PYTHON names. Credentials are found as those
// libraries find them (variables, files in HOME, the machine's role): we never see them.
//
//   TRY(fetch_by_ray("s3://bucket/a.zip", python, fd, "working_dir", progress, deadline));
//
// It runs as who asked for it, with our variables. Errors: what the library said in its last line;
// with a code (EAGAIN, ETIMEDOUT) where it may pass.
#pragma once

#include <string>

#include "installers/fetch.h"

namespace rtlaunch::installers {

// What the URI names into `fd`, from its start.
Status fetch_by_ray(const std::string& uri, const std::string& python, int fd,
                    const std::string& layer, Progress& progress, Deadline deadline);

}  // namespace rtlaunch::installers
