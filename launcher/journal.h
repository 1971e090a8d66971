// What happened, one line of JSON an event: {"time", "level", "event", "request", "worker", "uid",
// ...}. Each line goes three ways: to the sink (stderr, which is the journal's under systemd), to a
// bounded ring that `logs` answers from, and to RUNTIME/log, so that the ring survives a restart.
// Nothing here waits: what can't be written is dropped and counted. Owned by the daemon's one
// thread.
//
//   journal.say(Level::kInfo, "started", {.worker = id, .uid = 1000, .more = {{"pid", 17}}});
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

enum class Level { kDebug, kInfo, kWarning, kError };
const char* name_of(Level level);
Result<Level> parse_level(const std::string& name);

struct Facts {
  std::string worker = {}, request = {};
  std::optional<uid_t> uid = {};  // whose event it is; without, only root sees it in `logs`
  std::vector<std::pair<const char*, std::variant<int64_t, std::string>>> more = {};
};
Facts facts_of(const Error& error, Facts facts = {});  // step, object, reason and errno added

class Journal {
 public:
  using Sink = std::function<void(Level, std::string_view line)>;
  static constexpr size_t kRingBytes = 1 << 20, kRingLines = 8192, kLongestLine = 4000;
  static constexpr uint64_t kFileBytes = 4 << 20;  // of each of two files

  explicit Journal(Sink sink) : sink_(std::move(sink)) {}
  // Reads what `folder` has of earlier days, and appends to it from now on. Called again (SIGHUP,
  // or the folder was removed), it only opens anew.
  Status keep_in(const std::string& folder);
  void say(Level level, const char* event, const Facts& facts = {});

  struct Entry {
    uint64_t number = 0;  // without gaps, for whoever follows
    std::optional<uid_t> uid;
    std::string worker, line;
  };
  const std::deque<Entry>& entries() const { return ring_; }
  uint64_t next_number() const { return next_; }
  void on_entry(std::function<void()> heard) { heard_ = std::move(heard); }

 private:
  void read_back(const std::string& name);
  void keep(Entry entry);
  void write_down(const std::string& line);
  Sink sink_;
  std::function<void()> heard_;
  std::deque<Entry> ring_;
  size_t ring_bytes_ = 0;
  uint64_t next_ = 0;
  UniqueFd folder_, file_;
  uint64_t written_ = 0;
};

// CLOCK_REALTIME in microseconds since 1970.
int64_t wall_microseconds();

}  // namespace rtlaunch
