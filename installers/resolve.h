// What an environment would change in the base, and from which wheels: asked of uv once and then
// remembered as a record (kind "lock"), for the same question has the same answer however often it
// is asked, and resolving can cost more than all the rest.
//
//   auto resolution = TRY(resolve(requirements, uv, key, store, progress));
//   if (!resolution) ...   // something that wheels alone can't answer: capture
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "installers/progress.h"
#include "installers/requirement.h"
#include "installers/store/store.h"
#include "installers/uv.h"

namespace rtlaunch::installers {

struct Change {
  std::string name, version;  // name normalized; no version of what comes by a URL or path
  auto operator<=>(const Change&) const = default;
};

struct LockedWheel {
  std::string name, version;  // as in Change
  std::string filename;
  std::string url;  // without credentials; or "file:///…" of a find-links folder
  std::string sha256;
  uint64_t size = 0;  // 0: unknown
};

struct Resolution {
  std::vector<Change> removed;      // what the base has and the environment will not
  std::vector<LockedWheel> wheels;  // what comes in, by name
};

// Nothing: something must be built from source, or uv answers in a way that is not known; the
// reason is a "resolve" event. Errors: there is no solution; the network; the deadline. What goes
// on meanwhile may be nullptr.
Result<std::optional<Resolution>> resolve(const std::vector<Requirement>& requirements,
                                          const Uv& uv, const store::Key& key, store::Store& store,
                                          Progress& progress,
                                          const Uv::Meanwhile* meanwhile = nullptr);

// --- its parts, for tests ----------------------------------------------------------------------

struct Changes {
  std::vector<Change> removed, added;
};
Result<Changes> parse_plan(const std::string& json);
// Of each package the wheel that uv would take on this Python. Errors: one has none; no hash.
Result<std::vector<LockedWheel>> parse_lock(const std::string& toml, const std::string& version);
// Which of two compatible wheels uv prefers: greater is better.
std::vector<int> wheel_rank(const std::string& filename, const std::string& version);

}  // namespace rtlaunch::installers
