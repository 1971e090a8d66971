// Does what comes in break what is there? Base packages whose needs were met before and would not
// be afterwards refuse the environment before any wheel is downloaded. Evaluated by the base's own
// interpreter with the `packaging` library, so markers and versions are exactly Python's.
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
};

// `added` with what it replaces in uv.base(). Empty: none.
Result<std::vector<Conflict>> find_conflicts(const std::vector<NewDistribution>& added,
                                             const Uv& uv, const Interpreter& python,
                                             const std::string& tools);

// The same as an error that names both requirers; `field` is "pip" or "uv". What
// RTLAUNCH_KEEP_VERSION_OF names in the caller's environment (Ray's agent says ray) must stay as it
// is in the base, whatever conflicts are allowed.
Status refuse_conflicts(const std::vector<NewDistribution>& added,
                        const std::vector<Requirement>& requirements, const Uv& uv,
                        const Interpreter& python, const PackagesContext& context,
                        const std::string& field);

// The same question to what is pinned by the lines themselves, before anything is resolved.
Status refuse_pins(const std::vector<Requirement>& requirements, const Uv& uv,
                   const PackagesContext& context);

// pip_check and uv_check: `uv pip check` on what the environment would have. All metadata known.
Status check_consistency(const std::vector<NewDistribution>& added, const Uv& uv,
                         const Interpreter& python, const store::Store& store,
                         const std::string& field);

}  // namespace rtlaunch::installers
