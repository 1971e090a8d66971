// What a policy means for one request: control by control, with the rule that each is from. The
// same as text and as JSON; a launch reports in the same words (launcher/shield.h).
#pragma once

#include <string>
#include <vector>

#include "config/policy.h"

namespace rtlaunch::config {

// {"profile", "chosen_by", "rules", "choose", "controls": {NAME: {"value", "text", "from"}},
//  "allow": {KEY: {"list", "from"}}, "every_worker": {"value", "from"}}
Json verdict_json(const Verdict& verdict);
// The same for people, a line a control. `all`: those too that nobody has set.
std::string verdict_text(const Verdict& verdict, bool all);

// A line for each control in which the two differ: {name, a, b}.
struct Difference {
  std::string control, before, after;
};
std::vector<Difference> differences(const Profile& a, const Profile& b);

// An OCI runtime's config.json (1.1.0) that comes nearest: namespaces, mounts, capabilities,
// limits. What OCI has no word for is named in its annotations.
Json oci_config(const Profile& profile, uid_t uid, gid_t gid);

}  // namespace rtlaunch::config
