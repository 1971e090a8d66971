// Plugins: programs of an administrator's, or of a user's own, each of which gives runtime envs one
// more field: the program's name. It turns the field's value into a layer, and says how a command
// is started with it. A plugin is one executable file in a folder of plugins, in any language whose
// interpreter lies below /usr.
//
//   /etc/rtlaunch/plugins   the administrator's (rtlaunchd --plugins): they count for everybody
//   RTLAUNCH_PLUGINS        the user's, with `:` between them, where no daemon is asked
//
// File and folders must be root's, a user's own ones his, and writable by nobody else.
//
// The protocol. `PROGRAM OPERATION` is run once for each of
//
//   validate   {}                                   is the value one that can be made?
//   key        {"key": TEXT}                        values with one key have one layer; {}: the
//   value build      {"made": [PATH...]}                  fill the folder `layer`; what is said to
//   be made
//                                                   must be there
//   launch     {"env": {NAME: TEXT}, "prefix": [WORD...], "at": [DIR...]}
//
// with one JSON object on stdin, and answers by one on stdout, 1 MiB at most:
//
//   {"version": 1, "op", "field": its name, "value": any JSON, "layer": DIR (build, launch)}
//
// All of an answer may be left out: `{}` is one for every operation. {"error": TEXT, "cure": TEXT}
// refuses, whatever the exit status; a status other than 0 without one is an error with the end of
// stderr. For shells, RTLAUNCH_VALUE is the value (a string without its quotes), RTLAUNCH_LAYER the
// folder.
//
// launch: the layer is mounted read-only where the command runs, and `${LAYER}` in env and prefix
// is its place. `env` is set after the user's env_vars, which it may name (`${LAYER}/bin:${PATH}`).
// `prefix` goes before the command, and must exec it: a worker of Ray's is known by its pid. `at`:
// directories of the host that the layer is mounted over as well.
//
// Where it runs: in the sandbox of builds (as setup.py does), without anything of the caller's: its
// own user, home and /tmp, and the system's programs. Its network reaches the
// hosts of the URLs that the value names. It is run only when there is no record for its program's
// content and the value, so it should be a function of these. What it leaves is cleaned like any
// layer, and collected like any. All operations together have config.setup_timeout_seconds.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/allowed.h"
#include "installers/fetch.h"
#include "installers/progress.h"
#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

inline constexpr char kPluginFolder[] = "/etc/rtlaunch/plugins";

// --- warm half ---

// Those of RTLAUNCH_PLUGINS, and at last the administrator's, in which all must be root's.
std::vector<std::string> plugin_folders(const std::map<std::string, std::string>& variables);
// What is in them that may be a plugin, by its name.
std::vector<std::string> plugin_names(const std::vector<std::string>& folders);

struct Plugin {
  std::string name, path;
  std::string content;  // SHA-256 of the program
  std::string called;   // in errors

  // What only one of ours has (uv_run.h).
  struct Shown {
    std::string path, at;  // the caller's, opened with his rights; where it lies in the sandbox
  };
  // Texts with URLs, whose hosts its network reaches, and pages of indexes, which lead to more
  // (gate.h). Where a policy bounds what may be fetched from, all that is fetched has to be
  // allowed, and what is mentioned doesn't count.
  struct Reached {
    std::string fetched, mentioned;
    std::vector<std::string> fetched_pages, mentioned_pages;
  };
  std::string interpreter = {};         // that the program is started with
  std::vector<Shown> shown = {};        // files and folders
  std::vector<std::string> own = {};    // folders of its own, empty and writable, at these places
  std::optional<Reached> reached = {};  // nothing: what its value names
};
// Absolute, and nothing in it leads back.
bool is_a_place(const std::string& path);

// In the first folder that has it. EPERM: somebody else could have written it.
Result<Plugin> find_plugin(const std::string& name, const std::vector<std::string>& folders);
store::Key plugin_key(const Plugin& plugin, const std::string& value);

// How a command is started with it, of its record.
struct PluginLaunch {
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<std::string> prefix, at;
};
Result<PluginLaunch> plugin_launch(const store::Record& record);
// The word with the place of its layer.
std::string with_layer(const std::string& word, const std::string& layer);

// --- build half ---

// Publishes one layer and records it (kind "plugin"). The caller holds store.lock(key).
Result<store::Record> make_plugin_layer(const Plugin& plugin, const std::string& value,
                                        const store::Key& key, const config::Allowed& allowed,
                                        store::Store& store, Progress& progress, Deadline deadline);

}  // namespace rtlaunch::installers
