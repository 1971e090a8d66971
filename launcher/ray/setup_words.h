// The words that Ray's own agent has in the log of a setup, where the same is true here: people and
// their scripts look for them. URIs are shown without credentials and query.
//
//   for (const Uri& uri : env.uris) log.info(words_before(uri, cache.knows(uri), python));
#pragma once

#include <string>

#include "launcher/ray/ray_env.h"

namespace rtlaunch::ray {

std::string words_before(const Uri& uri, bool there, const std::string& python);
std::string words_after(const Uri& uri, bool there);
std::string words_of_removal(const Uri& uri);

}  // namespace rtlaunch::ray
