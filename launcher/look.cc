#include "launcher/look.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "isolation/sys/files.h"
#include "launcher/host_parts.h"
#include "launcher/report.h"
#include "launcher/table.h"

namespace rtlaunch {
namespace {

using config::Json;

Error wrong_words(const std::string& verb) {
  return make_error(verb, "", "these words make no sense here", "see rtlaunch " + verb + " --help");
}

Result<int> ps(const Words& words) {
  if (!words.words.empty()) return wrong_words("ps");
  Signals signals = TRY(Signals::block());
  Client client = TRY(need_daemon(words, signals));
  Json answer = TRY(client.ask({{"op", "ps"}, {"all", words.has("--all")}}));
  Json workers = answer.value("workers", Json::array());
  if (words.has("--json")) {
    print_json(workers);
  } else {
    print_table(worker_table(workers));
  }
  return 0;
}

// {"a": {"b": 1}} as "a b  1".
void flatten(const Json& json, const std::string& name, std::vector<Row>& rows) {
  if (!json.is_object()) {
    rows.push_back({name, printable(json.is_string() ? json.get<std::string>() : json.dump())});
    return;
  }
  for (const auto& [key, value] : json.items()) {
    flatten(value, name + (name.empty() ? "" : " ") + key, rows);
  }
}

Result<int> status(const Words& words) {
  if (!words.words.empty()) return wrong_words("status");
  Signals signals = TRY(Signals::block());
  Client client = TRY(need_daemon(words, signals));
  Json answer = TRY(client.ask({{"op", "status"}}));
  Json numbers = answer.value("status", Json::object());
  if (words.has("--json")) return print_json(numbers), 0;
  std::vector<Row> rows;
  flatten(numbers, "", rows);
  print_table(rows);
  return 0;
}

std::string time_of_day(const Json& time) {
  if (!time.is_number()) return time.is_string() ? time.get<std::string>() : "";
  time_t seconds = static_cast<time_t>(time.get<double>() / 1e6);
  struct tm parts = {};
  ::localtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%F %T", &parts);
  return text;
}

// "2026-01-31 12:00:00  info  started  worker=3fa1 pid=17"
std::string log_text(const Json& line) {
  if (!line.is_object()) return printable(line.is_string() ? line.get<std::string>() : line.dump());
  std::string text = time_of_day(line.value("time", Json())) + "  " + line.value("level", "") +
                     "  " + line.value("event", "") + " ";
  for (const auto& [key, value] : line.items()) {
    if (key == "time" || key == "level" || key == "event" || value.is_null()) continue;
    text += " " + key + "=" + (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return printable(text);
}

void print_log(const Json& event, bool json) {
  Json line = event.value("line", Json());
  std::puts(json ? line.dump(-1, ' ', false, Json::error_handler_t::replace).c_str()
                 : log_text(line).c_str());
  std::fflush(stdout);
}

// Ctrl-C is how people leave `logs -f`: no error.
Result<int> unless_interrupted(Result<Json> answer) {
  if (answer) return 0;
  if (answer.error().exit_code > 128) return answer.error().exit_code;
  return answer.error();
}

Result<int> logs(const Words& words) {
  if (words.words.size() > 1) return wrong_words("logs");
  bool follow = words.has("-f") || words.has("--follow");
  Signals signals = TRY(Signals::block());
  Client client = TRY(need_daemon(words, signals));
  Json request = {{"op", "logs"}, {"follow", follow}};
  if (!words.words.empty()) request["worker"] = words.words[0];
  auto show = [&](const Json& event) { print_log(event, words.has("--json")); };
  return unless_interrupted(client.ask(request, {}, show, follow));
}

// "TERM", "SIGTERM", "term", "15".
Result<int> signal_number(std::string name) {
  char* end = nullptr;
  long number = std::strtol(name.c_str(), &end, 10);
  if (!name.empty() && *end == '\0' && number > 0 && number <= 64) return static_cast<int>(number);
  for (char& letter : name) letter = static_cast<char>(::toupper(letter));
  if (name.rfind("SIG", 0) == 0) name.erase(0, 3);
  for (int candidate = 1; candidate < 32; ++candidate) {
    const char* abbreviation = ::sigabbrev_np(candidate);
    if (abbreviation != nullptr && name == abbreviation) return candidate;
  }
  return make_error("kill", name, "no such signal", "use a name like TERM, or a number");
}

Result<int> kill_worker(const Words& words) {
  if (words.words.empty() || words.words.size() > 2) return wrong_words("kill");
  std::string name = words.words.size() == 2 ? words.words[1] : "TERM";
  int number = TRY(signal_number(name));
  Signals signals = TRY(Signals::block());
  Client client = TRY(need_daemon(words, signals));
  TRY(client.ask({{"op", "kill"}, {"worker", words.words[0]}, {"signal", number}}));
  return 0;
}

struct Verb {
  const char* name;
  Result<int> (*act)(const Words&);
  std::vector<std::string> flags;
};

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> all = {{"ps", ps, {"--all", "-a", "--json"}},
                                        {"top", top, {}},
                                        {"logs", logs, {"-f", "--follow", "--json"}},
                                        {"enter", enter, {}},
                                        {"kill", kill_worker, {}},
                                        {"status", status, {"--json"}}};
  return all;
}

int64_t number(const Json& json, const char* key) {
  auto found = json.find(key);
  return found != json.end() && found->is_number() ? found->get<int64_t>() : 0;
}

}  // namespace

std::string state_of(const Json& worker) {
  std::string state = worker.value("state", "");
  auto found = worker.find("status");
  if (state != "ended" || found == worker.end() || !found->is_number()) return state;
  int status = found->get<int>();
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
  return "exit " + std::to_string(WEXITSTATUS(status));
}

std::vector<Row> worker_table(const Json& workers) {
  std::vector<Row> rows = {
      {"WORKER", "USER", "PID", "STATE", "SINCE", "CPU", "MEMORY", "PROCS", "ENV", "COMMAND"}};
  int64_t now = ::time(nullptr);
  for (const Json& worker : workers) {
    int64_t since = number(worker, "since") / 1'000'000;
    auto env = worker.find("env");
    bool named = env != worker.end() && env->is_string();
    auto name = worker.find("name");
    rows.push_back(
        {short_name(worker.value("id", "")), std::to_string(number(worker, "uid")),
         std::to_string(number(worker, "pid")), state_of(worker),
         human_duration(now - since) + " ago", human_seconds(number(worker, "cpu_us")),
         human_bytes(static_cast<uint64_t>(number(worker, "memory"))),
         std::to_string(number(worker, "processes")),
         named ? short_name(env->get<std::string>()) : "",
         name != worker.end() && name->is_string() ? printable(name->get<std::string>()) : ""});
  }
  return rows;
}

Result<Client> need_daemon(const Words& words, Signals& signals) {
  std::string socket = words.value("--socket");
  const char* variable = ::getenv("RTLAUNCH_SOCKET");
  if (socket.empty() && variable != nullptr) socket = variable;
  bool named = !socket.empty();
  return Client::connect(named ? socket : protocol::kDefaultSocket, signals, named);
}

Result<std::optional<int>> look(const std::string& verb, const std::vector<std::string>& args) {
  for (const Verb& known : verbs()) {
    if (verb != known.name) continue;
    Words words = TRY(parse_words(args, known.flags, {"--socket"}));
    if (words.has("-a")) words.flags.insert("--all");
    return std::optional<int>(TRY(known.act(words)));
  }
  return std::optional<int>();
}

}  // namespace rtlaunch
