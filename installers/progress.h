// What a build tells whoever waits for it. Installers call report(); the launcher turns it into a
// live line, plain lines or JSON. Nothing here may hold a secret.
#pragma once

#include <cstdint>
#include <string>

namespace rtlaunch {

struct Event {
  std::string layer;  // "pip", "working_dir", "py_modules"
  std::string phase;  // "wait", "resolve", "download", "unpack", "build", "publish", "warning", ...
  std::string object;            // package or file; for a warning, its text
  uint64_t done = 0, total = 0;  // bytes; total 0 when unknown
};

class Progress {
 public:
  virtual ~Progress() = default;
  virtual void report(const Event& event) = 0;
};

}  // namespace rtlaunch
