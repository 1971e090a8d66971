// What a daemon can be asked about the commands that it runs: ps, top, logs, enter, kill, status.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/json.h"
#include "isolation/sys/result.h"
#include "launcher/client.h"
#include "launcher/words.h"

namespace rtlaunch {

// The exit status; nothing when there is no such verb.
Result<std::optional<int>> look(const std::string& verb, const std::vector<std::string>& args);

// The daemon that --socket, RTLAUNCH_SOCKET or the default names; an error when there is none.
Result<Client> need_daemon(const Words& words, Signals& signals);

// One line a worker, the header first. `cpu` says what stands in the column CPU, if any.
std::vector<std::vector<std::string>> worker_table(const config::Json& workers);
std::string state_of(const config::Json& worker);  // "running", "exit 3", "signal 9"

Result<int> top(const Words& words);    // top.cc
Result<int> enter(const Words& words);  // enter.cc

}  // namespace rtlaunch
