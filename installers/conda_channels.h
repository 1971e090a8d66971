// Where conda packages come from: what the field says, else the caller's condarc, as conda reads it
// (the first that is there): `channels`, `channel_alias` (or CONDA_CHANNEL_ALIAS), and what
// `defaults` stands for, `default_channels`. Nothing else of it counts. Warm half.
//
// A channel's URL may hold secrets, user:password@ or /t/TOKEN/: they reach the solver's standard
// input and the servers, and are in no key, record, cache, argument or message.
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

// Without user, password, token and query: what it is called, and what policies see.
std::string plain_channel(const std::string& url);

CondaChannels channels_of(const config::Conda& conda, const Environment& variables);

// `url` as plain_channel() has it.
Status check_channel(const std::string& url, const config::Allowed& allowed);

}  // namespace rtlaunch::installers
