// `rtlaunch store …` and `rtlaunch env …`: what is in the store, why, and how to be rid of it.
// Tables for people, one JSON document with --json. Both return the exit status.
#pragma once

#include <string>
#include <vector>

namespace rtlaunch {

int store_command(const std::vector<std::string>& args);
int env_command(const std::vector<std::string>& args);

}  // namespace rtlaunch
