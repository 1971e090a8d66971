// How much may be used, how much is spoken for, and what to do when it is too little.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>

#include "installers/store/failpoint.h"
#include "installers/store/house.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::store {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

std::string human(uint64_t bytes) {
  char text[32];
  if (bytes >= kGiB) {
    std::snprintf(text, sizeof text, "%.1f GiB",
                  static_cast<double>(bytes) / static_cast<double>(kGiB));
  } else {
    std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  }
  return text;
}

uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

// "<bytes> <files>\n"
bool parse_reservation(std::string_view text, House::Reserved& reserved) {
  auto [middle, first] = std::from_chars(text.data(), text.data() + text.size(), reserved.bytes);
  if (first != std::errc() || middle == text.data() + text.size() || *middle != ' ') return false;
  auto [end, second] = std::from_chars(middle + 1, text.data() + text.size(), reserved.files);
  return second == std::errc();
}

// What is missing for `bytes` and `files` more.
House::Goal shortfall(const House::Bounds& bounds, const House::Reserved& others, uint64_t bytes,
                      uint64_t files) {
  House::Goal goal;
  goal.bytes = less(bytes + others.bytes + bounds.min_free, bounds.space.free);
  if (bounds.space.files_total > 0) {
    goal.files = less(files + others.files + bounds.min_files, bounds.space.files_free);
  }
  return goal;
}

std::string largest(std::vector<Store::LayerRow> rows) {
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  std::string text;
  for (size_t i = 0; i < rows.size() && i < 3; i++) {
    const std::string& name = rows[i].info.name;
    text += (i == 0 ? "; largest layers: " : ", ") +
            (name.empty() ? rows[i].digest.hex.substr(0, 12) : name) + " " + human(rows[i].bytes);
  }
  return text;
}

}  // namespace

Result<House::Bounds> House::bounds() const {
  Bounds bounds;
  bounds.space = TRY(sys::space_of(dir(), store_.path_));
  Limits limits = TRY(store_.limits());
  bounds.max_bytes = limits.max_bytes;
  bounds.min_free = limits.min_free;
  bounds.max_files = limits.max_files;
  bounds.max_age = limits.max_age_seconds;
  bounds.min_files = bounds.space.files_total / 20;
  return bounds;
}

// Down to nine tenths of what is allowed, so that the next build doesn't collect again.
Result<House::Goal> House::over_limits() {
  Bounds bounds = TRY(this->bounds());
  Index* known = TRY(store_.index());
  Index::Sum sum = TRY(known->sum());
  Goal goal;
  if (sum.bytes > bounds.max_bytes) goal.bytes = sum.bytes - bounds.max_bytes / 10 * 9;
  if (bounds.max_files > 0 && sum.files > bounds.max_files) {
    goal.files = sum.files - (bounds.max_files - bounds.max_files / 10);
  }
  if (bounds.space.free < bounds.min_free) {
    goal.bytes = std::max(goal.bytes, bounds.min_free / 10 * 11 - bounds.space.free);
  }
  if (bounds.space.files_total > 0 && bounds.space.files_free < bounds.min_files) {
    goal.files = std::max(goal.files, bounds.min_files / 10 * 11 - bounds.space.files_free);
  }
  return goal;
}

Result<House::Reserved> House::reserved_by_others(const std::string& own_uuid, bool exactly) const {
  Reserved sum;
  UniqueFd tmp = TRY(sys::open_at(dir(), "tmp", O_RDONLY | O_DIRECTORY));
  for (const std::string& name : TRY(sys::list_dir(tmp.get()))) {
    if (!name.ends_with(".lock") || name == own_uuid + ".lock") continue;
    auto lock = sys::open_at(tmp.get(), name, O_RDONLY | O_NOFOLLOW);
    if (!lock || TRY(sys::try_lock_file(lock->get(), sys::Lock::kShared, name))) continue;  // dead
    auto text = sys::read_all(lock->get(), name, 4096);
    Reserved one;
    if (!text || !parse_reservation(*text, one)) continue;
    std::string uuid = name.substr(0, name.size() - 5);
    sum.bytes += exactly ? less(one.bytes, disk_usage(tmp.get(), uuid)) : one.bytes;
    sum.files += one.files;
  }
  return sum;
}

Status Store::reserve(const Staging& staging, uint64_t bytes, uint64_t files) {
  sys::AsRoot root;
  TRY(writable("reserve"));
  House house(*this);
  UniqueFd lock = TRY(lock_name("locks/reserve", {}));
  House::Bounds bounds = TRY(house.bounds());
  // The quick sum counts what others have already written twice; look closer only when it matters.
  House::Reserved others = TRY(house.reserved_by_others(staging.uuid_, /*exactly=*/false));
  House::Goal missing = shortfall(bounds, others, bytes, files);
  if (!missing.none()) {
    others = TRY(house.reserved_by_others(staging.uuid_, /*exactly=*/true));
    TRY(sys::unlink_at(dir_.get(), "reserve"));  // the index may need room to collect
    TRY(sweep());
    bounds.space = TRY(sys::space_of(dir_.get(), path_));
    missing = shortfall(bounds, others, bytes, files);
  }
  if (!missing.none()) {
    TRY(house.free_up(missing, /*dry_run=*/false));
    bounds.space = TRY(sys::space_of(dir_.get(), path_));
    missing = shortfall(bounds, others, bytes, files);
  }
  if (!missing.none()) {
    std::string reason = "needs " + human(bytes) + " (" + std::to_string(files) + " files), " +
                         human(bounds.space.free) + " are free, of which " +
                         human(bounds.min_free + others.bytes) + " must stay" +
                         largest(TRY(house.rows()));
    return Error{
        "reserve",
        ENOSPC,
        path_,
        reason,
        "make room on that disk, end workers that hold layers (rtlaunch store ls), or choose "
        "a larger disk with --store",
        125};
  }
  TRY(failpoint("reserve.fits"));
  std::string text = std::to_string(bytes) + " " + std::to_string(files) + "\n";
  TRY(sys::write_over(staging.lock_.get(), text, "reservation"));
  if (!sys::exists_at(dir_.get(), "reserve")) {
    auto reserve = sys::open_at(dir_.get(), "reserve", O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (reserve) (void)sys::preallocate(reserve->get(), kReserve, "reserve").ok();
  }
  return {};
}

}  // namespace rtlaunch::store
