// Where conda packages come from: what the field says, else the caller's condarc and CONDA_*, as
// conda reads them (the first condarc that is there). Warm half.
#pragma once

#include <string>
#include <vector>

#include "config/allowed.h"
#include "config/conda.h"
#include "installers/python.h"

namespace rtlaunch::installers {

struct CondaChannels {
  std::vector<std::string> names;  // or URLs, or absolute paths; the first counts most
  std::string alias;               // the URL that names lie below; "": py-rattler's own
};

CondaChannels channels_of(const config::Conda& conda, const Environment& variables);

// `url` without credentials.
Status check_channel(const std::string& url, const config::Allowed& allowed);

}  // namespace rtlaunch::installers
