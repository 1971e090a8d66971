#include "installers/early_wheels.h"

#include <fcntl.h>

#include <algorithm>
#include <thread>

#include "installers/index.h"
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

store::Key early_key(const store::Key& wheel) {
  return {store::Hasher().field("early").field(wheel.hex).hex()};
}

}  // namespace

Result<UniqueFd> scratch_file(const store::Store& store) {
  sys::AsRoot root;
  return sys::open_at(store.dir(), "tmp", O_TMPFILE | O_RDWR, 0600);
}

Sharing::Sharing(const Job& job) : index_(job.uv.index()) {
  for (const std::string& variable : job.uv.environment()) {
    if (!variable.starts_with("NETRC=")) continue;
    if (auto text = sys::read_file(variable.substr(6), 1 << 20)) netrc_ = *text;
  }
}

store::Whose Sharing::whose_is(const std::string& url) const {
  bool own = url.starts_with("file:") || is_private(url, index_, netrc_);
  return own ? store::Whose::kCaller : store::Whose::kEverybody;
}

EarlyWheels::EarlyWheels(const Job& job)
    : job_(job),
      sharing_(job),
      fetches_(job.progress, deadline_of(job.uv), options_for(job.field, job.uv)) {}

Uv::Meanwhile EarlyWheels::meanwhile() {
  return {
      [this](const std::string& url) { asked_for(url); },
      [this](pollfd* fds, nfds_t count, int timeout_ms) { return wait(fds, count, timeout_ms); }};
}

int EarlyWheels::wait(pollfd* fds, nfds_t count, int timeout_ms) {
  auto worth = [&] { return !tried_ && fetches_.arrived() >= kWorthCompilers; };
  bool soon = worth() && (timeout_ms < 0 || timeout_ms > kTurnMs);  // a thread was still there
  int ready = fetches_.wait(fds, count, soon ? kTurnMs : timeout_ms);
  if (worth() && sys::thread_count() == 1) start_compilers();
  unpack_arrived();
  return ready;
}

void EarlyWheels::start_compilers() {
  if (std::exchange(tried_, true) || std::thread::hardware_concurrency() < 2) return;
  auto started = Compilers::start(job_.python, Compilers::Pace::kBeside);
  if (started.ok()) compilers_ = std::move(started.value());
}

void EarlyWheels::asked_for(const std::string& url) {
  fetches_.expect();
  std::string wheel = wheel_in(url);
  auto called = parse_wheel_name(wheel_of_url(wheel));
  if (!called || names_.size() >= kMostGuesses) return;
  auto file = scratch_file(job_.store);
  if (!file.ok() || !names_.insert(called->name).second) return;
  FetchJob job;
  job.url = with_credentials(wheel, job_.uv.index());
  job.fd = file->get();
  auto arrived = [this, wheel](const Fetched& got) { arrived_.push_back({wheel, got.sha256}); };
  size_t number = fetches_.guess(std::move(job), std::move(arrived));
  guesses_.emplace(wheel, Guess{number, std::move(file.value()), nullptr});
}

// Where compilers couldn't be started, or aren't worth it, there is no core or no work for this.
void EarlyWheels::unpack_arrived() {
  if (!compilers_ && !unpacker_) return;
  for (const Arrived& arrived : std::exchange(arrived_, {})) unpack(arrived);
}

void EarlyWheels::unpack(const Arrived& arrived) {
  auto guess = guesses_.find(arrived.url);
  auto wheel = parse_wheel_name(wheel_of_url(arrived.url));
  if (guess == guesses_.end() || !wheel) return;
  store::Key key = wheel_key(arrived.sha256, job_.python);
  store::Whose whose = sharing_.whose_is(arrived.url);
  if (is_known(key, whose)) return;
  auto lock = job_.store.try_lock(early_key(key), whose);
  if (!lock.ok() || !lock.value()) return;
  if (!unpacker_) unpacker_ = std::make_unique<Unpacker>(job_, std::exchange(compilers_, {}));
  auto begun = unpacker_->begin(guess->second.file.get(), std::move(*wheel));
  if (!begun.ok()) return;
  guess->second.unpacking = begun.value();
  locks_.push_back(std::move(*lock.value()));
}

bool EarlyWheels::is_known(const store::Key& wheel, store::Whose whose) const {
  auto record = job_.store.lookup(wheel, whose);
  return record.ok() && record.value().has_value();
}

std::optional<EarlyWheels::Guess> EarlyWheels::take(const std::string& url) {
  auto found = guesses_.find(url.substr(0, url.find_first_of("?#")));
  if (found == guesses_.end()) return {};
  Guess guess = std::move(found->second);
  guesses_.erase(found);
  return guess;
}

Unpacker& EarlyWheels::unpacker(bool worth) {
  for (const auto& [url, guess] : guesses_)
    if (guess.unpacking != nullptr) unpacker_->withdraw(guess.unpacking);
  if (unpacker_) return *unpacker_;
  for (int turn = 0; worth && turn < kSettleTurns && !tried_ && sys::thread_count() > 1; ++turn)
    (void)fetches_.wait(nullptr, 0, kTurnMs);
  if (worth && !tried_ && sys::thread_count() == 1) start_compilers();
  if (!worth) compilers_.reset();
  unpacker_ = std::make_unique<Unpacker>(job_, std::exchange(compilers_, {}));
  return *unpacker_;
}

}  // namespace rtlaunch::installers
