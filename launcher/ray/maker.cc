#include "launcher/ray/maker.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/json.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "isolation/sys/run_program.h"
#include "launcher/report.h"

namespace rtlaunch::ray {
namespace {

using config::Json;

constexpr size_t kMostLine = 256 << 10;
constexpr size_t kMostOutput = 16 << 20;
constexpr auto kToDie = seconds(5);   // after SIGKILL
constexpr auto kQuick = seconds(60);  // renewals and releases
constexpr auto kTellEvery = seconds(2);

struct Pipe {
  UniqueFd ours, theirs;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return sys_error("pipe", "");
  Pipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  ::fcntl(pipe.ours.get(), F_SETFL, O_NONBLOCK);
  return pipe;
}

// A program that runs, and what it says.
struct Child {
  Watched process, err;  // a pidfd, and a pipe
  UniqueFd out;          // a file in memory: whoever fills it waits for nobody
};

std::vector<std::string> as_strings(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> strings;
  for (const auto& [name, value] : variables) strings.push_back(name + "=" + value);
  return strings;
}

Result<Child> start(asio::io_context& io, const MakerOptions& options,
                    std::vector<std::string> argv, const std::string& input) {
  UniqueFd in = TRY(sys::memory_file(input));
  UniqueFd out = TRY(sys::memory_file(""));
  Pipe err = TRY(make_pipe());
  sys::ProgramStart program;
  program.argv = std::move(argv);
  program.env = as_strings(options.variables);
  program.fds = {in.get(), out.get(), err.theirs.get()};
  program.cwd = options.cwd;
  program.default_signals = true;
  sys::Cloned cloned = TRY(sys::start_program(program));
  return Child{Watched(io, std::move(cloned.pidfd)), Watched(io, std::move(err.ours)),
               std::move(out)};
}

// Whole lines; what is too long for one is dropped.
class Lines {
 public:
  template <typename OnLine>
  void add(const char* data, size_t size, const OnLine& on_line) {
    rest_.append(data, size);
    size_t from = 0;
    for (size_t end; (end = rest_.find('\n', from)) != std::string::npos; from = end + 1) {
      on_line(rest_.substr(from, end - from));
    }
    rest_.erase(0, from);
    if (rest_.size() > kMostLine) rest_.clear();
  }

 private:
  std::string rest_;
};

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
      if (kind == "warning") log_.write(LogLevel::kWarning, json.value("message", ""));
      if (kind == "error") failed(json);
    } catch (const Json::exception&) {
      log_.info(line.substr(0, 4096));  // a loader's, or of a library
    }
  }
  const std::optional<Error>& error() const { return error_; }
  const std::string& last() const { return last_; }  // what was being done

 private:
  void progress(const Json& json) {
    std::string step = json.value("layer", "") + ": " + json.value("phase", "");
    auto now = Clock::now();
    if (step == last_ && now - told_ < kTellEvery) return;
    last_ = step;
    told_ = now;
    std::string text = step + " " + json.value("object", "");
    uint64_t done = json.value("done", uint64_t{0}), total = json.value("total", uint64_t{0});
    if (total > 0) text += "  " + human_bytes(done) + " of " + human_bytes(total);
    log_.info(text);
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
  Clock::time_point told_;
  std::optional<Error> error_;
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

struct Maker::Ended {
  int status = 0;
  std::string out;
};

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

namespace {

// Reads what is there now. False at the end.
template <typename Take>
bool read_some(Watched& from, const Take& take) {
  char buffer[16384];
  while (true) {
    ssize_t count = ::read(from.fd(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno == EAGAIN;
    if (count == 0) return false;
    take(buffer, static_cast<size_t>(count));
  }
}

// Until its end, or until the time is up; false then.
template <typename Take>
awaitable<bool> read_to_end(Watched& from, Clock::time_point deadline, Take take) {
  while (read_some(from, take)) {
    Clock::duration left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) co_return false;
    co_await from.wait(Watched::kRead, std::min<Clock::duration>(left, std::chrono::hours(1)));
  }
  co_return true;
}

Error time_is_up() { return Error{"rtlaunch", kTimeIsUp, "", "the time was up", "", 125}; }

}  // namespace

awaitable<Result<Maker::Ended>> Maker::run(std::vector<std::string> args, std::string input,
                                           Clock::time_point deadline, OnLine on_line) {
  args.insert(args.begin(), options_.rtlaunch);
  args.insert(args.end(), options_.where.begin(), options_.where.end());
  auto child = start(io_, options_, std::move(args), input);
  if (!child) co_return child.error();
  Lines lines;
  Ended ended;
  auto take_line = [&](const char* data, size_t size) { lines.add(data, size, on_line); };
  bool in_time = co_await read_to_end(child->err, deadline, take_line);
  if (in_time) in_time = co_await child->process.wait(Watched::kRead, kToDie);
  if (!in_time) {
    (void)sys::send_signal(child->process.fd(), SIGKILL).ok();
    co_await child->process.wait(Watched::kRead, kToDie);
  }
  auto status = sys::wait_for(child->process.fd());
  if (!in_time) co_return time_is_up();
  if (!status) co_return status.error();
  ended.status = *status;
  auto said = ::lseek(child->out.get(), 0, SEEK_SET) == 0
                  ? sys::read_all(child->out.get(), "stdout", kMostOutput)
                  : Result<std::string>(sys_error("lseek", "stdout"));
  if (!said) co_return said.error();
  ended.out = std::move(*said);
  co_return ended;
}

awaitable<Result<std::string>> Maker::make(Order order, Clock::time_point deadline, SetupLog& log) {
  std::vector<std::string> args = {"env",        "create", "--runtime-env",
                                   "/dev/stdin", "--json", "--name",
                                   order.hold,   "--ttl",  std::to_string(options_.hold.count())};
  if (!options_.python.empty()) args.insert(args.end(), {"--python", options_.python});
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
  std::string id = id_in(ended->out);
  if (id.empty()) co_return without_a_word(0);
  co_return id;
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
