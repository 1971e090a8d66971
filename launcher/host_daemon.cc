// The host that is rtlaunchd. A start's outcome comes on two ways: the daemon's answer, and the
// line to pid 1, which is the truth. What of the two is lost, and when, decides whether the same
// may be asked again: never once pid 1 has said that it is going.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "isolation/cgroup_limits.h"
#include "isolation/line.h"
#include "isolation/spec_wire.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/run_program.h"
#include "launcher/assumed.h"
#include "launcher/environment.h"
#include "launcher/host_parts.h"
#include "launcher/report.h"
#include "launcher/request.h"
#include "launcher/workers.h"

namespace rtlaunch {
namespace {

using config::Json;
using isolation::LineMessage;
using protocol::Refusal;

constexpr int kSlowMs = 1'000;  // from then on Ctrl-C ends the wait, before it is the command's
constexpr int kStartMs = 60'000;
constexpr int kAnswerMs = 5;          // by then it has come, on a machine that isn't busy
constexpr size_t kMostAssumed = 100;  // what one request may have of them

store::Record record_from(const Json& json) {
  store::Record record;
  record.kind = json.at("kind");
  record.name = json.at("name");
  for (const Json& layer : json.at("layers")) record.layers.push_back({layer.get<std::string>()});
  record.data = json.at("data");
  return record;
}

template <typename Named>
Json hex_list(const std::vector<Named>& named) {
  Json list = Json::array();
  for (const Named& one : named) list.push_back(one.hex);
  return list;
}

Error unreadable() {
  return make_error("rtlaunchd", "", "answered something that is no answer",
                    "install rtlaunch and rtlaunchd of one version");
}

std::vector<isolation::Sandbox::Step> steps_from(const Json& answer) {
  std::vector<isolation::Sandbox::Step> steps;
  try {
    for (const Json& step : answer.at("steps")) steps.push_back({step.at(0), step.at(1)});
  } catch (const Json::exception&) {  // timings are for people
  }
  return steps;
}

std::vector<isolation::Applied> applied_from(const Json& answer) {
  std::vector<isolation::Applied> applied;
  try {
    for (const Json& one : answer.at("controls")) {
      std::optional<isolation::Control> control =
          isolation::control_named(one.at(0).get<std::string>());
      if (control) applied.push_back({*control, one.at(1), one.at(2)});
    }
  } catch (const Json::exception&) {  // a daemon that is older
  }
  return applied;
}

class DaemonRunning : public Running {
 public:
  DaemonRunning(UniqueFd line, UniqueFd upper, Client& client, std::optional<Json> answer)
      : line_(std::move(line)),
        upper_(std::move(upper)),
        client_(client),
        answer_(std::move(answer)) {}

  // A command that has ended can't be signalled: wait() tells.
  Status send(int signal) override {
    (void)isolation::send_line(line_.get(), LineMessage::kSignal, signal).ok();
    return {};
  }
  int done_fd() const override { return line_.get(); }
  int upper_dir() const override { return upper_.get(); }
  // The daemon's answer may be on its way still. It is for people, and nothing else waits for it.
  std::vector<isolation::Sandbox::Step> steps() override {
    return await_answer() ? steps_from(*answer_) : std::vector<isolation::Sandbox::Step>();
  }
  std::string profile() override {
    return await_answer() ? answer_->value("profile", "") : std::string();
  }
  std::vector<isolation::Applied> applied() override {
    return await_answer() ? applied_from(*answer_) : std::vector<isolation::Applied>();
  }
  std::string met() const override { return met_; }

  // To hang up wakes the daemon: not while the command would like to begin.
  void runs_long() override { client_.hang_up(); }

  // An end of file without a word: pid 1 was killed, and all else with it.
  Result<int> wait() override {
    while (true) {
      UniqueFd fd;
      auto message = isolation::receive_line(line_.get(), &fd);
      if (!message || !*message) return static_cast<int>(SIGKILL);
      if ((*message)->kind == LineMessage::kEnded) return static_cast<int>((*message)->value);
      hear_reached(**message);
    }
  }

 private:
  bool await_answer() {
    while (!answer_ && !client_.broken()) {
      auto frame = client_.next();
      if (!frame) return false;
      answer_ = std::move(*frame);
    }
    return answer_.has_value();
  }

  void hear_reached(const LineMessage& message) {
    uint64_t limit = static_cast<uint32_t>(message.value);
    if (message.kind == LineMessage::kOutOfMemory) {
      met_ = isolation::described({isolation::Control::kMemory, limit * 1024});
    } else if (message.kind == LineMessage::kOutOfProcesses) {
      met_ = isolation::described({isolation::Control::kPids, limit});
    }
  }

  std::string met_;
  UniqueFd line_, upper_;
  Client& client_;
  std::optional<Json> answer_;
};

// What has been heard of one start.
struct Attempt {
  UniqueFd line, upper;
  bool going = false, started = false, line_ended = false, answered = false;
  std::optional<Json> answer;
  std::optional<Refusal> refusal;
  int64_t began = now_microseconds();
  int waited_ms() const { return static_cast<int>((now_microseconds() - began) / 1000); }
  // "Again" is only half of the answer: the line's end says that nothing has run.
  bool over() const {
    if (started) return true;
    return line_ended ? answered : refusal && !refusal->again;
  }
};

void hear_line(Attempt& attempt) {
  UniqueFd fd;
  auto message = isolation::receive_line(attempt.line.get(), &fd);
  if (!message || !*message) {
    attempt.line_ended = true;
  } else if ((*message)->kind == LineMessage::kGoing) {
    attempt.going = true;
  } else if ((*message)->kind == LineMessage::kStarted) {
    attempt.going = attempt.started = true;
    attempt.upper = std::move(fd);
  }
}

// The daemon's end, without an answer, leaves the decision to the line.
void hear_daemon(Client& client, Attempt& attempt) {
  auto frame = client.take();
  if (!frame) {
    attempt.answered = true;
    if (frame.error().code != ECONNRESET) attempt.refusal = Refusal{frame.error(), false};
  } else if (*frame && !(*frame)->contains("event")) {
    attempt.answered = true;
    attempt.refusal = Client::refusal_of(**frame);
    if (!attempt.refusal) attempt.answer = std::move(**frame);
  }
}

Status check_patience(const Client& client, const Attempt& attempt) {
  if (attempt.waited_ms() < kStartMs) return {};
  return Error{"rtlaunchd",
               ETIMEDOUT,
               client.socket(),
               "the command doesn't start",
               "see the daemon's log; does a file system hang?",
               125};
}

Status hear(Client& client, Attempt& attempt) {
  int waited = attempt.waited_ms();
  bool slow = waited >= kSlowMs;
  // A command begins when pid 1 has said that it is going. Nobody has to wake up for that, as long
  // as the daemon's answer is on its way.
  bool answer_comes = !attempt.answered && waited < kAnswerMs;
  bool line_matters = !attempt.line_ended && !attempt.started && !answer_comes;
  struct pollfd polls[3] = {{attempt.answered ? -1 : client.fd(), POLLIN, 0},
                            {line_matters ? attempt.line.get() : -1, POLLIN, 0},
                            {slow ? client.signals().fd() : -1, POLLIN, 0}};
  int ready = ::poll(polls, 3, answer_comes ? kAnswerMs : kSlowMs);
  if (ready < 0 && errno != EINTR) return sys_error("poll", "rtlaunchd");
  if (ready <= 0) return check_patience(client, attempt);
  if (polls[1].revents != 0) hear_line(attempt);
  if (polls[0].revents != 0) hear_daemon(client, attempt);
  if (polls[2].revents != 0) TRY(client.check_signals());
  return {};
}

class DaemonHost : public Host {
 public:
  DaemonHost(Client client, std::string own_store)
      : client_(std::move(client)), own_store_(std::move(own_store)) {}

  bool shares_terminal() const override { return false; }
  const std::string& store() const override { return client_.store(); }
  Result<std::string> plugins() override {
    if (client_.plugins().empty()) TRY(lookup({{store::sha256_hex("")}}));
    return client_.plugins();
  }

  Result<const store::Store*> own() override {
    if (!own_) {
      std::string path = TRY(store_path(own_store_));
      own_ = TRY(store::Store::open_for_caches(path));
    }
    return &*own_;
  }

  // The daemon hides what is its own.
  std::vector<std::string> hidden() const override {
    auto path = own_ ? Result<std::string>(own_->path()) : store_path(own_store_);
    if (!path || ::access(path->c_str(), F_OK) != 0) return {};
    return {*path};
  }

  std::optional<Past> start_past(const Launch& launch) override;
  void started_past(const Past& past, pid_t pid1, const std::string& lacking) override;

  void expect_start() override { expects_start_ = may_assume_ = true; }
  bool assumed_wrongly() override { return std::exchange(wrongly_, false); }

  Result<std::vector<std::optional<store::Record>>> lookup(
      const std::vector<store::Key>& keys) override;
  Status make(const std::vector<std::string>& fields, const installers::PlanRequest& request,
              Report& report) override;
  Result<Shape> shape(const Asked& asked, bool surely) override;
  Result<std::unique_ptr<Running>> start(Launch launch) override;
  Status remember(const store::Key& id, const store::Record& record) override;
  void touch(const store::Key&) override {}  // a start names its environment
  Result<Found> environment(const std::string& id) override;
  Status hold(const std::string& name, const store::Key& id, int64_t ttl) override;
  Status hold_again(const store::Key& id) override;
  Status settle(const installers::PlanRequest&) override { return {}; }  // it does, by itself
  void ended() override {}

 private:
  std::optional<Assumed> assume(const std::string& asked);
  void note(const std::string& asked, std::vector<Assumed::Entry> records);
  void keep_answers();
  Result<std::unique_ptr<Running>> start_assuming(Json request, Launch launch);

  Client client_;
  std::string own_store_;
  std::optional<store::Store> own_;
  bool expects_start_ = false, may_assume_ = false, wrongly_ = false;
  std::map<std::string, std::string> assumed_;  // as `start` has them
  std::vector<std::pair<std::string, std::vector<Assumed::Entry>>>
      answers_;  // that aren't kept yet
};

// What was answered the last time.
std::optional<Assumed> DaemonHost::assume(const std::string& asked) {
  auto path = may_assume_ ? store_path(own_store_) : Result<std::string>(Error());
  auto known = path ? find_assumed(*path, client_.socket(), asked) : std::nullopt;
  bool fits = known && known->records.size() + assumed_.size() <= kMostAssumed;
  if (!fits) return std::nullopt;
  client_.assume(known->store, known->plugins);
  assumed_["store"] = known->store;
  assumed_["plugins"] = known->plugins;
  for (const Assumed::Entry& entry : known->records) assumed_[entry.key] = entry.digest;
  return known;
}

void DaemonHost::note(const std::string& asked, std::vector<Assumed::Entry> records) {
  if (expects_start_) answers_.emplace_back(asked, std::move(records));
}

// Once a start has shown that they are right, and while its command runs.
void DaemonHost::keep_answers() {
  auto path = store_path(own_store_);
  for (auto& [asked, records] : answers_) {
    for (Assumed::Entry& entry : records) entry.digest = digest_of(entry.record);
    Assumed answer{client_.store(), client_.plugins(), std::move(records)};
    if (path) keep_assumed(*path, client_.socket(), asked, answer);
  }
  answers_.clear();
}

// An answer that isn't whole will be another one soon.
void add_whole(const std::vector<store::Key>& keys,
               const std::vector<std::optional<store::Record>>& records,
               std::vector<Assumed::Entry>* entries) {
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!records[i]) return entries->clear();
    entries->push_back({keys[i].hex, "", *records[i]});
  }
}

Result<std::vector<std::optional<store::Record>>> DaemonHost::lookup(
    const std::vector<store::Key>& keys) {
  std::string asked = "lookup";
  for (const store::Key& key : keys) asked += " " + key.hex;
  std::vector<std::optional<store::Record>> records;
  if (auto known = assume(asked); known && known->records.size() == keys.size()) {
    for (Assumed::Entry& entry : known->records) records.emplace_back(std::move(entry.record));
    return records;
  }
  Json answer = TRY(client_.ask({{"op", "lookup"}, {"keys", hex_list(keys)}}));
  try {
    for (const Json& record : answer.at("records")) {
      records.emplace_back();
      if (!record.is_null()) records.back() = record_from(record);
    }
  } catch (const Json::exception&) {
    return unreadable();
  }
  if (records.size() != keys.size()) return unreadable();
  std::vector<Assumed::Entry> entries;
  add_whole(keys, records, &entries);
  if (!entries.empty()) note(asked, std::move(entries));
  return records;
}

void show_event(const Json& event, Report& report) {
  try {
    if (event.at("event") == "made") return report.layer_done(event.at("field"));
    if (event.at("event") != "progress") return;
    report.report({event.at("layer"), event.at("phase"), event.at("object"), event.at("done"),
                   event.at("total")});
  } catch (const Json::exception&) {  // progress is for people
  }
}

Status DaemonHost::make(const std::vector<std::string>& fields,
                        const installers::PlanRequest& request, Report& report) {
  UniqueFd document = TRY(sys::memory_file(request_json(request, client_.store())));
  Json names = fields;
  TRY(client_.ask(
      {{"op", "make"}, {"fields", names}}, {document.get()},
      [&](const Json& event) { show_event(event, report); }, true));
  return {};
}

Result<Attempt> try_start(Client& client, const Json& request, int document,
                          const isolation::Spec& spec) {
  auto [ours, theirs] = TRY(isolation::make_line());
  Attempt attempt;
  attempt.line = std::move(ours);
  Status sent =
      client.send(request, {document, spec.stdin_fd, spec.stdout_fd, spec.stderr_fd, theirs.get()});
  theirs.reset();
  if (!sent) {
    attempt.refusal = Refusal{sent.error(), true};
    return attempt;
  }
  while (!attempt.over()) TRY(hear(client, attempt));
  return attempt;
}

Error lost(const std::string& socket, bool going) {
  Error error{"rtlaunchd", ECONNRESET, socket, "the daemon went away during the start",
              "try again", 125};
  if (going) error.reason = "the command was lost while it started; it may have begun";
  return error;
}

// Its pid namespace is where the command's pid is chosen. A peer that we can't see has none here
// (unix(7)), and lives further out.
Status check_same_processes(Client& client) {
  if (client.broken()) TRY(client.ask({{"op", "lookup"}, {"keys", Json::array()}}));
  struct ucred daemon = {};
  socklen_t size = sizeof daemon;
  if (::getsockopt(client.fd(), SOL_SOCKET, SO_PEERCRED, &daemon, &size) != 0) {
    return sys_error("getsockopt", "rtlaunchd");
  }
  if (daemon.pid != 0) return {};
  return make_error("same pid", client.socket(), "the daemon is in another pid namespace than this",
                    "run an rtlaunchd in this container, or rtlaunch --embedded");
}

// What is asked of the policy, as `start` and `profile` have it.
void add_asked(const Asked& asked, Json* request) {
  if (!asked.ask.profile.empty()) (*request)["profile"] = asked.ask.profile;
  if (!asked.job.empty()) (*request)["job"] = asked.job;
  for (const auto& [name, value] : asked.ask.controls) (*request)["controls"][name] = value;
  for (const auto& [name, value] : asked.labels) (*request)["labels"][name] = value;
}

Result<Shape> DaemonHost::shape(const Asked& asked, bool surely) {
  bool plain = asked.ask.controls.empty();
  auto assumed = assumed_shape(asked.ask.profile);
  if (assumed && plain && !surely) return *assumed;
  Json request = {{"op", "profile"}};
  add_asked(asked, &request);
  Json answer = TRY(client_.ask(request));
  try {
    Shape shape{answer.at("profile"), answer.at("shared"), answer.at("home"), {}};
    if (!answer.at("environment").is_null()) shape.environment = answer.at("environment");
    shape.copies = answer.value("copies", true);  // an older daemon doesn't say
    return shape;
  } catch (const Json::exception&) {
    return unreadable();
  }
}

// `op`: start, or grant.
Json start_request(const char* op, const Launch& launch) {
  Json request = {
      {"op", op}, {"keys", Json::array()}, {"name", launch.name}, {"shape", launch.shape}};
  add_asked(launch.asked, &request);
  if (!launch.environment.hex.empty()) {
    request["env"] = launch.environment.hex;
    request["keys"].push_back(launch.environment.hex);
  }
  return request;
}

Result<std::unique_ptr<Running>> DaemonHost::start(Launch launch) {
  if (launch.spec.same_pid) TRY(check_same_processes(client_));
  Json request = start_request("start", launch);
  if (const auto& user = launch.spec.user) request["user"] = {user->uid, user->gid};
  return start_assuming(std::move(request), std::move(launch));
}

// ESTALE: a layer, or what was assumed. EINVAL: a daemon that is older doesn't know of that.
Result<std::unique_ptr<Running>> DaemonHost::start_assuming(Json request, Launch launch) {
  for (const auto& [what, value] : assumed_) request["assumed"][what] = value;
  auto running = start_by(client_, request, std::move(launch.spec));
  if (running) {
    keep_answers();
    return running;
  }
  int code = running.error().code;
  wrongly_ = !assumed_.empty() && (code == ESTALE || code == EINVAL);
  if (wrongly_) {
    assumed_.clear();
    may_assume_ = false;
  }
  if (wrongly_ || code == ESTALE) return std::unique_ptr<Running>();
  return running;
}

Status DaemonHost::remember(const store::Key& id, const store::Record& record) {
  auto plan = TRY(plan_of(record));
  TRY(client_.ask({{"op", "remember"},
                   {"key", id.hex},
                   {"name", record.name},
                   {"layers", hex_list(record.layers)},
                   {"data", record.data},
                   {"keys", hex_list(keys_of(plan))}}));
  return {};
}

// By its whole key it is one and the same for ever, with one record or the next.
Result<Host::Found> DaemonHost::environment(const std::string& id) {
  bool whole = store::is_hex64(id);
  auto known = whole ? assume("env " + id) : std::nullopt;
  if (known && known->records.size() == 1) return Found{{id}, std::move(known->records[0].record)};
  Json answer = TRY(client_.ask({{"op", "env"}, {"id", id}}));
  try {
    Found found{{answer.at("key").get<std::string>()}, record_from(answer.at("record"))};
    if (whole && found.id.hex == id) note("env " + id, {{id, "", found.record}});
    return found;
  } catch (const Json::exception&) {
    return unreadable();
  }
}

Status DaemonHost::hold(const std::string& name, const store::Key& id, int64_t ttl) {
  TRY(client_.ask({{"op", "hold"}, {"name", name}, {"env", id.hex}, {"ttl", ttl}}));
  return {};
}

Status DaemonHost::hold_again(const store::Key& id) {
  Json answer = TRY(client_.ask({{"op", "holds"}}));
  for (const Json& hold : answer.value("holds", Json::array())) {
    bool mine = hold.value("env", "") == id.hex && hold.value("uid", -1) == int(::geteuid());
    if (!mine) continue;
    TRY(this->hold(hold.value("name", ""), id, seconds_left(hold.value("expires", int64_t{0}))));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Running>> start_by(Client& client, const Json& request,
                                          isolation::Spec spec) {
  spec.umask = ::umask(0);
  ::umask(*spec.umask);
  UniqueFd document = TRY(sys::memory_file(isolation::encode(spec)));
  while (true) {
    Attempt attempt = TRY(try_start(client, request, document.get(), spec));
    // By the daemon's word, where pid 1 was killed before it could say so itself.
    if (attempt.started || attempt.answer) {
      return std::unique_ptr<Running>(std::make_unique<DaemonRunning>(
          std::move(attempt.line), std::move(attempt.upper), client, std::move(attempt.answer)));
    }
    Refusal refusal = attempt.refusal.value_or(Refusal{lost(client.socket(), attempt.going), true});
    if (!refusal.again || attempt.going) return refusal.error;
    TRY(client.wait_a_little(refusal.error));
  }
}

namespace {

std::string runtime_of(const Client& client) {
  return client.socket().substr(0, client.socket().rfind('/'));
}

struct Granted {
  std::string profile, shield;  // as they stand in a worker's record
};

Result<Granted> grant(Client& client, const Launch& launch, isolation::Spec* spec) {
  Json answer = TRY(client.ask(start_request("grant", launch)));
  Granted granted{answer.value("profile", ""), answer.value("shield", "")};
  Shield shield = TRY(decode_shield(granted.shield));
  spec->keep_caps = true;
  TRY(apply(shield, ::geteuid(), client.store(), spec));
  for (const std::string& path : {client.store(), runtime_of(client)}) spec->hidden.push_back(path);
  return granted;
}

// What the daemon would have written, under the lock that pid 1 will hold (workers.h).
Status make_record(const std::string& runtime, const Launch& launch, const Granted& granted,
                   Host::Past* past) {
  std::string id = sys::random_name().substr(0, 12);
  past->record_path = runtime + "/workers/" + id;
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW;
  past->record = TRY(sys::open_at(AT_FDCWD, past->record_path, kFlags, 0600));
  bool locked = TRY(sys::try_lock_file(past->record.get(), sys::Lock::kExclusive, id));
  if (!locked || TRY(sys::stat_fd(past->record.get(), id)).st_nlink == 0) {
    return make_error("worker", id, "its record was taken for one of the past");
  }
  struct timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  Json line = {{"format", 1},
               {"id", id},
               {"uid", ::geteuid()},
               {"name", launch.name},
               {"env", launch.environment.hex},
               {"profile", granted.profile},
               {"shield", granted.shield},
               {"since", now.tv_sec * int64_t{1'000'000} + now.tv_nsec / 1000}};
  return sys::write_all(past->record.get(), line.dump() + "\n", id);
}

}  // namespace

// Only root can open the daemon's store and its records.
std::optional<Host::Past> DaemonHost::start_past(const Launch& launch) {
  if (::geteuid() != 0 || !check_same_processes(client_)) return std::nullopt;
  Past past;
  past.spec = launch.spec;
  auto granted = grant(client_, launch, &past.spec);
  if (!granted) return std::nullopt;
  auto store = store::Store::open(client_.store(), /*create=*/false);
  if (!store) return std::nullopt;
  auto leases = store->acquire_all(launch.layers);
  if (!leases || !*leases) return std::nullopt;
  past.profile = granted->profile;
  past.leases = std::move(**leases);
  if (make_record(runtime_of(client_), launch, *granted, &past)) return past;
  started_past(past, 0, "");
  return std::nullopt;
}

void DaemonHost::started_past(const Past& past, pid_t pid1, const std::string& lacking) {
  if (pid1 <= 0) {
    ::unlink(past.record_path.c_str());  // under its lock, as whoever removes one
    return;
  }
  Json line = {
      {"pid", pid1}, {"start_time", start_time_of(pid1)}, {"cgroup", ""}, {"not_applied", lacking}};
  Status written = sys::write_all(past.record.get(), line.dump() + "\n", "record");
  if (written) (void)client_.ask({{"op", "adopt"}}).ok();
}

std::unique_ptr<Host> make_daemon_host(Client client, const std::string& own_store) {
  return std::make_unique<DaemonHost>(std::move(client), own_store);
}

}  // namespace rtlaunch
