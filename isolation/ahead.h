// A sandbox of which pid 1 is made before it is known what for: its namespaces, and all in it that
// depends on no Spec, come about beside whatever the launcher still has to find out.
//
//   Result<Ahead> ahead = Ahead::begin([&] { return [&](Spec* spec) { return hold(spec); }; });
//   ... plan ...
//   bool told = Ahead::fits(spec) && ahead->tell(spec);
//   Sandbox sandbox = TRY(told ? ahead->finish() : start(spec));
//
// What is said of start() in sandbox.h holds for begin(). Who is never started ends with the
// object, or with the launcher.
#pragma once

#include <functional>

#include "isolation/launch.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

class Ahead {
 public:
  // In pid 1, which has a copy of all our memory: prepare() beside us, what it returns once the
  // Spec is there.
  using Finish = std::function<Status(Spec*)>;
  using Prepare = std::function<Finish()>;
  static Result<Ahead> begin(const Prepare& prepare);
  Ahead(Ahead&&) noexcept = default;
  Ahead& operator=(Ahead&&) = delete;
  ~Ahead();

  // Whether `spec` asks for nothing that has to be known at the clone, and can be sent.
  static bool fits(const Spec& spec);
  // Once, for what fits(). An Error: it hasn't heard of the Spec, nothing has begun.
  Status tell(const Spec& spec);
  // After that, what start() is after its clone.
  Result<Sandbox> finish();

 private:
  explicit Ahead(Launch launch) : launch_(std::move(launch)) {}
  Launch launch_;
};

}  // namespace rtlaunch::isolation
