// The quick way to a packages layer: resolve (uv, without running package code), download what
// the store doesn't have, one layer a wheel, then glue and masks. Everything that is out of the
// ordinary is left to capture.h.
//
//   auto made = TRY(compose(job));
//   if (!made) made = TRY(capture(job));
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "installers/bytecode.h"
#include "installers/conflicts.h"
#include "installers/mask.h"
#include "installers/pip.h"
#include "installers/requirement.h"
#include "installers/uv.h"

namespace rtlaunch::installers {

// What one build is about; borrowed for its time.
struct Job {
  const config::Packages& packages;
  const Interpreter& python;
  const PackagesContext& context;
  const store::Key& key;
  store::Store& store;
  Progress& progress;
  const Uv& uv;
  const std::vector<Requirement>& requirements;
  std::string field;  // "pip" or "uv"
};

// What was made: layers by mount point, top first, leased; and what its record says beside.
struct Made {
  struct Mount {
    std::string target;
    std::vector<store::Digest> layers;
  };
  std::vector<Mount> mounts;
  std::vector<store::Digest> compile;  // layers with modules that want bytecode
  BytecodeLayers bytecode;             // of them, as far as it is there
  bool bytecode_complete = false;
  std::vector<NewDistribution> packages;
  std::vector<Conflict> conflicts;  // that were allowed
  std::vector<store::Lease> leases;
  std::string way;  // "compose", "capture"
};

// Nothing: capture must do it. Errors: those of resolving, conflicts, downloads, the disk.
Result<std::optional<Made>> compose(const Job& job);

// The base's distributions that have to go, visible or shadowed, for what comes in.
Result<std::vector<Distribution>> replaced_by(const std::vector<NewDistribution>& added,
                                              const Interpreter& python, const store::Store& store);
// Publishes the mask of each mount point and puts it lowest there.
Status add_masks(const Job& job, const Masks& masks, Made& made);
// Below the record's: the layer lists of `made`, index by index.
store::Record to_record(const Job& job, const Made& made);

// Publishes a staging whose manifest is unfinished; the lease goes to `made`.
Result<store::Digest> publish_layer(const Job& job, store::Staging staging,
                                    store::Manifest& manifest, const store::LayerInfo& info,
                                    Made& made);

}  // namespace rtlaunch::installers
