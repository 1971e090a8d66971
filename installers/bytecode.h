// Bytecode as layers of its own: one for each layer with modules, once per Python magic, shared
// like the layer itself. A record lists those of its layers that are complete and those that hold
// only what a first import needs (first_import.h); the latter are replaced in the background
// (make_bytecode in pip.h).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "installers/python.h"
#include "installers/store/store.h"

namespace rtlaunch::installers {

// By layer (hex), its bytecode layer; nothing when it has no modules.
using BytecodeLayers = std::map<std::string, std::optional<store::Digest>>;

// "lib/a.py" → "lib/__pycache__/a.cpython-311.pyc".
std::string bytecode_path(const std::string& source, const Interpreter& python);

// True when the store has the layer's complete bytecode: then it is leased and in `known`.
Result<bool> find_bytecode(const store::Digest& layer, const Interpreter& python,
                           const store::Store& store, BytecodeLayers& known,
                           std::vector<store::Lease>& leases);

// The record with these bytecode layers instead of any it had: above all modules (whose order they
// keep), below the glue; where a layer holds modules and scripts at once (capture), right above it.
store::Record with_bytecode(const store::Record& before, const BytecodeLayers& layers,
                            bool complete);

}  // namespace rtlaunch::installers
