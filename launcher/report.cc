#include "launcher/report.h"

#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "isolation/sys/files.h"
#include "launcher/table.h"

namespace rtlaunch {
namespace {

constexpr size_t kShortestSecret = 4;  // "1" or "yes" can't be hidden without hiding all else
constexpr int64_t kRedrawEvery = 50'000;

using Json = nlohmann::ordered_json;

void hide_all(std::string& text, const std::string& secret) {
  for (size_t at = text.find(secret); at != std::string::npos; at = text.find(secret, at + 3)) {
    text.replace(at, secret.size(), "***");
  }
}

// https://user:password@host → https://***@host
void hide_url_credentials(std::string& text) {
  for (size_t at = text.find("://"); at != std::string::npos; at = text.find("://", at + 3)) {
    size_t end = text.find_first_of("/ \t\n\"'<>", at + 3);
    size_t sign = text.rfind('@', end == std::string::npos ? text.size() : end);
    if (sign != std::string::npos && sign > at + 3) text.replace(at + 3, sign - at - 3, "***");
  }
}

size_t terminal_width() {
  struct winsize size = {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 80;
  return size.ws_col;
}

std::string describe(const Event& event) {
  std::string text = event.phase;
  if (!event.object.empty()) text += " " + event.object;
  if (event.total > 0) {
    text += "  " + human_bytes(event.done) + " of " + human_bytes(event.total);
  } else if (event.done > 0) {
    text += "  " + human_bytes(event.done);
  }
  return printable(text);
}

Json error_json(const Error& error, const std::string& text, const std::string& cure) {
  Json json = {{"event", "error"}, {"step", error.step}, {"errno", error.code},
               {"message", text},  {"cure", cure},       {"exit_code", error.exit_code}};
  return json;
}

std::string default_cure(const Error& error) {
  switch (error.code) {
    case ENOSPC:
    case EDQUOT:
      return "free some space (rtlaunch store gc), or put the store elsewhere with --store";
    case EROFS:
      return "choose a store on a writable file system with --store";
    case EACCES:
    case EPERM:
      return "check the permissions of what is named above, or run as a user who may";
    case ENOENT:
      return "check the name";
    case EMFILE:
    case ENFILE:
      return "raise the limit on open files (ulimit -n)";
    case ENOMEM:
      return "free some memory";
    default:
      return "run again; if it stays, report it with the line above";
  }
}

}  // namespace

int64_t now_microseconds() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000 + now.tv_nsec / 1000;
}

std::string human_bytes(uint64_t bytes) {
  char text[32];
  if (bytes < 1000) {
    std::snprintf(text, sizeof text, "%llu B", static_cast<unsigned long long>(bytes));
  } else if (bytes < 1000 * 1000) {
    std::snprintf(text, sizeof text, "%.1f kB", static_cast<double>(bytes) / 1e3);
  } else if (bytes < 1000 * 1000 * 1000) {
    std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  } else {
    std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(bytes) / 1e9);
  }
  return text;
}

std::string human_seconds(int64_t microseconds) {
  char text[32];
  if (microseconds < 100'000) {
    std::snprintf(text, sizeof text, "%.1f ms", static_cast<double>(microseconds) / 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.2f s", static_cast<double>(microseconds) / 1e6);
  }
  return text;
}

Voice Report::voice_for(bool json) {
  if (json) return Voice::kJson;
  return ::isatty(STDERR_FILENO) ? Voice::kLive : Voice::kPlain;
}

void Report::hide(const std::vector<std::pair<std::string, std::string>>& env_vars) {
  for (const auto& [name, value] : env_vars) {
    if (value.size() >= kShortestSecret) secrets_.push_back(value);
  }
  // Longest first, so that a secret within a secret leaves no rest.
  std::sort(secrets_.begin(), secrets_.end(),
            [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
}

std::string Report::redact(std::string text) const {
  for (const std::string& secret : secrets_) hide_all(text, secret);
  hide_url_credentials(text);
  return text;
}

void Report::say(const std::string& line) {
  // One write: lines of several processes don't mix.
  (void)sys::write_all(STDERR_FILENO, line + "\n", "stderr");
}

void Report::enter_phase(Layer& layer, const std::string& phase, int64_t now) {
  if (!layer.last.phase.empty()) {
    auto spent = std::find_if(layer.phases.begin(), layer.phases.end(),
                              [&](const auto& entry) { return entry.first == layer.last.phase; });
    if (spent == layer.phases.end()) {
      layer.phases.emplace_back(layer.last.phase, 0);
      spent = layer.phases.end() - 1;
    }
    spent->second += now - layer.phase_started;
  }
  layer.phase_started = now;
  layer.last.phase = phase;
}

void Report::report(const Event& event) {
  if (event.phase == "warning") return note("warning", event.object);
  int64_t now = now_microseconds();
  auto [found, fresh] = layers_.try_emplace(event.layer);
  Layer& layer = found->second;
  if (fresh) {
    order_.push_back(event.layer);
    layer.started = now;
  }
  bool new_phase = layer.last.phase != event.phase;
  if (new_phase) enter_phase(layer, event.phase, now);
  layer.last = event;
  layer.last.object = redact(event.object);
  if (voice_ == Voice::kJson) {
    Json json = {{"event", "progress"},         {"layer", event.layer}, {"phase", event.phase},
                 {"object", layer.last.object}, {"done", event.done},   {"total", event.total}};
    say(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else if (voice_ == Voice::kLive) {
    draw(new_phase);
  } else if (new_phase) {
    say("rtlaunch: " + event.layer + ": " + describe(layer.last));
  }
}

void Report::layer_done(const std::string& name) {
  auto found = layers_.find(name);
  if (found == layers_.end() || found->second.ended != 0) return;
  Layer& layer = found->second;
  int64_t now = now_microseconds();
  enter_phase(layer, "done", now);
  layer.ended = now;
  layer.last.object.clear();
  layer.last.done = layer.last.total = 0;
  if (voice_ == Voice::kJson) {
    Json json = {{"event", "layer"}, {"layer", name}, {"microseconds", now - layer.started}};
    say(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else if (voice_ == Voice::kLive) {
    draw(true);
  }
}

void Report::draw(bool at_once) {
  int64_t now = now_microseconds();
  if (!at_once && now - drawn_at_ < kRedrawEvery) return;
  drawn_at_ = now;
  size_t width = terminal_width();
  std::string text = drawn_ > 0 ? "\033[" + std::to_string(drawn_) + "A" : "";
  for (const std::string& name : order_) {
    const Layer& layer = layers_.at(name);
    std::string line = name;
    line.resize(std::max<size_t>(line.size() + 1, 13), ' ');
    line += describe(layer.last) + "  " +
            human_seconds((layer.ended ? layer.ended : now) - layer.started);
    if (line.size() > width - 1) line.resize(width - 1);
    text += "\r\033[K" + line + "\n";
  }
  drawn_ = static_cast<int>(order_.size());
  (void)sys::write_all(STDERR_FILENO, text, "stderr");
}

void Report::clear() {
  if (drawn_ == 0) return;
  std::string text = "\033[" + std::to_string(drawn_) + "A\r\033[J";
  drawn_ = 0;
  (void)sys::write_all(STDERR_FILENO, text, "stderr");
}

void Report::note(const std::string& kind, const std::string& text) {
  clear();
  std::string clean = redact(text);
  if (voice_ == Voice::kJson) {
    Json json = {{"event", kind}, {"message", clean}};
    return say(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  say("rtlaunch: " + std::string(kind == "warning" ? "warning: " : "") + printable(clean));
}

void Report::error(const Error& error) {
  clear();
  std::string text = redact(error.message());
  std::string cure = redact(error.cure.empty() ? default_cure(error) : error.cure);
  if (voice_ == Voice::kJson) {
    return say(error_json(error, text, cure).dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  say("rtlaunch: error: " + printable(text) + "\n  cure: " + printable(cure));
}

std::string Report::where_time_went() const {
  std::string text;
  for (const std::string& name : order_) {
    const Layer& layer = layers_.at(name);
    if (!text.empty()) text += ", ";
    text += name + " " +
            human_seconds((layer.ended ? layer.ended : now_microseconds()) - layer.started);
    std::string phases;
    for (const auto& [phase, spent] : layer.phases) {
      phases += (phases.empty() ? "" : ", ") + phase + " " + human_seconds(spent);
    }
    if (!phases.empty()) text += " (" + phases + ")";
  }
  return text;
}

}  // namespace rtlaunch
