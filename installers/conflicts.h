// Does what comes in break what is there? Base packages whose needs were met before and would not
// be afterwards refuse the environment before any wheel is downloaded. Evaluated by the base's own
// interpreter with the `packaging` library, so markers and versions are exactly Python's.
//
// For a Ray worker (RTLAUNCH_KEEP_VERSION_OF=ray among the caller's variables) only what would
// break Ray itself refuses: ray's requirements without extras, and theirs. Other broken packages
// are told to whoever asks for the environment, each time; pip_check refuses them.
#pragma once

#include <string>
#include <vector>

#include "installers/requirement.h"
#include "installers/resolve.h"
#include "installers/uv.h"

namespace rtlaunch::installers {

struct NewDistribution {
  std::string name, version;  // name normalized
  std::string metadata;       // METADATA's text; "" when it isn't known yet
};

struct Conflict {
  std::string requirer, requirer_version;  // in the base
  std::string requirement;                 // "requests>=2.30.0"
  std::string name, version;               // what comes in instead
  bool fatal = false;                      // what must be kept whole needs it
};

// `added` with what it replaces in uv.base(). Empty: none. `kept`: the name of what must be kept
// whole, else all of the base must.
Result<std::vector<Conflict>> find_conflicts(const std::vector<NewDistribution>& added,
                                             const Uv& uv, const Interpreter& python,
                                             const std::string& tools, const std::string& kept);

// The fatal ones as an error that names both requirers, and the others; `field` is "pip" or "uv".
// What RTLAUNCH_KEEP_VERSION_OF names must stay as it is in the base, whatever else is allowed.
Result<std::vector<Conflict>> refuse_conflicts(const std::vector<NewDistribution>& added,
                                               const std::vector<Requirement>& requirements,
                                               const Uv& uv, const Interpreter& python,
                                               const PackagesContext& context,
                                               const std::string& field);

// "protobuf 7.1 ... in the base needs x>=2, but you ask for x==1": one that was allowed. `added`
// with its metadata, as far as it is known.
std::string describe_conflict(const Conflict& conflict, const std::vector<NewDistribution>& added,
                              const std::vector<Requirement>& requirements);

// The same question to what is pinned by the lines themselves, before anything is resolved.
Status refuse_pins(const std::vector<Requirement>& requirements, const Uv& uv,
                   const PackagesContext& context);

// pip_check and uv_check: `uv pip check` on what the environment would have. All metadata known.
Status check_consistency(const std::vector<NewDistribution>& added, const Uv& uv,
                         const Interpreter& python, const store::Store& store,
                         const std::string& field);

}  // namespace rtlaunch::installers
