#include "launcher/server_builds.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "launcher/request.h"

namespace rtlaunch {
namespace {

constexpr auto kToStart = seconds(30), kToEnd = seconds(30), kToObey = seconds(5);
constexpr auto kLongestBuild = std::chrono::hours(12), kLongestQueue = std::chrono::hours(1);
constexpr size_t kLongestLine = 256 << 10;

Error again(const std::string& reason) { return Error{"build", EAGAIN, "", reason, "try again"}; }

// "py_modules[3]" is py_modules to whoever counts.
std::string kind_of(const std::string& field) { return field.substr(0, field.find('[')); }

void take_line(Build& build, const std::string& line) {
  auto answer = parse_answer(line);
  if (!answer) {
    build.told = answer.error();
  } else if (answer->kind == Answer::Kind::kError) {
    build.told = answer->error;
  } else if (answer->kind == Answer::Kind::kDone) {
    build.done = true;
  } else {
    std::string event = event_line(answer->event);
    event.pop_back();
    build.on_event(event);
  }
}

// False at the end of the output.
bool take_output(Build& build, int fd, std::string& rest) {
  char buffer[16384];
  ssize_t count = ::read(fd, buffer, sizeof buffer);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  if (count == 0) return false;
  rest.append(buffer, static_cast<size_t>(count));
  for (size_t end; (end = rest.find('\n')) != std::string::npos; rest.erase(0, end + 1)) {
    take_line(build, rest.substr(0, end));
  }
  if (rest.size() > kLongestLine) rest.clear();
  return true;
}

Status outcome(const Build& build, const Result<SpawnReply>& last) {
  if (build.told) return *build.told;
  if (build.cancelled) {
    return Error{"build", ECANCELED, build.field, "was ended", "ask for it again", 125};
  }
  if (!last) return last.error();
  if (last->kind == SpawnReply::Kind::kFailed) return last->error;
  if (build.done && last->status == 0) return {};
  if (WIFSIGNALED(last->status)) {
    return make_error(
        build.field, "rtlaunch-build",
        "ended by signal " + std::to_string(WTERMSIG(last->status)) +
            (WTERMSIG(last->status) == SIGKILL ? ": out of memory, or killed by hand" : ""),
        "run again");
  }
  return make_error(build.field, "rtlaunch-build",
                    "ended without an answer, status " + std::to_string(last->status),
                    "check that rtlaunch-build and its libraries are installed");
}

}  // namespace

std::vector<std::string> builder_options(const isolation::User& caller, const std::string& store,
                                         const std::string& plugins,
                                         const config::Allowed& allowed) {
  std::string who = std::to_string(caller.uid) + ":" + std::to_string(caller.gid) + ":";
  for (size_t i = 0; i < caller.groups.size(); ++i) {
    who += (i > 0 ? "," : "") + std::to_string(caller.groups[i]);
  }
  std::vector<std::string> options = {"--caller", who, "--store", store, "--plugins", plugins};
  if (allowed == config::Allowed()) return options;
  options.insert(options.end(), {"--allowed", config::allowed_json(allowed)});
  return options;
}

Result<UniqueFd> open_again(int fd) {
  return sys::open_at(AT_FDCWD, "/proc/self/fd/" + std::to_string(fd), O_RDONLY);
}

Builds::Builds(asio::io_context& io, std::string store, std::string plugins, Limits limits,
               Spawners& spawners, Journal& journal, Metrics& metrics)
    : io_(io),
      store_(std::move(store)),
      plugins_(std::move(plugins)),
      spawners_(spawners),
      journal_(journal),
      metrics_(metrics),
      running_(limits.each, limits.all),
      queued_(limits.queue_each, limits.queue) {}

awaitable<Status> Builds::make(std::shared_ptr<Build> build) {
  auto began = Clock::now();
  Share slot(running_, build->caller.uid);
  Status status = co_await wait_for_turn(build, &slot);
  if (status.ok()) {
    active_.push_back(build);
    status = co_await run(build);
    active_.remove(build);
  }
  slot.release();
  next_turn();
  count(*build, status, began);
  co_return status;
}

awaitable<Status> Builds::wait_for_turn(std::shared_ptr<Build> build, Share* slot) {
  Share place(queued_, build->caller.uid);
  if (closed_) co_return again("rtlaunchd is being restarted");
  if (!place.resize(1)) co_return again("too many builds wait already");
  waiting_.push_back({build, slot});
  next_turn();
  if (slot->count() == 0) build->on_event(R"({"event":"queued"})");
  auto until = Clock::now() + kLongestQueue;
  while (slot->count() == 0 && !build->cancelled && !closed_ && Clock::now() < until) {
    co_await build->changed.wait(until - Clock::now());
  }
  waiting_.remove_if([&](const Waiting& waiting) { return waiting.build == build; });
  if (build->cancelled) {
    co_return Error{"build", ECANCELED, build->field, "was ended", "ask for it again", 125};
  }
  if (slot->count() == 0) co_return again("its turn has not come");
  co_return Status();
}

void Builds::next_turn() {
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    bool granted = at->slot->resize(1);
    if (granted) at->build->changed.ring();
    at = granted ? waiting_.erase(at) : std::next(at);
  }
  metrics_.set("rtlaunch_builds_running", static_cast<double>(running_.total()));
  metrics_.set("rtlaunch_builds_queued", static_cast<double>(waiting_.size()));
}

awaitable<Status> Builds::run(std::shared_ptr<Build> build) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) co_return sys_error("pipe", "");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  ::fcntl(ours.get(), F_SETFL, O_NONBLOCK);
  auto output = std::make_shared<Watched>(io_, std::move(ours));
  SpawnRequest request;
  request.kind = SpawnRequest::Kind::kBuild;
  request.caller = build->caller;
  request.arguments = {"make", build->field};
  for (std::string& option : builder_options(build->caller, store_, plugins_, build->allowed)) {
    request.arguments.push_back(std::move(option));
  }
  request.document = std::move(build->document);
  request.output = std::move(theirs);
  auto asked = spawners_.ask(std::move(request));
  if (!asked) co_return asked.error();
  co_return co_await follow(build, *asked, output);
}

awaitable<Status> Builds::follow(std::shared_ptr<Build> build, std::shared_ptr<Asked> asked,
                                 std::shared_ptr<Watched> output) {
  auto asked_at = Clock::now();
  auto reply = co_await asked->next(kToStart);
  if (!reply && reply.error().code == ETIMEDOUT) spawners_.check_hangs(asked_at);
  if (!reply || reply->kind != SpawnReply::Kind::kStarted) co_return outcome(*build, reply);
  auto pidfd = std::make_shared<UniqueFd>(std::move(reply->pidfd));
  build->stop = [this, pidfd] {
    if (pidfd->valid()) spawn(io_, end_builder(io_, std::move(*pidfd)));
  };
  if (build->cancelled) build->stop();
  auto until = Clock::now() + kLongestBuild;
  std::string rest;
  while (Clock::now() < until) {
    bool ready = co_await output->wait(Watched::kRead, until - Clock::now());
    if (ready && !take_output(*build, output->fd(), rest)) break;
  }
  if (Clock::now() >= until) build->cancel();
  auto last = co_await asked->next(kToEnd);
  build->stop();  // if it still runs, nobody hears it any more
  build->stop = {};
  co_return outcome(*build, last);
}

awaitable<void> end_builder(asio::io_context& io, UniqueFd pidfd) {
  Watched watched(io, std::move(pidfd));
  if (!sys::send_signal(watched.fd(), SIGTERM).ok()) co_return;
  if (co_await watched.wait(Watched::kRead, kToObey)) co_return;
  (void)sys::send_signal(watched.fd(), SIGKILL).ok();
}

void Builds::close_gate() {
  closed_ = true;
  for (Waiting& waiting : waiting_) waiting.build->changed.ring();
}

void Builds::end_all() {
  for (const auto& build : std::list(active_)) build->cancel();
}

void Builds::count(const Build& build, const Status& status, Clock::time_point began) {
  std::chrono::duration<double> took = Clock::now() - began;
  bool cancelled = !status.ok() && status.error().code == ECANCELED;
  const char* result = status.ok() ? "made" : cancelled ? "cancelled" : "failed";
  metrics_.count("rtlaunch_builds_total", {{"field", kind_of(build.field)}, {"result", result}});
  metrics_.observe("rtlaunch_build_seconds", {{"field", kind_of(build.field)}}, took.count());
  Facts facts = {.request = build.request, .uid = build.caller.uid};
  facts.more = {{"field", build.field}, {"ms", static_cast<int64_t>(took.count() * 1000)}};
  if (!status.ok()) facts = facts_of(status.error(), std::move(facts));
  journal_.say(status.ok() ? Level::kInfo : Level::kWarning, status.ok() ? "built" : "build_failed",
               facts);
}

}  // namespace rtlaunch
