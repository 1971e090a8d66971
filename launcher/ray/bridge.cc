#include "launcher/ray/bridge.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "config/json.h"
#include "isolation/sys/process.h"
#include "launcher/ray/child.h"

namespace rtlaunch::ray {
namespace {

using config::Json;

constexpr const char* kVariable = "RAY_RUNTIME_ENV_PLUGINS";
constexpr const char* kOurs = "rtlaunch.ray.Plugin";
constexpr const char* kStep = "runtime_env plugin";
constexpr size_t kMostLine = 64 << 20;
constexpr auto kToObey = seconds(5);
constexpr auto kTick = seconds(60);

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The classes beside our own, as Ray's agent would read them.
std::string other_classes(const Knobs::Variables& variables) {
  auto found = variables.find(kVariable);
  Json all = found == variables.end() ? Json() : Json::parse(found->second, nullptr, false);
  if (!all.is_array()) return "";
  Json others = Json::array();
  for (const Json& one : all) {
    bool ours = one.is_object() && one.value("class", Json()) == kOurs;
    if (!ours) others.push_back(one);
  }
  return others.empty() ? "" : dump(others);
}

LogLevel level_named(const std::string& name) {
  if (name == "ERROR" || name == "CRITICAL") return LogLevel::kError;
  return name == "WARNING" ? LogLevel::kWarning : LogLevel::kInfo;
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) return "was ended by signal " + std::to_string(WTERMSIG(status));
  return "ended with status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

// One setup that waits for its answer.
struct Bridge::Asked {
  explicit Asked(SetupLog* to) : log(to) {}
  SetupLog* log;   // null: nobody listens any more
  std::string at;  // "NAME: STEP"
  bool answered = false;
  Done done;
};

struct Bridge::Process {
  Process(asio::io_context& io, UniqueFd pid, UniqueFd in, UniqueFd out)
      : pidfd(io, std::move(pid)), to(io, std::move(in)), from(io, std::move(out)), changed(io) {}
  Watched pidfd, to, from;
  std::string outbox, rest;
  bool writing = false, ready = false;
  std::optional<Error> over;  // how it has ended, or why it is of no use
  std::map<uint64_t, std::shared_ptr<Asked>> asked;
  Bell changed;
};

Bridge::Bridge(asio::io_context& io, std::string python, Knobs::Variables variables)
    : io_(io),
      python_(python.empty() ? "python3" : std::move(python)),
      classes_(other_classes(variables)),
      variables_(std::move(variables)) {
  variables_[kVariable] = classes_;
}

Bridge::~Bridge() = default;

bool Bridge::serves(const std::string& field) const { return names_.contains(field); }

Status Bridge::start() {
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0) return sys_error("pipe", "");
  UniqueFd theirs_in(in[0]), ours_in(in[1]);
  if (::pipe2(out, O_CLOEXEC) != 0) return sys_error("pipe", "");
  UniqueFd ours_out(out[0]), theirs_out(out[1]);
  ::fcntl(ours_in.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(ours_out.get(), F_SETFL, O_NONBLOCK);
  sys::ProgramStart program;
  program.argv = {"/usr/bin/env", python_, "-m", "rtlaunch.ray.bridge"};
  for (const auto& [name, value] : variables_) program.env.push_back(name + "=" + value);
  program.fds = {theirs_in.get(), theirs_out.get(), STDERR_FILENO};
  program.default_signals = true;
  char cwd[4096];
  if (::getcwd(cwd, sizeof cwd) != nullptr) program.cwd = cwd;
  sys::Cloned cloned = TRY(sys::start_program(program));
  process_ = std::make_shared<Process>(io_, std::move(cloned.pidfd), std::move(ours_in),
                                       std::move(ours_out));
  Json uris = Json::array();
  for (const auto& [name, uri] : made_) uris.push_back({name, uri});
  send(process_, dump({{"op", "have"}, {"uris", std::move(uris)}}));
  spawn(io_, listen(process_));
  return {};
}

awaitable<Result<Bridge::ProcessPtr>> Bridge::ready(Clock::time_point deadline) {
  if (!process_ || process_->over) {
    Status started = start();
    if (!started) co_return started.error();
  }
  ProcessPtr process = process_;
  while (!process->ready && !process->over) {
    Clock::duration left = deadline - Clock::now();
    if (left <= Clock::duration::zero()) co_return Error{kStep, kTimeIsUp, "start", "", "", 125};
    co_await process->changed.wait(std::min<Clock::duration>(left, kTick));
  }
  if (process->over) co_return *process->over;
  co_return process;
}

awaitable<Result<std::set<std::string>>> Bridge::names(Clock::time_point deadline) {
  if (names_.empty()) {
    auto process = co_await ready(deadline);
    if (!process) co_return process.error();
  }
  co_return names_;
}

void Bridge::send(const ProcessPtr& process, const std::string& line) {
  process->outbox += line + "\n";
  if (!process->writing) spawn(io_, write(process));
  process->writing = true;
}

// Never waits in write(2): a plugin that doesn't read must not hold up the agent.
awaitable<void> Bridge::write(ProcessPtr process) {
  while (!process->outbox.empty() && !process->over) {
    ssize_t count = ::write(process->to.fd(), process->outbox.data(), process->outbox.size());
    if (count > 0) process->outbox.erase(0, static_cast<size_t>(count));
    if (count < 0 && errno != EAGAIN && errno != EINTR) break;
    if (count < 0 && errno == EAGAIN) co_await process->to.wait(Watched::kWrite, kTick);
  }
  process->writing = false;
}

void Bridge::take_line(Process& process, const std::string& line) {
  Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return;
  if (json.contains("unfit")) {
    process.over = make_error(kStep, kVariable, json.value("unfit", ""),
                              "mend the class, or take it out of " + std::string(kVariable));
    return;
  }
  if (json.contains("ready")) {
    for (const Json& name : json["ready"]) names_.insert(name.get<std::string>());
    process.ready = true;
    return;
  }
  auto found = process.asked.find(json.value("id", uint64_t{0}));
  if (found == process.asked.end()) return;
  Asked& asked = *found->second;
  if (json.contains("log")) {
    if (asked.log) asked.log->write(level_named(json["log"].at(0)), std::string(json["log"].at(1)));
    return;
  }
  if (json.contains("at"))
    asked.at = json.value("at", "").empty() ? asked.at : json.value("at", "");
  if (!json.contains("uris")) return;
  for (const Json& one : json["uris"]) {
    asked.done.uris.push_back({Uri{one.at(0), one.at(1), ""}, one.at(2).get<uint64_t>()});
    made_.emplace(one.at(0), one.at(1));
  }
  if (json.contains("error")) {
    asked.done.error = make_error(kStep, asked.at, json.value("error", ""),
                                  "the setup log has the whole traceback");
    asked.done.again = json.value("again", false);
  } else {
    asked.done.context = dump(json.at("context"));
  }
  asked.answered = true;
}

awaitable<void> Bridge::listen(ProcessPtr process) {
  char buffer[65536];
  for (;;) {
    ssize_t count = ::read(process->from.fd(), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {
      co_await process->from.wait(Watched::kRead, kTick);
      continue;
    }
    if (count <= 0) break;
    process->rest.append(buffer, static_cast<size_t>(count));
    size_t from = 0;
    for (size_t end; (end = process->rest.find('\n', from)) != std::string::npos; from = end + 1) {
      try {
        take_line(*process, process->rest.substr(from, end - from));
      } catch (const Json::exception&) {  // no line of the bridge's own
      }
    }
    process->rest.erase(0, from);
    if (process->rest.size() > kMostLine) break;
    process->changed.ring();
  }
  (void)sys::send_signal(process->pidfd.fd(), SIGKILL).ok();
  co_await process->pidfd.wait(Watched::kRead, kToObey);
  auto status = sys::wait_for(process->pidfd.fd());
  if (!process->over) {
    process->over = Error{kStep,
                          EAGAIN,
                          "",
                          "the Python process of Ray's plugins " +
                              (status ? how_it_ended(*status) : std::string("is gone")),
                          "runtime_env_agent.err has its last words; the next that needs it "
                          "starts it anew",
                          125};
  }
  process->changed.ring();
}

// Its time is up. Who doesn't hear it holds up every other plugin, too.
awaitable<void> Bridge::end_setup(ProcessPtr process, std::shared_ptr<Asked> asked, uint64_t id) {
  asked->log = nullptr;
  send(process, dump({{"id", id}, {"op", "cancel"}}));
  auto until = Clock::now() + kToObey;
  while (!asked->answered && !process->over && Clock::now() < until)
    co_await process->changed.wait(until - Clock::now());
  if (!asked->answered && !process->over) (void)sys::send_signal(process->pidfd.fd(), SIGKILL).ok();
  process->asked.erase(id);
}

awaitable<Bridge::Done> Bridge::setup(Setup what, Clock::time_point deadline, SetupLog& log) {
  auto process = co_await ready(deadline);
  if (!process) co_return Done{process.error(), process.error().code == EAGAIN, "", {}};
  ProcessPtr at = *process;
  uint64_t id = ++ids_;
  auto asked = std::make_shared<Asked>(&log);
  at->asked[id] = asked;
  ++waiting_;
  Json request = {{"id", id},
                  {"op", "setup"},
                  {"env", std::move(what.env)},
                  {"context", Json::parse(what.context, nullptr, false)},
                  {"working_dir", nullptr}};
  if (!what.working_dir.empty()) request["working_dir"] = what.working_dir;
  send(at, dump(request));
  while (!asked->answered && !at->over && Clock::now() < deadline)
    co_await at->changed.wait(std::min<Clock::duration>(deadline - Clock::now(), kTick));
  --waiting_;
  if (asked->answered) {
    at->asked.erase(id);
    co_return asked->done;
  }
  if (!at->over) {
    co_await end_setup(at, asked, id);
    asked->done.error = Error{kStep, kTimeIsUp, asked->at, "", "", 125};
    co_return asked->done;
  }
  asked->log = nullptr;
  Error died = *at->over;
  died.object = asked->at;
  co_return Done{std::move(died), true, "", {}};
}

void Bridge::remove(const Uri& uri) {
  made_.erase({uri.field, uri.uri});
  bool dead = !process_ || process_->over;
  if (dead && !start()) return;
  send(process_, dump({{"op", "delete"}, {"name", uri.field}, {"uri", uri.uri}}));
}

}  // namespace rtlaunch::ray
