// An environment as a record (kind "env"): what `env ls` shows, and all that `exec` needs to mount
// it again: it stands alone, so that a hold or pin of its layers is enough to keep it. `layers` are
// those of the fields, in order; `data` is
//   {"fields": {NAME: {"key", "name", "layers": how many, "bytecode": is there,
//                      "image", "facts": of an image's record,
//                      "plugin": how a command is started with it, "source", "kind", "path",
//                      "mounts": [[TARGET, [number of a layer...]]...],
//                      "variables": [[NAME, VALUE]...] that conda's packages set}},
//    "env_vars": [NAME...], "python", "python_mounts": [PATH...], "scripts"}
// Values of variables are in no record: whoever starts a command brings them.
#pragma once

#include "installers/plan.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

store::Record environment_record(const installers::PlanRequest& request,
                                 const installers::Plan& plan);

// Of a complete plan. Nothing of `known` but the names of variables is taken over.
store::Record environment_record(const store::Record& known, const installers::Plan& plan);

// The plan that the record was made of, as far as mounting needs it.
Result<installers::Plan> plan_of(const store::Record& record);

// Keys of the fields that have layers.
std::vector<store::Key> keys_of(const installers::Plan& plan);

}  // namespace rtlaunch
