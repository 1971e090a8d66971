#include "launcher/ray/maker.h"

#include <sys/wait.h>

#include <nlohmann/json.hpp>
#include <set>

#include "config/json.h"
#include "launcher/report.h"

namespace rtlaunch::ray {
namespace {

using config::Json;

constexpr auto kQuick = seconds(60);  // renewals and releases
constexpr auto kTellEvery = seconds(2);
// Planned as any other; there is nothing in it that an index has to be asked for.
constexpr const char* kNothing = R"({"pip": ["ray; python_version < '3'"]})";

// What `rtlaunch env create --json` says on stderr, as lines of a log.
class Telling {
 public:
  explicit Telling(SetupLog& log) : log_(log) {}

  void take(const std::string& line) {
    try {
      Json json = Json::parse(line);
      std::string kind = json.value("event", "");
      if (kind == "progress") progress(json);
      if (kind == "layer") layer(json);
      if (kind == "installed") log_.info(json.value("message", ""));
      if (kind == "warning") warned(json.value("message", ""));
      if (kind == "error") failed(json);
    } catch (const Json::exception&) {
      log_.info(line.substr(0, 4096));  // a loader's, or of a library
    }
  }
  const std::optional<Error>& error() const { return error_; }
  const std::string& last() const { return last_; }  // what was being done
  std::vector<std::string> take_warnings() { return std::move(warnings_); }

 private:
  void warned(const std::string& text) {
    log_.write(LogLevel::kWarning, text);
    warnings_.push_back(text);
  }

  void progress(const Json& json) {
    std::string layer = json.value("layer", ""), phase = json.value("phase", "");
    std::string step = layer + ": " + phase, object = json.value("object", "");
    if (phase == "download") told_of_download(layer, object);
    auto now = Clock::now();
    if (step == last_ && now - told_ < kTellEvery) return;
    last_ = step;
    told_ = now;
    std::string text = step + " " + object;
    uint64_t done = json.value("done", uint64_t{0}), total = json.value("total", uint64_t{0});
    if (total > 0) text += "  " + human_bytes(done) + " of " + human_bytes(total);
    log_.info(text);
  }

  // In Ray's words, once for each package.
  void told_of_download(const std::string& layer, const std::string& object) {
    bool package = layer == "working_dir" || layer == "py_modules" || layer == "java_jars";
    if (package && downloads_.insert(object).second)
      log_.info("Downloading package from " + object);
  }

  void layer(const Json& json) {
    log_.info(json.value("layer", "") + ": done in " +
              human_seconds(json.value("microseconds", int64_t{0})));
  }

  void failed(const Json& json) {
    Error error;
    error.code = json.value("errno", 0);
    error.reason = json.value("message", "");
    error.cure = json.value("cure", "");
    log_.write(LogLevel::kError, error.reason + "\n  " + error.cure);
    error_ = std::move(error);
  }

  SetupLog& log_;
  std::string last_;
  std::set<std::string> downloads_;
  Clock::time_point told_;
  std::optional<Error> error_;
  std::vector<std::string> warnings_;
};

Error without_a_word(int status) {
  bool signalled = WIFSIGNALED(status);
  return Error{"rtlaunch env create",
               signalled ? EAGAIN : 0,
               "",
               signalled ? "was ended by signal " + std::to_string(WTERMSIG(status)) +
                               ": out of memory, or killed by hand"
                         : "ended with status " + std::to_string(status) + " and said nothing",
               "see the runtime_env_setup log; is rtlaunch installed whole?",
               125};
}

uint64_t bytes_in(const std::string& out, const std::string& id) {
  try {
    for (const Json& env : Json::parse(out)) {
      if (env.value("id", "") == id) return env.value("bytes", uint64_t{0});
    }
  } catch (const Json::exception&) {  // then nobody knows
  }
  return 0;
}

std::string id_in(const std::string& out) {
  try {
    return Json::parse(out).value("id", "");
  } catch (const Json::exception&) {
    return "";
  }
}

}  // namespace

bool may_pass(const Error& error) {
  switch (error.code) {
    case EAGAIN:
    case EBUSY:
    case ECONNABORTED:
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EPIPE:
    case ESTALE:
    case ETIMEDOUT:
      return true;
    default:
      return false;
  }
}

awaitable<Result<ChildEnded>> Maker::run(std::vector<std::string> args, std::string input,
                                         Clock::time_point deadline, OnLine on_line,
                                         bool unhurried) {
  args.insert(args.begin(), options_.rtlaunch);
  args.insert(args.end(), options_.where.begin(), options_.where.end());
  ChildStart child{std::move(args), options_.variables, options_.cwd, std::move(input), unhurried};
  std::string token = options_.token ? options_.token() : "";
  if (!token.empty()) child.variables["RTLAUNCH_GCS_TOKEN"] = token;
  return run_child(io_, std::move(child), deadline, std::move(on_line));
}

std::vector<std::string> Maker::create_words() const {
  std::vector<std::string> words = {"env", "create", "--runtime-env", "/dev/stdin", "--json"};
  if (!options_.python.empty()) words.insert(words.end(), {"--python", options_.python});
  return words;
}

awaitable<void> Maker::look_at_interpreter() {
  auto silent = [](const std::string&) {};
  (void)(co_await run(create_words(), kNothing, Clock::now() + kQuick, silent, true)).ok();
}

awaitable<Result<Maker::Made>> Maker::make(Order order, Clock::time_point deadline, SetupLog& log) {
  std::vector<std::string> args = create_words();
  args.insert(args.end(), {"--name", order.hold, "--ttl", std::to_string(options_.hold.count())});
  if (order.allow_conflicts) args.push_back("--allow-conflicts");
  Telling telling(log);
  auto ended = co_await run(std::move(args), std::move(order.runtime_env), deadline,
                            [&](const std::string& line) { telling.take(line); });
  if (!ended) {
    ended.error().object = telling.last();
    co_return ended.error();
  }
  if (telling.error() && ended->status != 0) co_return *telling.error();
  if (ended->status != 0) co_return without_a_word(ended->status);
  Made made{id_in(ended->out), telling.take_warnings()};
  if (made.id.empty()) co_return without_a_word(0);
  co_return made;
}

awaitable<Status> Maker::copy_out(std::string id, std::vector<Copy> copies,
                                  Clock::time_point deadline) {
  std::vector<std::string> args = {options_.rtlaunch, "exec", std::move(id), "--profile", "ray"};
  args.insert(args.end(), options_.where.begin(), options_.where.end());
  for (const Copy& copy : copies) args.insert(args.end(), {copy.option, copy.place});
  args.insert(args.end(), {"--", "/bin/sh", "-c",
                           "while [ $# -gt 1 ]; do cp -a --reflink=auto -- \"$1/.\" \"$2/\" || "
                           "exit 1; shift 2; done",
                           "sh"});
  for (const Copy& copy : copies) {
    if (!copy.folder.empty()) args.insert(args.end(), {copy.place, copy.folder});
  }
  std::string said;
  ChildStart child{std::move(args), options_.variables, options_.cwd, ""};
  auto ended = co_await run_child(io_, std::move(child), deadline, [&](const std::string& line) {
    if (said.size() < 2000) said += line + "\n";
  });
  if (!ended) co_return ended.error();
  if (ended->status == 0) co_return Status();
  co_return make_error("copy", "", said, "is the disk of Ray's session full?");
}

awaitable<Result<ChildEnded>> Maker::ask(std::string id, std::string place,
                                         std::vector<std::string> words,
                                         Clock::time_point deadline) {
  std::vector<std::string> args = {options_.rtlaunch, "exec", std::move(id), "--profile", "ray"};
  args.insert(args.end(), options_.where.begin(), options_.where.end());
  args.insert(args.end(), {"--working-dir-at", std::move(place), "--"});
  args.insert(args.end(), words.begin(), words.end());
  ChildStart child{std::move(args), options_.variables, options_.cwd, ""};
  return run_child(io_, std::move(child), deadline, [](const std::string&) {});
}

awaitable<void> Maker::remove_folder(std::string folder) {
  ChildStart child{{"/bin/rm", "-rf", "--one-file-system", "--", std::move(folder)},
                   options_.variables,
                   "/",
                   ""};
  (void)(co_await run_child(io_, std::move(child), Clock::now() + kQuick, [](const std::string&) {
  })).ok();
}

awaitable<Status> Maker::run_quick(std::string verb, std::string hold,
                                   std::vector<std::string> more) {
  std::vector<std::string> args = {"env", verb, hold, "--json"};
  args.insert(args.end(), more.begin(), more.end());
  SetupLog nowhere("", {}, "", {});
  Telling telling(nowhere);
  auto ended = co_await run(std::move(args), "", Clock::now() + kQuick,
                            [&](const std::string& line) { telling.take(line); });
  if (!ended) co_return ended.error();
  if (ended->status == 0) co_return Status();
  co_return telling.error() ? *telling.error() : without_a_word(ended->status);
}

awaitable<Status> Maker::renew(std::string hold) {
  return run_quick("renew", std::move(hold), {"--ttl", std::to_string(options_.hold.count())});
}

awaitable<Status> Maker::release(std::string hold) {
  return run_quick("release", std::move(hold), {});
}

awaitable<uint64_t> Maker::bytes_of(std::string id) {
  static const std::vector<std::string> kArgs = {"env", "ls", "--json"};
  auto ended = co_await run(kArgs, "", Clock::now() + kQuick, [](const std::string&) {});
  co_return ended && ended->status == 0 ? bytes_in(ended->out, id) : 0;
}

}  // namespace rtlaunch::ray
