#include <cstdlib>

#include "config/fuzz_testing.h"
#include "isolation/spec_wire.h"

namespace rtlaunch::isolation {
namespace {

std::string example() {
  Spec spec;
  spec.argv = {"python", "main.py"}, spec.env = {"A=b"}, spec.cwd = "/x", spec.hidden = {"/h"};
  spec.overlays.emplace_back();
  spec.overlays[0].target = "/usr", spec.overlays[0].lowers = {"/store/a", "/store/b"};
  spec.binds.push_back({.source = "/a", .target = "/b"});
  spec.controls = Controls::of(FilterBase::kMl);
  spec.controls.ports = {Want::kPrefer, {443}, {80}};
  spec.network = Network::kEgress;
  spec.destinations = {{"10.0.0.0/8", 1, 443}};
  return encode(spec);
}

// What is taken is one thing, however often it is written.
const FuzzTarget kSpec(
    "spec", [] { return Seeds{example()}; },
    [](std::string_view input) {
      Result<Spec> spec = decode(input);
      if (!spec) return;
      std::string once = encode(*spec);
      Result<Spec> again = decode(once);
      if (!again || encode(*again) != once) std::abort();
    });

}  // namespace
}  // namespace rtlaunch::isolation
