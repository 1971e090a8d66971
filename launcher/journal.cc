#include "launcher/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFile[] = "events.jsonl", kOld[] = "events.old.jsonl";
constexpr const char* kLevels[] = {"debug", "info", "warning", "error"};

std::string time_text(int64_t microseconds) {
  time_t seconds = microseconds / 1'000'000;
  struct tm parts = {};
  ::gmtime_r(&seconds, &parts);
  char text[40];
  size_t length = ::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + length, sizeof text - length, ".%06dZ",
                static_cast<int>(microseconds % 1'000'000));
  return text;
}

std::string line_of(Level level, const char* event, const Facts& facts) {
  Json json = {
      {"time", time_text(wall_microseconds())}, {"level", name_of(level)}, {"event", event}};
  if (!facts.request.empty()) json["request"] = facts.request;
  if (!facts.worker.empty()) json["worker"] = facts.worker;
  if (facts.uid) json["uid"] = *facts.uid;
  for (const auto& [name, value] : facts.more) {
    if (const auto* number = std::get_if<int64_t>(&value)) {
      json[name] = *number;
    } else {
      json[name] = std::get<std::string>(value).substr(0, 1000);
    }
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::optional<Journal::Entry> parse_line(const std::string& line) {
  Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("event")) return std::nullopt;
  Journal::Entry entry;
  entry.line = line;
  auto worker = json.find("worker"), uid = json.find("uid");
  if (worker != json.end() && worker->is_string()) entry.worker = worker->get<std::string>();
  if (uid != json.end() && uid->is_number_unsigned()) entry.uid = uid->get<uid_t>();
  return entry;
}

}  // namespace

const char* name_of(Level level) { return kLevels[static_cast<int>(level)]; }

Result<Level> parse_level(const std::string& name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kLevels[i]) return static_cast<Level>(i);
  }
  return make_error("--log-level", name, "is no level", "debug, info, warning or error");
}

int64_t wall_microseconds() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1000;
}

Facts facts_of(const Error& error, Facts facts) {
  facts.more.emplace_back("step", error.step);
  if (!error.object.empty()) facts.more.emplace_back("object", error.object);
  if (!error.reason.empty()) facts.more.emplace_back("reason", error.reason);
  if (error.code != 0) facts.more.emplace_back("errno", int64_t{error.code});
  return facts;
}

Status Journal::keep_in(const std::string& folder) {
  bool first = !folder_.valid();
  TRY(sys::make_dirs(folder, 0700));
  folder_ = TRY(sys::open_at(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY));
  if (first) {
    read_back(kOld);
    read_back(kFile);
  }
  file_ = TRY(sys::open_at(folder_.get(), kFile, O_WRONLY | O_CREAT | O_APPEND, 0600));
  written_ = static_cast<uint64_t>(TRY(sys::stat_fd(file_.get(), kFile)).st_size);
  return {};
}

// A line torn by a crash is no JSON and is passed over.
void Journal::read_back(const std::string& name) {
  auto text = sys::read_file_at(folder_.get(), name, 2 * kFileBytes);
  if (!text) return;
  size_t at = text->size() > kRingBytes ? text->find('\n', text->size() - kRingBytes) + 1 : 0;
  for (size_t end; (end = text->find('\n', at)) != std::string::npos; at = end + 1) {
    if (auto entry = parse_line(text->substr(at, end - at))) keep(std::move(*entry));
  }
}

void Journal::say(Level level, const char* event, const Facts& facts) {
  std::string line = line_of(level, event, facts);
  if (line.size() > kLongestLine) {  // names can be long; the event must still be whole JSON
    line = line_of(level, event, {facts.worker, facts.request, facts.uid, {{"cut", int64_t{1}}}});
  }
  if (sink_) sink_(level, line);
  if (level == Level::kDebug) return;
  write_down(line);
  keep({0, facts.uid, facts.worker, std::move(line)});
  if (heard_) heard_();
}

void Journal::keep(Entry entry) {
  entry.number = next_++;
  ring_bytes_ += entry.line.size() + sizeof entry;
  ring_.push_back(std::move(entry));
  while (ring_.size() > kRingLines || ring_bytes_ > kRingBytes) {
    ring_bytes_ -= ring_.front().line.size() + sizeof entry;
    ring_.pop_front();
  }
}

void Journal::write_down(const std::string& line) {
  if (!file_.valid()) return;
  if (written_ > kFileBytes) {
    (void)sys::rename_at(folder_.get(), kFile, folder_.get(), kOld).ok();
    auto fresh = sys::open_at(folder_.get(), kFile, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fresh) file_ = std::move(*fresh);
    written_ = 0;
  }
  written_ += line.size() + 1;
  (void)sys::write_all(file_.get(), line + "\n", kFile).ok();  // a full disk stops no launch
}

}  // namespace rtlaunch
