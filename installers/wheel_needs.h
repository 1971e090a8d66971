// What a wheel that is a py_module says it requires (Requires-Dist of its METADATA, PEP 566): it
// joins the lines of pip or uv, so that it is installed on top of the same interpreter, shared and
// held to the base's as any package is. The wheel itself stays a py_module, on PYTHONPATH.
//
//   record.data = TRY(wheel_needs_data(staging.tree(), source.shown));   // build half
//   for (const std::string& line : wheel_needs(record)) ...              // warm half
#pragma once

#include <string>
#include <vector>

#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// Of what was unpacked into `tree`. Errors: a line that is no requirement of a package, but an
// option or a path; more than a record should hold.
Result<std::string> wheel_needs_data(int tree, const std::string& shown);

// Empty for a record of anything else.
std::vector<std::string> wheel_needs(const store::Record& record);

// --- a part, for tests ---
Result<std::vector<std::string>> needs_in(const std::string& metadata, const std::string& shown);

}  // namespace rtlaunch::installers
