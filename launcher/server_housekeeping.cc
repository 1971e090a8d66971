#include "launcher/server_housekeeping.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>

#include "isolation/sys/process.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;

constexpr auto kToStart = seconds(30), kBetweenLooks = seconds(1);
constexpr auto kLongestJob = std::chrono::hours(6);
constexpr size_t kMostOutput = 4 << 20;

bool take_output(int fd, std::string& text) {
  char buffer[16384];
  ssize_t count = ::read(fd, buffer, sizeof buffer);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  if (text.size() < kMostOutput) text.append(buffer, static_cast<size_t>(count));
  return count > 0;
}

}  // namespace

Housekeeping::Housekeeping(asio::io_context& io, std::string store, std::string plugins,
                           Rules rules, Spawners& spawners, const Builds& builds, Journal& journal,
                           Metrics& metrics)
    : io_(io),
      store_(std::move(store)),
      plugins_(std::move(plugins)),
      rules_(rules),
      spawners_(spawners),
      builds_(builds),
      journal_(journal),
      metrics_(metrics),
      work_(io),
      collect_at_(Clock::now() + rules.collect_every) {}

void Housekeeping::start() { spawn(io_, serve()); }

void Housekeeping::stop() {
  stopping_ = true;
  if (pidfd_.valid()) spawn(io_, end_builder(io_, std::move(pidfd_)));
  work_.ring();
}

void Housekeeping::settle_later(const isolation::User& caller, UniqueFd document) {
  if (settles_.size() >= kMostSettles) settles_.pop_front();
  settles_.push_back({caller, std::move(document), Clock::now() + rules_.settle_after});
  work_.ring();
}

void Housekeeping::collect_soon() {
  collect_at_ = Clock::now();
  work_.ring();
}

bool Housekeeping::settle_is_due() const {
  return !settles_.empty() && settles_.front().due <= Clock::now();
}

awaitable<void> Housekeeping::serve() {
  while (!stopping_) {
    co_await wait_for_work();
    co_await wait_for_builds();
    if (stopping_) co_return;
    busy_ = true;
    if (settle_is_due()) {
      Settle job = std::move(settles_.front());
      settles_.pop_front();
      co_await settle(std::move(job));
      if (settles_.empty()) collect_at_ = Clock::now();
    } else if (collect_at_ <= Clock::now()) {
      collect_at_ = Clock::now() + rules_.collect_every;
      co_await collect();
    }
    busy_ = false;
  }
}

awaitable<void> Housekeeping::wait_for_work() {
  while (!stopping_ && !settle_is_due() && collect_at_ > Clock::now()) {
    auto next = settles_.empty() ? collect_at_ : std::min(collect_at_, settles_.front().due);
    co_await work_.wait(std::max<Clock::duration>(next - Clock::now(), milliseconds(1)));
  }
}

awaitable<void> Housekeeping::wait_for_builds() {
  auto until = Clock::now() + rules_.most_patience;
  while (!stopping_ && builds_.running() + builds_.waiting() > 0 && Clock::now() < until) {
    co_await sleep_for(io_, kBetweenLooks);
  }
}

awaitable<void> Housekeeping::settle(Settle job) {
  std::vector<std::string> arguments = {"settle"};
  for (std::string& option : builder_options(job.caller, store_, plugins_)) {
    arguments.push_back(std::move(option));
  }
  count("settle", co_await run(std::move(arguments), std::move(job.document)));
}

// GCC 12 can't have an initializer list in a coroutine.
std::vector<std::string> Housekeeping::store_arguments(const char* verb) const {
  return {"store", verb, "--json", "--store", store_};
}

awaitable<void> Housekeeping::collect() {
  auto collected = co_await run(store_arguments("gc"), UniqueFd());
  count("collect", collected);
  if (collected) take_collected(collected->text);
  auto stats = co_await run(store_arguments("stats"), UniqueFd());
  if (stats && stats->status == 0) take_stats(stats->text);
}

awaitable<Result<Housekeeping::Output>> Housekeeping::run(std::vector<std::string> arguments,
                                                          UniqueFd document) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) co_return sys_error("pipe", "");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  ::fcntl(ours.get(), F_SETFL, O_NONBLOCK);
  SpawnRequest request;
  request.kind = SpawnRequest::Kind::kBuild;
  request.arguments = std::move(arguments);
  request.idle = true;
  request.document = std::move(document);
  if (!request.document.valid()) request.document.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  request.output = std::move(theirs);
  auto asked = spawners_.ask(std::move(request));
  if (!asked) co_return asked.error();
  co_return co_await follow(*asked, std::make_shared<Watched>(io_, std::move(ours)));
}

awaitable<Result<Housekeeping::Output>> Housekeeping::follow(std::shared_ptr<Asked> asked,
                                                             std::shared_ptr<Watched> output) {
  auto started = co_await asked->next(kToStart);
  if (!started) co_return started.error();
  if (started->kind != SpawnReply::Kind::kStarted) co_return started->error;
  pidfd_ = std::move(started->pidfd);
  auto until = Clock::now() + kLongestJob;
  Output result;
  while (Clock::now() < until) {
    bool ready = co_await output->wait(Watched::kRead, until - Clock::now());
    if (ready && !take_output(output->fd(), result.text)) break;
  }
  auto last = co_await asked->next(kToStart);
  if (pidfd_.valid()) spawn(io_, end_builder(io_, std::move(pidfd_)));
  if (!last) co_return last.error();
  result.status = last->status;
  co_return result;
}

void Housekeeping::count(const char* job, const Result<Output>& done) {
  bool fine = done.ok() && done->status == 0;
  const char* result = fine ? "done" : "failed";
  metrics_.count("rtlaunch_background_total", {{"job", job}, {"result", result}});
  if (std::string_view(job) == "collect") {
    metrics_.count("rtlaunch_collections_total", {{"result", result}});
  }
  Facts facts = {.more = {{"job", job}}};
  if (!done.ok()) facts = facts_of(done.error(), std::move(facts));
  if (done.ok()) facts.more.emplace_back("status", int64_t{done->status});
  journal_.say(fine ? Level::kInfo : Level::kWarning, fine ? "background" : "background_failed",
               facts);
}

void Housekeeping::take_collected(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("layers")) return;
  auto layers = json["layers"].size();
  int64_t bytes = json["bytes"].is_number_integer() ? json["bytes"].get<int64_t>() : 0;
  metrics_.count("rtlaunch_collected_layers_total", {}, static_cast<double>(layers));
  metrics_.count("rtlaunch_collected_bytes_total", {}, static_cast<double>(bytes));
  if (layers == 0) return;
  journal_.say(Level::kInfo, "collected",
               {.more = {{"layers", static_cast<int64_t>(layers)}, {"bytes", bytes}}});
}

void Housekeeping::take_stats(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) return;
  stats_ = json.dump();
  auto set = [&](const char* metric, const char* key) {
    if (json.contains(key) && json[key].is_number()) metrics_.set(metric, json[key].get<double>());
  };
  set("rtlaunch_store_bytes", "bytes");
  set("rtlaunch_store_layers", "layers");
  set("rtlaunch_store_free_bytes", "free");
}

}  // namespace rtlaunch
