// Where packages may come from, if a policy says so: every place that the request names, before
// anything is asked for there.
#pragma once

#include "config/allowed.h"
#include "installers/pip.h"

namespace rtlaunch::installers {

// Indexes (the tool's default one included), find-links and URLs of lines and options. EPERM, the
// URL named, without credentials.
Status check_sources(const config::Packages& packages, const PackagesContext& context,
                     const Interpreter& python, const config::Allowed& allowed);

// The same of lines in files of the working_dir, which only a build reads.
Status check_included(const config::Packages& packages, const PackagesContext& context,
                      const config::Allowed& allowed);

}  // namespace rtlaunch::installers
