// `rtlaunch top`: what `ps` and `status` say, each second anew, the busiest command first.
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "isolation/sys/files.h"
#include "launcher/look.h"
#include "launcher/report.h"
#include "launcher/table.h"

namespace rtlaunch {
namespace {

using config::Json;

constexpr int kEveryMs = 1000;

// The alternate screen, no cursor, no echo; all back at the end.
class Screen {
 public:
  Screen() {
    keys_ = ::isatty(STDIN_FILENO) != 0 && ::tcgetattr(STDIN_FILENO, &before_) == 0;
    if (keys_) {
      termios quiet = before_;
      quiet.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      (void)::tcsetattr(STDIN_FILENO, TCSADRAIN, &quiet);
    }
    write("\033[?1049h\033[?25l");
  }
  ~Screen() {
    write("\033[?25h\033[?1049l");
    if (keys_) (void)::tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }

  // As many lines as fit, each cut where the screen ends.
  void show(const std::vector<std::string>& lines) {
    struct winsize size = {};
    bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0;
    size_t rows = known ? size.ws_row : 24, columns = known ? size.ws_col : 80;
    std::string text = "\033[H";
    for (size_t i = 0; i < lines.size() && i < rows; ++i) {
      text += (i == 0 ? "" : "\r\n") + lines[i].substr(0, columns) + "\033[K";
    }
    write(text + "\033[J");
  }
  bool has_keys() const { return keys_; }

 private:
  static void write(const std::string& text) {
    (void)sys::write_all(STDOUT_FILENO, text, "stdout").ok();
  }
  bool keys_ = false;
  termios before_ = {};
};

struct Sample {
  Json workers = Json::array(), status = Json::object();
  int64_t at = 0;  // microseconds
};

Result<Sample> sample(Client& client) {
  Sample now;
  Json workers = TRY(client.ask({{"op", "ps"}, {"all", false}}));
  Json status = TRY(client.ask({{"op", "status"}}));
  now.workers = workers.value("workers", Json::array());
  now.status = status.value("status", Json::object());
  now.at = now_microseconds();
  return now;
}

int64_t number(const Json& json, const char* path) {
  Json::json_pointer pointer{std::string(path)};
  if (!json.contains(pointer)) return 0;
  const Json& value = json[pointer];
  return value.is_number() ? value.get<int64_t>() : 0;
}

std::string fixed(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// Of one core, since the sample before.
std::map<std::string, double> cpu_shares(const Sample& before, const Sample& now) {
  std::map<std::string, int64_t> used;
  for (const Json& worker : before.workers) {
    used[worker.value("id", "")] = number(worker, "/cpu_us");
  }
  std::map<std::string, double> shares;
  double passed = static_cast<double>(std::max<int64_t>(1, now.at - before.at));
  for (const Json& worker : now.workers) {
    std::string id = worker.value("id", "");
    int64_t earlier = used.contains(id) ? used[id] : 0;
    shares[id] = 100.0 * static_cast<double>(number(worker, "/cpu_us") - earlier) / passed;
  }
  return shares;
}

std::string starts_per_second(const Sample& before, const Sample& now) {
  if (before.at == 0) return "-";
  double passed = static_cast<double>(now.at - before.at) / 1e6;
  double starts =
      static_cast<double>(number(now.status, "/starts") - number(before.status, "/starts"));
  return fixed(starts / std::max(0.001, passed), 1);
}

std::vector<std::string> heading(const Sample& before, const Sample& now) {
  const Json& status = now.status;
  int64_t up = ::time(nullptr) - number(status, "/started");
  std::string first = "rtlaunchd up " + human_duration(up) + ", " +
                      human_bytes(static_cast<uint64_t>(number(status, "/memory"))) +
                      (status.value("draining", false) ? ", draining" : "");
  std::string second = "workers " + std::to_string(now.workers.size()) + ", starts/s " +
                       starts_per_second(before, now) + ", starts " +
                       std::to_string(number(status, "/starts")) + ", failures " +
                       std::to_string(number(status, "/failures"));
  std::string third = "builds " + std::to_string(number(status, "/builds/running")) + " running, " +
                      std::to_string(number(status, "/builds/queued")) + " queued";
  if (number(status, "/store/stats/limit") > 0) {
    third += "; store " + human_bytes(static_cast<uint64_t>(number(status, "/store/stats/bytes"))) +
             " of " + human_bytes(static_cast<uint64_t>(number(status, "/store/stats/limit"))) +
             ", " + std::to_string(number(status, "/store/stats/layers")) + " layers";
  }
  return {first, second, third, ""};
}

std::vector<std::string> picture(const Sample& before, Sample now) {
  auto shares = cpu_shares(before, now);
  std::vector<Json> workers(now.workers.begin(), now.workers.end());
  auto share = [&](const Json& worker) { return shares[worker.value("id", "")]; };
  std::stable_sort(workers.begin(), workers.end(),
                   [&](const Json& a, const Json& b) { return share(a) > share(b); });
  std::vector<Row> rows = {{"WORKER", "USER", "PID", "CPU%", "MEMORY", "PROCS", "TIME", "COMMAND"}};
  for (const Json& worker : workers) {
    int64_t since = number(worker, "/since") / 1'000'000;
    rows.push_back({short_name(worker.value("id", "")), std::to_string(number(worker, "/uid")),
                    std::to_string(number(worker, "/pid")), fixed(share(worker), 1),
                    human_bytes(static_cast<uint64_t>(number(worker, "/memory"))),
                    std::to_string(number(worker, "/processes")),
                    human_duration(::time(nullptr) - since), printable(worker.value("name", ""))});
  }
  std::vector<std::string> lines = heading(before, now);
  for (std::string& line : table_lines(rows)) lines.push_back(std::move(line));
  return lines;
}

// True when it is time to leave.
Result<bool> wait_for_leave(const Screen& screen, Signals& signals) {
  int64_t until = now_microseconds() + kEveryMs * 1000;
  while (true) {
    int left = static_cast<int>((until - now_microseconds()) / 1000);
    if (left <= 0) return false;
    struct pollfd polls[2] = {{signals.fd(), POLLIN, 0},
                              {screen.has_keys() ? STDIN_FILENO : -1, POLLIN, 0}};
    if (::poll(polls, 2, left) < 0 && errno != EINTR) return sys_error("poll", "top");
    while (auto caught = signals.next()) {
      if (caught->number == SIGWINCH) return false;
      return true;
    }
    char key = 0;
    if (polls[1].revents == 0) continue;
    if (::read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q') return true;
  }
}

Status live(Client& client, Signals& signals) {
  Screen screen;
  Sample before;
  while (true) {
    Sample now = TRY(sample(client));
    screen.show(picture(before, now));
    before = std::move(now);
    if (TRY(wait_for_leave(screen, signals))) return {};
  }
}

}  // namespace

Result<int> top(const Words& words) {
  if (!words.words.empty()) {
    return make_error("top", words.words[0], "takes no words", "see rtlaunch top --help");
  }
  Signals signals = TRY(Signals::block());
  Client client = TRY(need_daemon(words, signals));
  if (::isatty(STDOUT_FILENO)) {
    Status left = live(client, signals);
    if (!left && left.error().exit_code <= 128) return left.error();
    return 0;
  }
  Sample now = TRY(sample(client));
  for (const std::string& line : heading({}, now)) std::puts(line.c_str());
  print_table(worker_table(now.workers));
  return 0;
}

}  // namespace rtlaunch
