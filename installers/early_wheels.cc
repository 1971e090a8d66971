#include "installers/early_wheels.h"

#include <fcntl.h>

#include <thread>

#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch::installers {
namespace {

constexpr size_t kMostGuesses = 16;
constexpr int kSettleTurns = 100;
constexpr int kTurnMs = 5;

Deadline deadline_of(const Uv& uv) {
  auto left = uv.milliseconds_left();
  return std::chrono::steady_clock::now() +
         (left ? std::chrono::milliseconds(*left) : std::chrono::hours(24));
}

FetchOptions options_for(const std::string& field, const Uv& uv) {
  FetchOptions options;
  options.layer = field;
  options.may_reach = [&uv](const std::string& url, const struct sockaddr* address, bool proxy) {
    return uv.may_reach(url, address, proxy);
  };
  return options;
}

// uv asks for a wheel's metadata beside it, or for its end. "" for anything else.
std::string wheel_in(std::string url) {
  url = strip_credentials(url.substr(0, url.find_first_of("?#")));
  constexpr std::string_view kBeside = ".metadata";
  if (url.ends_with(kBeside)) url.resize(url.size() - kBeside.size());
  bool http = url.starts_with("https://") || url.starts_with("http://");
  return http && url.ends_with(".whl") ? url : "";
}

std::string name_in(const std::string& url) {
  std::string file = url.substr(url.rfind('/') + 1);
  return normalized_name(file.substr(0, file.find('-')));
}

}  // namespace

Result<UniqueFd> scratch_file(const store::Store& store) {
  sys::AsRoot root;
  return sys::open_at(store.dir(), "tmp", O_TMPFILE | O_RDWR, 0600);
}

EarlyWheels::EarlyWheels(const Uv& uv, const Interpreter& python, const store::Store& store,
                         Progress& progress, const std::string& field)
    : uv_(uv),
      python_(python),
      store_(store),
      fetches_(progress, deadline_of(uv), options_for(field, uv)) {}

Uv::Meanwhile EarlyWheels::meanwhile() {
  return {
      [this](const std::string& url) { asked_for(url); },
      [this](pollfd* fds, nfds_t count, int timeout_ms) { return wait(fds, count, timeout_ms); }};
}

int EarlyWheels::wait(pollfd* fds, nfds_t count, int timeout_ms) {
  int ready = fetches_.wait(fds, count, timeout_ms);
  bool worth = !tried_ && fetches_.arrived() >= kWorthCompilers;
  if (worth && sys::thread_count() == 1) start_compilers();
  return ready;
}

void EarlyWheels::start_compilers() {
  if (std::exchange(tried_, true) || std::thread::hardware_concurrency() < 2) return;
  auto started = Compilers::start(python_, Compilers::Pace::kBeside);
  if (started.ok()) compilers_ = std::move(started.value());
}

void EarlyWheels::asked_for(const std::string& url) {
  fetches_.expect();
  std::string wheel = wheel_in(url);
  if (wheel.empty() || names_.size() >= kMostGuesses) return;
  auto file = scratch_file(store_);
  if (!file.ok() || !names_.insert(name_in(wheel)).second) return;
  FetchJob job;
  job.url = with_credentials(wheel, uv_.index());
  job.fd = file->get();
  size_t number = fetches_.guess(std::move(job));
  guesses_.emplace(wheel, Guess{number, std::move(file.value())});
}

std::optional<EarlyWheels::Guess> EarlyWheels::take(const std::string& url) {
  auto found = guesses_.find(url.substr(0, url.find_first_of("?#")));
  if (found == guesses_.end()) return {};
  Guess guess = std::move(found->second);
  guesses_.erase(found);
  return guess;
}

std::optional<Compilers> EarlyWheels::compilers() {
  for (int turn = 0; turn < kSettleTurns && !tried_ && sys::thread_count() > 1; ++turn)
    (void)fetches_.wait(nullptr, 0, kTurnMs);
  if (!tried_ && sys::thread_count() == 1) start_compilers();
  return std::exchange(compilers_, std::nullopt);
}

}  // namespace rtlaunch::installers
