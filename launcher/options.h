// The command line, parsed strictly: an unknown option is an error that suggests the nearest.
// Options come as `--name value` or `--name=value`; everything after `--` is the command.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/policy.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

// What is asked of the policy: --profile, --control, --job, --label.
struct Asked {
  config::Ask ask;
  std::string job;
  std::map<std::string, std::string> labels;
};

struct RunOptions {
  std::string runtime_env;                 // --runtime-env: a file's name or JSON; "" for none
  std::optional<std::string> working_dir;  // --working-dir
  std::string image;                       // --image
  std::vector<std::string> pip;            // --pip, each a requirement line
  std::vector<std::pair<std::string, std::string>> env;  // --env; `--env KEY` takes ours
  std::string store;                                     // --store; "" for the default
  std::string python;                      // --python: the base interpreter; "" to find it
  std::string keep;                        // --keep: where files written in working_dir go
  Asked asked;                             // --profile, --control, --job, --label
  std::string working_dir_at;              // --working-dir-at, absolute; "" for its own place
  std::vector<std::string> py_modules_at;  // --py-module-at, absolute; none, or one for each
  std::vector<std::string> hidden;         // --hide, absolute
  std::string session;                     // --session, absolute; its neighbours are hidden
  std::vector<std::pair<std::string, std::string>> binds;  // --bind HOST=INSIDE, absolute
  std::pair<std::string, std::string> library_path;        // --library-path DIR=PATH
  bool die_with_parent = false;                            // --die-with-parent
  bool zygote = false;           // --zygote: a worker of Ray's may come from one
  uint64_t upper_bytes = 0;      // --upper-size; 0: half of the memory
  bool allow_conflicts = false;  // --allow-conflicts
  bool json = false;             // --json: events instead of lines, on stderr
  bool timings = false;          // --timings: microseconds per step, on stderr
  std::string socket;            // --socket: the daemon's; "" for the default one if it is there
  bool embedded = false;         // --embedded: no daemon
  std::string name;              // env create --name: of the hold
  int64_t ttl = 0;               // env create --ttl, seconds; 0: until it is released
  std::string environment;       // exec: an id or a hold's name
  std::vector<std::string> command;  // run --image: none for the image's own
};

// `args` without the program's name and without the verb.
Result<RunOptions> parse_run_options(const std::vector<std::string>& args);
Result<RunOptions> parse_exec_options(const std::vector<std::string>& args);
Result<RunOptions> parse_create_options(const std::vector<std::string>& args);

// "512M", "2G", "1073741824" as bytes (K, M, G, T are powers of 1024).
Result<uint64_t> parse_size(const std::string& text);

// "90" (seconds), "15m", "1h", "7d".
Result<int64_t> parse_duration(const std::string& text);

// --store, else RTLAUNCH_STORE, else /var/lib/rtlaunch for root and
// ${XDG_DATA_HOME:-~/.local/share}/rtlaunch for everybody else.
Result<std::string> store_path(const std::string& option);

}  // namespace rtlaunch
