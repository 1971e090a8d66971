// Two clocks, and what is believed of the one that people can set. See hold.cc and README.md.
#include <algorithm>
#include <charconv>
#include <ctime>

#include "installers/store/internal.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

constexpr int64_t kSlack = 3600;  // of a clock that is set right bit by bit

int64_t seconds_of(clockid_t clock) {
  struct timespec time = {};
  ::clock_gettime(clock, &time);
  return time.tv_sec;
}

// A number and what stands behind it.
bool take_number(std::string_view& text, int64_t& number) {
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code != std::errc() || end == text.data() + text.size()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()) + 1);
  return true;
}

}  // namespace

Clock clock_now() {
  return {sys::boot_id(), seconds_of(CLOCK_BOOTTIME), seconds_of(CLOCK_REALTIME)};
}

std::string boot_text(const Clock& clock) {
  return clock.boot + "\n" + std::to_string(clock.since_boot) + " " + std::to_string(clock.wall) +
         "\n";
}

std::optional<Clock> read_boot(int store) {
  auto text = sys::read_file_at(store, "boot", 4096);
  size_t end = text ? text->find('\n') : std::string::npos;
  if (end == std::string::npos) return std::nullopt;
  Clock clock{text->substr(0, end), 0, 0};
  std::string_view rest = std::string_view(*text).substr(end + 1);
  if (!take_number(rest, clock.since_boot) || !take_number(rest, clock.wall)) {
    clock.since_boot = clock.wall = 0;
  }
  return clock;
}

int64_t believed_now(int store) {
  Clock now = clock_now();
  auto first = read_boot(store);
  if (!first || first->wall == 0 || first->boot != now.boot) return now.wall;
  return std::min(now.wall, first->wall + (now.since_boot - first->since_boot) + kSlack);
}

}  // namespace rtlaunch::store
