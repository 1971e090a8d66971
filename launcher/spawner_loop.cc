// The spawner's own side: one loop, no thread, nothing that waits for anybody but poll(2). What is
// a caller's (the document, host paths, layers) is touched only in the children.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <deque>
#include <functional>
#include <map>

#include "isolation/cgroup.h"
#include "isolation/launch.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/mount.h"
#include "isolation/sys/process.h"
#include "isolation/userns.h"
#include "launcher/spawn_courier.h"
#include "launcher/spawn_wire.h"
#include "launcher/spawn_worker.h"
#include "launcher/spawner.h"

namespace rtlaunch {
namespace {

using isolation::Launch;
using Kind = SpawnReply::Kind;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostIdMaps = 256, kMostReplies = 4096;
constexpr std::ptrdiff_t kReady = 4;
constexpr std::chrono::seconds kGraceAfterKill(2), kBetweenSweeps(2);
// After a start the CPUs are its command's for so long, and its client's: longer than `true` takes.
constexpr std::chrono::milliseconds kLull(3);
// Networks are made ahead only where they are in use: so long after the last one. Each is an
// interface of the host's.
constexpr std::chrono::seconds kNetworksInUse(60);
constexpr std::ptrdiff_t kReadyNetworks = 2;

// Of these so many rehearse the mounts of a start, once it has come twice in a row; they are given
// up when it doesn't come again, or comes with another document: leases aren't held for nothing.
constexpr std::ptrdiff_t kRehearsed = 2;
constexpr std::chrono::seconds kKeptFor(2), kNoneAfterMiss(10);

// A pid 1, and what its record says of it.
struct Made {
  Launch launch;
  std::string start_time;
  bool way_out;        // it has made a network with one
  UniqueFd rehearsed;  // readable when it has; none: it is for any start

  bool is_plain() const { return !rehearsed.valid(); }
  bool has_rehearsed() const {
    struct pollfd told = {rehearsed.get(), POLLIN, 0};
    return !is_plain() && ::poll(&told, 1, 0) > 0 && (told.revents & POLLIN) != 0;
  }
};

// A child of ours that has not told yet whether it started, or that we owe a kEnded for.
struct Child {
  uint64_t id = 0;
  SpawnRequest::Kind kind = SpawnRequest::Kind::kStart;
  std::optional<Launch> launch;  // none: a builder
  std::optional<Error> error;    // it failed: told when it has been reaped
  Clock::time_point deadline = {};
  std::optional<SpawnRequest> again = {};  // the same once more
  bool rehearsed = false;                  // it had been, for what it was
};

struct Outgoing {
  std::string bytes;
  UniqueFd fd;
};

Status check_request(const SpawnRequest& request) {
  bool stdio = request.input.valid() && request.output.valid() && request.error.valid();
  bool command = request.document.valid() && request.line.valid() && stdio;
  bool whole = true;
  if (request.kind == SpawnRequest::Kind::kStart) whole = command && request.record.valid();
  if (request.kind == SpawnRequest::Kind::kEnter) whole = command && request.target.valid();
  if (whole) return {};
  return Error{"spawner", EPROTO, "request", "a descriptor is missing", "", 125};
}

// Field 22 of /proc/PID/stat (proc(5)); the name before may hold spaces and parentheses.
Result<std::string> start_time(pid_t pid) {
  std::string path = "/proc/" + std::to_string(pid) + "/stat";
  std::string text = TRY(sys::read_file(path, 4096));
  size_t at = text.rfind(')');
  for (int field = 2; at != std::string::npos && field < 22; ++field) at = text.find(' ', at + 1);
  if (at == std::string::npos) return make_error("read", path, "it has no start time");
  return text.substr(at + 1, text.find(' ', at + 1) - at - 1);
}

// What is_alike() looks at, and the document.
SpawnRequest again_of(SpawnRequest& request) {
  SpawnRequest again;
  again.caller = std::move(request.caller);
  again.owner = request.owner;
  again.entitled = std::move(request.entitled);
  again.limits = std::move(request.limits);
  again.shield = std::move(request.shield);
  again.document = std::move(request.document);
  return again;
}

// Two daemons on one node have two directories.
std::string instance_name(std::string runtime) {
  std::replace(runtime.begin(), runtime.end(), '/', '-');
  return "rtlaunch" + runtime;
}

class Loop {
 public:
  Loop(const SpawnerConfig& config, int socket) : config_(config), socket_(socket) {}
  Status open();
  Status run();
  void leave();

 private:
  // requests
  Status take_requests();
  void serve(SpawnRequest request);
  void serve_by_courier(const RequestHead& head);
  Status start(SpawnRequest& request, Courier* courier = nullptr);
  Status enter(SpawnRequest& request);
  Status enter_by(Courier& courier, SpawnRequest& request);
  Status build(SpawnRequest& request);
  Result<Made> make_ahead(bool way_out, bool rehearses = false);
  std::optional<Made> take_ready(const SpawnRequest& request);
  std::ptrdiff_t count_plain() const;
  bool wants_rehearsal() const;
  void learn(Child& child, const isolation::Started& started);
  void forget_again();
  bool uses_networks() const;
  std::ptrdiff_t ready_networks() const;
  void drop_networks();
  Result<Launch> in_leaf(const std::function<Result<Launch>(int cgroup)>& make);
  void end_leaf(pid_t pid);
  void sweep_leaves();
  Status hand_over(const Made& made, const SpawnRequest& request, int map, Courier* courier);
  Status record_first(const SpawnRequest& request, const Made& made, Courier* courier);
  Result<Made> handed_over(const SpawnRequest& request, int map, Courier* courier);
  void prepare_one();
  std::optional<Clock::time_point> next_preparation() const;
  std::string leaf_of(pid_t pid) const;
  Status record(const SpawnRequest& request, const Made& made);
  Result<int> id_map(const isolation::User& user);
  Result<const store::Store*> store();
  Child& add(const SpawnRequest& request, Launch launch);

  // what becomes of them
  void heard_from(pid_t pid, Child& child);
  void reap();
  void ended(pid_t pid, int status);
  void never_started(Child& child, int status);
  void tell_end(Child& child, pid_t pid, int status);
  void end_late_starts();
  void reply(SpawnReply reply);
  void fail(uint64_t id, Error error);
  Status flush();
  int timeout() const;

  const SpawnerConfig& config_;
  int socket_;
  UniqueFd signals_, null_;
  isolation::Outside outside_;
  std::optional<store::Store> store_;
  std::map<std::pair<uid_t, gid_t>, UniqueFd> id_maps_;
  std::map<pid_t, Child> starting_;  // kStarted or kFailed is still owed
  std::map<pid_t, Child> running_;   // many: nothing that a start waits for goes through them
  std::optional<isolation::Cgroups> cgroups_;
  std::map<pid_t, std::string> leaves_;  // of every child that has one
  Clock::time_point next_sweep_ = Clock::time_point::max();
  std::vector<Made> ready_;            // wait for a request
  std::optional<SpawnRequest> again_;  // the last start
  bool again_often_ = false;           // as was the one before
  Clock::time_point again_since_ = {}, no_again_until_ = {};
  bool can_prepare_ = true;            // until one couldn't be made
  Clock::time_point last_start_ = {};  // was asked for, or has come about
  std::optional<Clock::time_point> last_way_out_;
  std::deque<Outgoing> outgoing_;
};

// --- requests ---

Result<const store::Store*> Loop::store() {
  if (!store_) store_ = TRY(store::Store::open(config_.store, /*create=*/false));
  return &*store_;
}

Result<int> Loop::id_map(const isolation::User& user) {
  if (user.uid == 0) return -1;
  auto found = id_maps_.find({user.uid, user.gid});
  if (found != id_maps_.end()) return found->second.get();
  if (id_maps_.size() >= kMostIdMaps) id_maps_.erase(id_maps_.begin());
  UniqueFd map = TRY(isolation::make_id_map(user.uid, user.gid));
  return id_maps_.emplace(std::pair(user.uid, user.gid), std::move(map)).first->second.get();
}

Status Loop::record(const SpawnRequest& request, const Made& made) {
  pid_t pid = made.launch.pid();
  std::string text = "{\"pid\":" + std::to_string(pid) + ",\"start_time\":" + made.start_time +
                     ",\"cgroup\":\"" + leaf_of(pid) + "\"}\n";
  return sys::write_all(request.record.get(), text, "record");
}

Child& Loop::add(const SpawnRequest& request, Launch launch) {
  pid_t pid = launch.pid();
  Child child{request.id, request.kind, std::move(launch), {}, {}, {}};
  last_start_ = Clock::now();
  child.deadline = last_start_ + std::chrono::seconds(config_.start_seconds);
  return starting_.insert_or_assign(pid, std::move(child)).first->second;
}

// Namespaces and a pid 1 in them, before anybody asked.
Result<Made> Loop::make_ahead(bool way_out, bool rehearses) {
  const store::Store* store = TRY(this->store());
  int map = rehearses ? TRY(id_map(again_->caller)) : -1;
  int told[2] = {-1, -1};
  if (rehearses && ::pipe2(told, O_CLOEXEC) != 0) return sys_error("pipe", "");
  UniqueFd rehearsed(told[0]), tells(told[1]);
  auto prepare = [&](auto& preparing) {
    if (!rehearses) return receive_start(preparing, config_, *store, way_out);
    Again again{*again_, map, tells.get()};
    return receive_start(preparing, config_, *store, way_out, &again);
  };
  Launch launch = TRY(in_leaf([&](int cgroup) {
    return Launch::begin(prepare, {.cgroup = cgroup, .exit_signal = SIGCHLD, .outside = &outside_});
  }));
  std::string since = TRY(start_time(launch.pid()));  // it is not reaped before we say so
  return Made{std::move(launch), std::move(since), way_out, std::move(rehearsed)};
}

// Accounting is no reason not to start.
Result<Launch> Loop::in_leaf(const std::function<Result<Launch>(int cgroup)>& make) {
  if (!cgroups_) return make(-1);
  Result<isolation::Leaf> leaf = cgroups_->make();
  if (!leaf) return make(-1);
  Result<Launch> launch = make(leaf->fd.get());
  if (launch) {
    leaves_[launch->pid()] = leaf->path;
    return launch;
  }
  cgroups_->end(leaf->path);
  return make(-1);
}

std::string Loop::leaf_of(pid_t pid) const {
  auto found = leaves_.find(pid);
  return found == leaves_.end() ? "" : found->second;
}

void Loop::end_leaf(pid_t pid) {
  auto found = leaves_.find(pid);
  if (found == leaves_.end()) return;
  cgroups_->end(found->second);
  leaves_.erase(found);
  next_sweep_ = std::min(next_sweep_, Clock::now() + kBetweenSweeps);
}

void Loop::sweep_leaves() {
  if (Clock::now() < next_sweep_) return;
  bool clean = cgroups_->sweep();
  next_sweep_ = clean ? Clock::time_point::max() : Clock::now() + kBetweenSweeps;
}

// Not while anybody waits. What fails now is told when it fails for somebody.
void Loop::prepare_one() {
  bool way_out = uses_networks() && ready_networks() < kReadyNetworks;
  Result<Made> made = make_ahead(way_out, !way_out && wants_rehearsal());
  if (made) ready_.push_back(std::move(*made));
  can_prepare_ = made.ok();
  sys::touch_memory();  // pages that we share with it now; the next request would have to copy them
}

bool Loop::uses_networks() const {
  return last_way_out_ && Clock::now() - *last_way_out_ < kNetworksInUse;
}

std::ptrdiff_t Loop::ready_networks() const {
  return std::count_if(ready_.begin(), ready_.end(), [](const Made& made) { return made.way_out; });
}

void Loop::drop_networks() {
  if (!last_way_out_ || uses_networks()) return;
  last_way_out_.reset();
  for (const Made& made : ready_) {
    if (made.way_out) (void)sys::send_signal(made.launch.pidfd(), SIGKILL).ok();
  }
}

std::ptrdiff_t Loop::count_plain() const {
  return std::count_if(ready_.begin(), ready_.end(),
                       [](const Made& made) { return made.is_plain(); });
}

// Beside enough that are for any start.
bool Loop::wants_rehearsal() const {
  auto plain = count_plain(), rehearsed = static_cast<std::ptrdiff_t>(ready_.size()) - plain;
  return again_ && again_often_ && rehearsed < kRehearsed && plain >= kReady - kRehearsed;
}

// Of those that would do, the one that fits best.
std::optional<Made> Loop::take_ready(const SpawnRequest& request) {
  bool again = again_ && !request.may_hang && is_alike(*again_, request);
  auto rehearsed = [&](const Made& made) { return again && made.has_rehearsed(); };
  auto fits = [&](const Made& made) { return made.is_plain() && made.way_out == request.way_out; };
  auto plain = [&](const Made& made) { return made.is_plain(); };
  auto found = std::find_if(ready_.begin(), ready_.end(), rehearsed);
  if (found == ready_.end()) found = std::find_if(ready_.begin(), ready_.end(), fits);
  if (found == ready_.end()) found = std::find_if(ready_.begin(), ready_.end(), plain);
  if (found == ready_.end()) return std::nullopt;
  Made made = std::move(*found);
  ready_.erase(found);
  return made;
}

// What was rehearsed is of no use any more, and its leases are others' to wait for.
void Loop::forget_again() {
  again_.reset();
  again_often_ = false;
  std::erase_if(ready_, [](const Made& made) {
    if (made.is_plain()) return false;
    (void)sys::send_signal(made.launch.pidfd(), SIGKILL).ok();
    return true;
  });
}

// From a start that has come about.
void Loop::learn(Child& child, const isolation::Started& started) {
  auto is_same = [](const auto& step) {
    return std::string_view(step.name) == isolation::kSameAgain;
  };
  bool missed =
      child.rehearsed && std::none_of(started.steps.begin(), started.steps.end(), is_same);
  if (missed) no_again_until_ = Clock::now() + kNoneAfterMiss;
  bool alike = again_ && child.again && is_alike(*again_, *child.again);
  if (!alike || missed) forget_again();
  if (!child.again || Clock::now() < no_again_until_) return;
  again_ = std::move(child.again);
  again_often_ = alike;
  again_since_ = Clock::now();
}

// The last one is replaced at once, others in a lull.
std::optional<Clock::time_point> Loop::next_preparation() const {
  bool enough = ready_.size() >= static_cast<size_t>(kReady);
  if (!can_prepare_ || enough || !starting_.empty()) return std::nullopt;
  return count_plain() == 0 ? Clock::time_point() : last_start_ + kLull;
}

// A courier's is put on record when it has been delivered.
Status Loop::hand_over(const Made& made, const SpawnRequest& request, int map, Courier* courier) {
  return courier ? courier->deliver(made.launch.fd(), map)
                 : send_start(made.launch.fd(), request, map, /*may_go=*/true);
}

// Of several lines in a record, left by those who were killed while they waited, the last counts.
Status Loop::record_first(const SpawnRequest& request, const Made& made, Courier* courier) {
  Status recorded = courier ? Status() : record(request, made);
  if (!recorded) (void)sys::send_signal(made.launch.pidfd(), SIGKILL).ok();
  return recorded;
}

Result<Made> Loop::handed_over(const SpawnRequest& request, int map, Courier* courier) {
  can_prepare_ = true;
  if (request.way_out) last_way_out_ = Clock::now();
  while (auto made = take_ready(request)) {
    TRY(record_first(request, *made, courier));
    if (hand_over(*made, request, map, courier)) return std::move(*made);
    if (courier) break;  // else somebody killed it; but this goes one way only
  }
  Made made = TRY(make_ahead(false));
  TRY(record_first(request, made, courier));
  TRY(hand_over(made, request, map, courier));
  return made;
}

// A file that has lost its name was taken for that of a worker which never started.
Status take_record(int record) {
  if (!TRY(sys::try_lock_file(record, sys::Lock::kExclusive, "record"))) {
    return Error{"record", EBUSY, "", "another worker has it", "", 125};
  }
  if (TRY(sys::stat_fd(record, "record")).st_nlink > 0) return {};
  return Error{"record", EAGAIN, "", "another rtlaunchd has removed it", "try again", 125};
}

Status Loop::start(SpawnRequest& request, Courier* courier) {
  int map = TRY(id_map(request.caller));
  TRY(take_record(request.record.get()));
  Made made = TRY(handed_over(request, map, courier));
  Status recorded = courier ? record(request, made) : Status();
  if (courier && recorded) made.launch.go();
  Child& child = add(request, std::move(made.launch));
  child.rehearsed = !made.is_plain();
  if (!courier && !request.way_out) child.again = again_of(request);
  if (recorded) return {};
  (void)sys::send_signal(child.launch->pidfd(), SIGKILL).ok();
  child.error = std::move(recorded.error());
  return {};
}

Status Loop::enter(SpawnRequest& request) {
  auto prepare = [&](auto&) { return enter_spec(request); };
  Launch launch = TRY(in_leaf([&](int cgroup) {
    return Launch::join(prepare, request.target.get(), {.cgroup = cgroup, .exit_signal = SIGCHLD});
  }));
  launch.go();
  add(request, std::move(launch));
  return {};
}

Status Loop::enter_by(Courier& courier, SpawnRequest& request) {
  auto prepare = [&](const isolation::Preparing& preparing) { return receive_enter(preparing); };
  Launch launch = TRY(in_leaf([&](int cgroup) {
    return Launch::join(prepare, request.target.get(), {.cgroup = cgroup, .exit_signal = SIGCHLD});
  }));
  TRY(courier.deliver(launch.fd(), -1));
  launch.go();
  add(request, std::move(launch));
  return {};
}

Status Loop::build(SpawnRequest& request) {
  forget_again();  // it may be a collection
  auto given = [&](const UniqueFd& fd) { return fd.valid() ? fd.get() : null_.get(); };
  sys::ProgramStart program;
  program.argv = {config_.tools + "/rtlaunch-build"};
  program.argv.insert(program.argv.end(), request.arguments.begin(), request.arguments.end());
  program.env = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/",
                 "LC_ALL=C.UTF-8"};
  program.fds = {given(request.document), given(request.output), given(request.error)};
  program.exit_signal = SIGCHLD;
  program.idle = request.idle;
  sys::Cloned started = TRY(sys::start_program(program));
  running_.insert_or_assign(started.pid, Child{request.id, request.kind, {}, {}, {}});
  SpawnReply told;
  told.id = request.id;
  told.pid = started.pid;
  told.pidfd = std::move(started.pidfd);
  reply(std::move(told));
  return {};
}

void Loop::serve(SpawnRequest request) {
  Status done = check_request(request);
  if (done) {
    switch (request.kind) {
      case SpawnRequest::Kind::kStart:
        done = start(request);
        break;
      case SpawnRequest::Kind::kEnter:
        done = enter(request);
        break;
      case SpawnRequest::Kind::kBuild:
        done = build(request);
        break;
    }
  }
  if (!done) fail(request.id, std::move(done.error()));
}

void Loop::serve_by_courier(const RequestHead& head) {
  auto carry_out = [&]() -> Status {
    Courier courier = TRY(Courier::send(socket_));
    SpawnRequest request = TRY(courier.request());
    if (request.kind == SpawnRequest::Kind::kEnter && request.target.valid()) {
      return enter_by(courier, request);
    }
    if (request.record.valid()) return start(request, &courier);
    return Error{"spawner", EPROTO, "request", "a descriptor is missing", "", 125};
  };
  Status done = carry_out();
  if (done) return;
  auto next = peek_request(socket_);
  if (next && *next && (*next)->id == head.id) drop_request(socket_);  // nobody took it
  fail(head.id, std::move(done.error()));
}

// EPIPE: the daemon is gone.
Status Loop::take_requests() {
  std::optional<RequestHead> head = TRY(peek_request(socket_));
  if (!head) return {};
  if (head->may_hang) return serve_by_courier(*head), Status();
  std::optional<Packet> packet = TRY(receive_packet(socket_));
  if (!packet) return {};
  Result<SpawnRequest> request = decode_request(std::move(*packet));
  if (!request) return request.error();
  serve(std::move(*request));
  return {};
}

// --- what becomes of them ---

void Loop::reply(SpawnReply told) {
  std::string bytes = encode_reply(told);
  outgoing_.push_back({std::move(bytes), std::move(told.pidfd)});
}

void Loop::fail(uint64_t id, Error error) {
  SpawnReply told;
  told.id = id;
  told.kind = Kind::kFailed;
  told.error = std::move(error);
  reply(std::move(told));
}

// It started, or it says why not.
void Loop::heard_from(pid_t pid, Child& child) {
  Result<isolation::Started> started = child.launch->finish();
  if (!started) {
    child.error = std::move(started.error());
    child.launch->take_socket();
    return;
  }
  SpawnReply told;
  told.id = child.id;
  told.pid = pid;
  for (const isolation::StepClock::Step& step : started->steps) {
    told.steps.push_back({step.name, step.nanoseconds / 1000});
  }
  if (child.kind == SpawnRequest::Kind::kStart) learn(child, *started);
  told.applied = std::move(started->applied);
  told.pidfd = child.launch->take_pidfd();
  told.cgroup = leaf_of(pid);
  running_.insert(starting_.extract(pid));
  last_start_ = Clock::now();
  reply(std::move(told));
}

void Loop::ended(pid_t pid, int status) {
  auto owed = starting_.find(pid);
  if (owed != starting_.end() && !owed->second.error) heard_from(pid, owed->second);
  if (auto failed = starting_.extract(pid)) return never_started(failed.mapped(), status);
  if (auto ran = running_.extract(pid)) return tell_end(ran.mapped(), pid, status);
  // One made ahead.
  bool couldnt = std::erase_if(ready_, [&](const Made& made) {
                   return made.launch.pid() == pid && !made.is_plain();
                 }) > 0;
  std::erase_if(ready_, [&](const Made& made) { return made.launch.pid() == pid; });
  if (!couldnt) return;
  no_again_until_ = Clock::now() + kNoneAfterMiss;
  forget_again();
}

void Loop::never_started(Child& child, int status) {
  bool silent = !child.error || child.error->step.empty();
  fail(child.id, silent ? Launch::died(status) : std::move(*child.error));
}

// Of a worker its line has told.
void Loop::tell_end(Child& child, pid_t pid, int status) {
  if (child.kind == SpawnRequest::Kind::kStart) return;
  SpawnReply told;
  told.id = child.id;
  told.kind = Kind::kEnded;
  told.pid = pid;
  told.status = status;
  if (child.launch) {
    isolation::Ended ended = isolation::receive_end(child.launch->fd());
    if (ended.status >= 0) told.status = ended.status;
  }
  reply(std::move(told));
}

void Loop::reap() {
  char drained[128 * 4];
  (void)!::read(signals_.get(), drained, sizeof drained);
  int status;
  pid_t pid;
  while ((pid = ::waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
    ended(pid, status);
    end_leaf(pid);
  }
}

void Loop::end_late_starts() {
  Clock::time_point now = Clock::now();
  for (auto at = starting_.begin(); at != starting_.end();) {
    auto& [pid, child] = *at++;
    if (child.deadline > now) continue;
    if (child.error) {  // killed, and even that it doesn't heed: a dead disk or NFS server
      fail(child.id, std::move(*child.error));
      starting_.erase(pid);
      continue;
    }
    (void)sys::send_signal(child.launch->pidfd(), SIGKILL).ok();
    child.error = Error{"start",
                        ETIMEDOUT,
                        "",
                        "it took longer than allowed and was ended",
                        "look whether a file system that it uses hangs",
                        125};
    child.deadline = now + kGraceAfterKill;
  }
}

Status Loop::flush() {
  while (!outgoing_.empty()) {
    const Outgoing& next = outgoing_.front();
    std::vector<int> fds;
    if (next.fd.valid()) fds.push_back(next.fd.get());
    Status sent = send_packet(socket_, next.bytes, fds);
    if (!sent && sent.error().code == EAGAIN) return {};
    if (!sent) return sent;
    outgoing_.pop_front();
  }
  return {};
}

int Loop::timeout() const {
  Clock::time_point first = std::min(next_sweep_, next_preparation().value_or(next_sweep_));
  if (last_way_out_) first = std::min(first, *last_way_out_ + kNetworksInUse);
  if (again_) first = std::min(first, again_since_ + kKeptFor);
  for (const auto& [pid, child] : starting_) first = std::min(first, child.deadline);
  if (first == Clock::time_point::max()) return -1;
  if (first == Clock::time_point()) return 0;
  auto left = std::chrono::duration_cast<std::chrono::milliseconds>(first - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(left, 0)) + 1;
}

// --- the loop ---

Status Loop::open() {
  null_ = TRY(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
  signals_ = TRY(sys::block_signals_but_child());
  outside_ = TRY(isolation::Outside::look());
  cgroups_ = isolation::Cgroups::open(config_.cgroup, instance_name(config_.runtime));
  if (cgroups_) next_sweep_ = Clock::now();
  (void)store().ok();  // when there is none yet, each start tries again
  return {};
}

// The daemon has gone. What we made ahead ends with us, so its leaves have to be emptied first.
void Loop::leave() {
  for (const Made& made : ready_) {
    (void)sys::send_signal(made.launch.pidfd(), SIGKILL).ok();
    bool may_hang = !made.is_plain() && !made.has_rehearsed();
    if (!may_hang) (void)sys::wait_for(made.launch.pidfd()).ok();
  }
  if (cgroups_) cgroups_->leave();
}

Status Loop::run() {
  while (true) {
    std::vector<struct pollfd> polled = {{signals_.get(), POLLIN, 0}, {socket_, 0, 0}};
    if (outgoing_.size() < kMostReplies) polled[1].events |= POLLIN;
    if (!outgoing_.empty()) polled[1].events |= POLLOUT;
    std::vector<pid_t> pids;
    for (const auto& [pid, child] : starting_) {
      if (child.error) continue;
      polled.push_back({child.launch->fd(), POLLIN, 0});
      pids.push_back(pid);
    }
    int events = ::poll(polled.data(), polled.size(), timeout());
    if (events < 0 && errno != EINTR) return sys_error("poll", "");
    auto due = next_preparation();
    if (events == 0 && due && *due <= Clock::now()) prepare_one();
    for (size_t i = 0; i < pids.size(); ++i) {
      if (polled[i + 2].revents != 0) heard_from(pids[i], starting_.at(pids[i]));
    }
    if (polled[0].revents != 0) reap();
    end_late_starts();
    sweep_leaves();
    drop_networks();
    if (again_ && Clock::now() - again_since_ >= kKeptFor) forget_again();
    if (polled[1].revents & (POLLIN | POLLHUP)) TRY(take_requests());
    TRY(flush());
  }
}

// --- what the process itself is ---

Status become_spawner() {
  if (sys::thread_count() != 1) {
    return make_error("spawner", "", "it must be single-threaded");
  }
  TRY(sys::outlive_parent());  // our socket's end is the daemon's
  ::umask(022);
  (void)sys::set_oom_score(-900).ok();  // where we may (CAP_SYS_RESOURCE)
  TRY(sys::unshare_mounts());
  return sys::make_all_slave();
}

}  // namespace

int serve_spawner(const SpawnerConfig& config, int socket) {
  Status ready = become_spawner();
  Loop loop(config, socket);
  if (ready) ready = loop.open();
  Status ended = ready ? loop.run() : std::move(ready);
  loop.leave();
  if (!ended && ended.error().code == EPIPE) return 0;  // starts in flight end with us (PDEATHSIG)
  std::fprintf(stderr, "rtlaunch-spawner: %s\n", ended.error().message().c_str());
  return 1;
}

}  // namespace rtlaunch
