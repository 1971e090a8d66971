// Log files as Ray's dashboard and log monitor read them: lines "time\tLEVEL file:line -- text",
// rotated as Python's RotatingFileHandler does (name, name.1, name.2, ...).
//
//   SetupLog log(folder, rotation, job_id, {"mine.log"});   // for one setup; closed at its end
//   log.info("pip: download numpy");
//
// A log that can't be written is no reason to fail: lines are dropped. What is written is cleaned
// of line breaks and control characters by nobody: say nothing that isn't to be read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/unique_fd.h"

namespace rtlaunch::ray {

struct Rotation {
  uint64_t bytes = 512ull << 20;  // 0: never
  uint64_t count = 5;
};

class RotatingFile {
 public:
  RotatingFile(std::string path, Rotation rotation);  // opened, or not
  void write(std::string_view line);                  // with its line break

 private:
  void open();
  void rotate();

  std::string path_;
  Rotation rotation_;
  UniqueFd fd_;
  uint64_t size_ = 0;
};

enum class LogLevel { kInfo, kWarning, kError };

// "2026-01-31 12:00:00,123\tINFO maker.cc:1 -- text\n" for now. Line breaks in the text stay.
std::string log_line(LogLevel level, std::string_view text);

class SetupLog {
 public:
  // runtime_env_setup-<job>.log and `more`, whose names must be plain ones: another is told in the
  // log. Ids of jobs come from outside; what can't be in a file's name becomes `_`.
  SetupLog(const std::string& folder, Rotation rotation, const std::string& job,
           const std::vector<std::string>& more);
  void write(LogLevel level, std::string_view text);
  void info(std::string_view text) { write(LogLevel::kInfo, text); }

 private:
  std::vector<RotatingFile> files_;
};

}  // namespace rtlaunch::ray
