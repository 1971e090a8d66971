// Everything rtlaunch says to whoever started it, on stderr: errors (one line of cause, one of
// cure), progress while layers are made, one line at the end of a cold run. Nothing on a warm one.
//
// Three voices: a live line per layer on a terminal, plain lines elsewhere, JSON lines with --json.
// Whatever is said passes redact() first, so that no secret is printed even when an error carries
// one: values of env_vars, and the user:password part of URLs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "installers/progress.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

enum class Voice { kLive, kPlain, kJson };

int64_t now_microseconds();  // CLOCK_MONOTONIC

class Report : public Progress {
 public:
  explicit Report(Voice voice) : voice_(voice) {}
  ~Report() override { clear(); }

  // kJson when asked for, else kLive when stderr is a terminal.
  static Voice voice_for(bool json);
  void hide(const std::vector<std::pair<std::string, std::string>>& env_vars);

  void report(const Event& event) override;
  void layer_done(const std::string& layer);
  void error(const Error& error);
  void note(const std::string& kind, const std::string& text);  // one line; kind is JSON's "event"
  void clear();                                                 // takes the live lines away

  // "pip 1.74 s (resolve 0.41, download 0.52, unpack 0.81), working_dir 0.02 s"; "" when nothing
  // was made.
  std::string where_time_went() const;
  std::string redact(std::string text) const;

 private:
  struct Layer {
    Event last;
    int64_t started = 0, phase_started = 0, ended = 0;
    std::vector<std::pair<std::string, int64_t>> phases;  // microseconds, in order of appearance
  };
  void enter_phase(Layer& layer, const std::string& phase, int64_t now);
  void draw(bool at_once);
  void say(const std::string& line);

  Voice voice_;
  std::vector<std::string> secrets_;
  std::vector<std::string> order_;
  std::map<std::string, Layer> layers_;
  int drawn_ = 0;
  int64_t drawn_at_ = 0;
};

std::string human_bytes(uint64_t bytes);          // "64.6 MB"
std::string human_seconds(int64_t microseconds);  // "1.74 s", "3.1 ms"

}  // namespace rtlaunch
