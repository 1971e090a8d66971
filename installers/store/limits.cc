// What may be used, and how an administrator changes that while daemons, builders and launchers
// run: a small file that every collector reads before it decides. Nobody has to be told.
#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "installers/store/internal.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr int64_t kDefaultAge = 90 * 24 * 3600;
constexpr uint64_t kMost = uint64_t{1} << 60;

constexpr char kFile[] = "limits";

template <typename T>
std::optional<T> get(const Json& json, const char* name) {
  auto found = json.find(name);
  if (found == json.end() || !found->is_number_integer() || *found < 0) return std::nullopt;
  return found->get<T>();
}

LimitsChange parse_limits(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return {};
  return {get<uint64_t>(json, "max_bytes"), get<uint64_t>(json, "min_free"),
          get<uint64_t>(json, "max_files"), get<int64_t>(json, "max_age_seconds")};
}

std::string limits_text(const LimitsChange& limits) {
  Json json = Json::object();
  if (limits.max_bytes) json["max_bytes"] = *limits.max_bytes;
  if (limits.min_free) json["min_free"] = *limits.min_free;
  if (limits.max_files) json["max_files"] = *limits.max_files;
  if (limits.max_age_seconds) json["max_age_seconds"] = *limits.max_age_seconds;
  return json.dump() + "\n";
}

// Damaged or missing: nothing was changed.
LimitsChange written(int store) {
  auto text = sys::read_file_at(store, kFile, 64 << 10);
  return text ? parse_limits(*text) : LimitsChange();
}

template <typename T>
void keep_or_change(std::optional<T>& now, const std::optional<T>& change) {
  if (change) now = *change == 0 ? std::nullopt : change;
}

Status check(const LimitsChange& change, uint64_t total) {
  if (change.min_free.value_or(0) > total / 2) {
    return make_error("limits", "min_free", "is more than half of the disk",
                      "give less than " + std::to_string(total / 2) + " bytes");
  }
  for (const auto& bytes : {change.max_bytes, change.max_files}) {
    if (bytes.value_or(0) > kMost) return make_error("limits", "", "is too large", "give less");
  }
  if (change.max_age_seconds.value_or(0) < 0) {
    return make_error("limits", "max_age", "is negative", "give seconds, or 0 for the default");
  }
  return {};
}

}  // namespace

Result<Limits> Store::limits() const {
  sys::AsRoot root;
  sys::Space space = TRY(sys::space_of(dir_.get(), path_));
  LimitsChange changed = written(dir_.get());
  Limits limits = limits_;
  limits.max_bytes = changed.max_bytes.value_or(limits.max_bytes);
  limits.min_free = changed.min_free.value_or(limits.min_free);
  limits.max_files = changed.max_files.value_or(limits.max_files);
  limits.max_age_seconds = changed.max_age_seconds.value_or(limits.max_age_seconds);
  if (limits.max_bytes == 0) limits.max_bytes = std::max(space.total / 10 * 4, 10 * kGiB);
  if (limits.min_free == 0) {
    limits.min_free = std::min(std::max(space.total / 100 * 3, 5 * kGiB), space.total / 10);
  }
  if (limits.max_age_seconds == 0) limits.max_age_seconds = kDefaultAge;
  return limits;
}

Status Store::change_limits(const LimitsChange& change) {
  sys::AsRoot root;
  TRY(writable("limits"));
  sys::Space space = TRY(sys::space_of(dir_.get(), path_));
  TRY(check(change, space.total));
  UniqueFd lock = TRY(lock_name("locks/limits", {}));
  LimitsChange now = written(dir_.get());
  keep_or_change(now.max_bytes, change.max_bytes);
  keep_or_change(now.min_free, change.min_free);
  keep_or_change(now.max_files, change.max_files);
  keep_or_change(now.max_age_seconds, change.max_age_seconds);
  return sys::replace_file_at(dir_.get(), kFile, limits_text(now), 0600);
}

}  // namespace rtlaunch::store
