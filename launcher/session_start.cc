// start and enter: what a client sent is checked from outside, never read, and goes to the spawner
// with what the caller is entitled to.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "isolation/spec_wire.h"
#include "launcher/environment.h"
#include "launcher/job_user.h"
#include "launcher/session_ops.h"
#include "launcher/shield.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;
using protocol::Op;

constexpr auto kMostStart = seconds(60);  // the spawner itself gives up sooner
constexpr int kPatienceMs = 50;           // everybody waits for us meanwhile

// {document, stdin, stdout, stderr, line}
Status check_descriptors(Session& session, const std::vector<UniqueFd>& fds) {
  if (!session.server().closer().has_room(session.peer().user.uid)) {
    return Error{"start", EAGAIN, "descriptors",
                 "too many that were sent before can't be closed: their file system hangs",
                 "try again when it answers"};
  }
  TRY(check_memory_file(fds[0].get(), isolation::kMostSpecBytes, "document"));
  return check_line(fds[4].get());
}

void take_descriptors(std::vector<UniqueFd>& fds, SpawnRequest& spawn) {
  spawn.may_hang =
      std::any_of(&fds[1], &fds[4], [](const UniqueFd& fd) { return can_hang(fd.get()); });
  spawn.document = std::move(fds[0]);
  spawn.input = std::move(fds[1]);
  spawn.output = std::move(fds[2]);
  spawn.error = std::move(fds[3]);
  spawn.line = std::move(fds[4]);
}

Error draining() { return Error{"start", EAGAIN, "", "rtlaunchd is being restarted", "try again"}; }

using Decided = std::shared_ptr<const Decision>;

// What the policy gives for this start, if the document was written for it.
Result<Decided> decided(Session& session, const protocol::Request& request) {
  Decided decision = TRY(session.server().policy().decision(session.peer().user, request));
  if (request.shape.empty() || request.shape == decision->shape) return decision;
  return Error{"policy", EREMCHG, decision->verdict.profile.name,
               "the policy gives another profile", "ask what it is, and start again"};
}

// An environment that was made under a laxer policy is not started under this one.
Status check_environments(KnownRecords& records, const store::Store& store,
                          const std::vector<std::string>& keys, const config::Allowed& allowed) {
  if (!allowed.fields && !allowed.images) return {};
  for (const std::string& key : keys) {
    auto known = TRY(records.find(store, key));
    if (!known || known->record.kind != "env") continue;
    installers::Plan plan = TRY(plan_of(known->record));
    for (const installers::Field& field : plan.fields) {
      TRY(config::check_field(field.name.substr(0, field.name.find('[')), allowed));
      if (field.image) TRY(config::check_image(field.image->shown, allowed));
    }
  }
  return {};
}

// What a client has taken for true without asking: our places, and records, of which those of the
// request's own keys are looked at with their layers.
Status check_assumed(Server& server, const store::Store& store, const protocol::Request& request) {
  for (const auto& [what, value] : request.assumed) {
    bool same = true;
    if (what == "store") {
      same = value == server.options().store;
    } else if (what == "plugins") {
      same = value == server.options().plugins;
    } else if (std::count(request.keys.begin(), request.keys.end(), what) == 0) {
      auto known = TRY(server.records().find(store, what));
      same = known && known->digest == value;
    }
    if (!same) return wrongly(what);
  }
  return {};
}

// What a start is held to, and the layers that it may name.
struct Given {
  Decided decision;
  std::vector<store::Digest> entitled;
  const config::UidRange& uids() const { return decision->uids; }
};
Result<Given> given_for(Session& session, const protocol::Request& request) {
  Server& server = session.server();
  if (server.draining()) return draining();
  Given given;
  given.decision = TRY(decided(session, request));
  store::Store store = TRY(server.store_of(session.peer().user.uid));
  TRY(check_assumed(server, store, request));
  KnownRecords& records = server.records();
  given.entitled = TRY(layers_of(records, store, request.keys, request.assumed));
  TRY(check_environments(records, store, request.keys, given.decision->verdict.allow));
  return given;
}

// Root may ask for another, whom the policy's own choice of one goes before.
Result<HeldUser> user_of(Session& session, const Given& given, const protocol::Request& request) {
  const isolation::User& peer = session.peer().user;
  if (request.user && peer.uid != 0)
    return Error{"start", EPERM, "user", "only root starts commands as somebody else", "", 125};
  if (given.uids().want != config::Want::kOff)
    return hold_job_user(given.uids(), request.job, kPatienceMs);
  if (request.user)
    return HeldUser{isolation::User{request.user->first, request.user->second, {}}, {}};
  return HeldUser{peer, {}};
}

// The request, and the worker's record with its first line.
Result<SpawnRequest> prepare(Session& session, Incoming& incoming, Worker& worker) {
  Server& server = session.server();
  SpawnRequest spawn;
  spawn.kind = SpawnRequest::Kind::kStart;
  Given given = TRY(given_for(session, incoming.request));
  const Decision& decision = *given.decision;
  spawn.shield = decision.encoded;
  worker.profile = decision.verdict.profile.name;
  worker.shield = decision.recorded;
  spawn.way_out = worker.way_out = decision.shield.bound.network == isolation::Network::kEgress;
  HeldUser user = TRY(user_of(session, given, incoming.request));
  spawn.caller = std::move(user.user);
  spawn.hold = std::move(user.hold);
  spawn.owner = worker.uid = session.peer().user.uid;
  if (spawn.caller.uid != worker.uid) {
    worker.runs_as = spawn.caller.uid;
    worker.runs_as_group = spawn.caller.gid;
    if (decision.uids.want != config::Want::kOff) worker.job = incoming.request.job;
  }
  spawn.limits = TRY(session.limits_of_client());
  TRY(check_descriptors(session, incoming.fds));
  spawn.entitled = std::move(given.entitled);
  worker.name = incoming.request.name;
  worker.env = incoming.request.env;
  spawn.record = TRY(server.workers().create(worker));
  take_descriptors(incoming.fds, spawn);  // from here on nothing fails
  return spawn;
}

Json steps_json(const std::vector<isolation::Sandbox::Step>& steps) {
  Json json = Json::array();
  for (const auto& step : steps) json.push_back({step.name, step.microseconds});
  return json;
}

Json controls_json(const std::vector<isolation::Applied>& applied) {
  Json json = Json::array();
  for (const auto& one : applied) {
    json.push_back({isolation::control_name(one.control), one.applied, one.why});
  }
  return json;
}

void count_start(Server& server, const SpawnReply& reply, Clock::duration took) {
  Metrics& metrics = server.metrics();
  metrics.count("rtlaunch_starts_total", {{"result", "started"}});
  metrics.observe("rtlaunch_start_seconds", {}, std::chrono::duration<double>(took).count());
  for (const auto& step : reply.steps) {
    metrics.observe("rtlaunch_start_phase_seconds", {{"phase", step.name}},
                    static_cast<double>(step.microseconds) / 1e6);
  }
}

std::string started(Session& session, const Worker& worker, SpawnReply reply,
                    Clock::duration took) {
  Server& server = session.server();
  count_start(server, reply, took);
  std::string lacking = lacking_of(reply.applied);
  server.workers().started(worker.id, reply.pid, std::move(reply.pidfd), reply.cgroup);
  if (Worker* running = server.workers().running(worker.id)) running->lacking = lacking;
  int64_t us = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
  server.journal().say(Level::kInfo, "started",
                       {.worker = worker.id,
                        .request = session.request_id(),
                        .uid = worker.uid,
                        .more = {{"pid", int64_t{reply.pid}},
                                 {"name", worker.name},
                                 {"env", worker.env},
                                 {"profile", worker.profile},
                                 {"not_applied", lacking},
                                 {"us", us}}});
  server.watch(worker.id);
  Json json = {
      {"ok", true}, {"worker", worker.id}, {"pid", reply.pid}, {"steps", steps_json(reply.steps)}};
  json["profile"] = worker.profile;
  json["controls"] = controls_json(reply.applied);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The spawner died or was silent: the worker may run all the same. Its record will tell.
void lose_sight(Server& server, const std::string& worker) {
  server.workers().lose_sight(worker);
  server.look_for_lost_soon();
}

std::string failed(Session& session, const std::string& worker, const Error& error, bool known) {
  Server& server = session.server();
  bool asks_anew = error.code == EREMCHG || error.step == kAssumed;
  if (asks_anew) return protocol::error_answer(error, false);  // a question, no failure
  if (worker.empty()) {
  } else if (known) {
    server.workers().forget(worker);
  } else {
    lose_sight(server, worker);
  }
  server.metrics().count("rtlaunch_starts_total", {{"result", "failed"}});
  return refusal(session, Op::kStart, error);
}

}  // namespace

awaitable<std::string> start_worker(Session& session, Incoming incoming) {
  Server& server = session.server();
  auto began = Clock::now();
  Share share(server.starts(), session.peer().user.uid);
  if (!share.resize(1)) {
    Error error{"start", EAGAIN, "", "too many starts are under way", "try again"};
    co_return failed(session, "", error, true);
  }
  Worker worker;
  auto request = prepare(session, incoming, worker);
  if (!request) co_return failed(session, worker.id, request.error(), true);
  auto asked = server.spawners().ask(std::move(*request));
  if (!asked) co_return failed(session, worker.id, asked.error(), true);
  auto reply = co_await (*asked)->next(kMostStart);
  if (!reply) {
    server.spawners().give_up(**asked);
    if (reply.error().code == ETIMEDOUT) server.spawners().check_hangs(began);
    co_return failed(session, worker.id, reply.error(), false);
  }
  if (reply->kind != SpawnReply::Kind::kStarted) {
    co_return failed(session, worker.id, reply->error, true);
  }
  co_return started(session, worker, std::move(*reply), Clock::now() - began);
}

// Whoever is refused asks for a start next, which tells.
std::string grant_start(Session& session, const protocol::Request& request) {
  if (session.peer().user.uid != 0) {
    return protocol::error_answer({"grant", EPERM, "", "only root starts what we don't", ""},
                                  false);
  }
  auto given = given_for(session, request);
  if (!given) return protocol::error_answer(given.error(), false);
  if (given->uids().want != config::Want::kOff) {
    return protocol::error_answer({"grant", EPERM, "uids", "its worker isn't root", ""}, false);
  }
  const Decision& decision = *given->decision;
  session.server().journal().say(Level::kInfo, "granted",
                                 {.request = session.request_id(),
                                  .more = {{"name", request.name},
                                           {"env", request.env},
                                           {"profile", decision.verdict.profile.name}}});
  Json json = {
      {"ok", true}, {"profile", decision.verdict.profile.name}, {"shield", decision.recorded}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

namespace {

Result<SpawnRequest> prepare_enter(Session& session, Incoming& incoming) {
  Server& server = session.server();
  if (server.draining()) return draining();
  Worker* worker = TRY(server.workers().find(incoming.request.worker, session.peer().user.uid));
  if (!worker->pidfd.valid()) {
    return Error{"enter", EAGAIN, worker->id, "is only just starting", "try again"};
  }
  SpawnRequest spawn;
  spawn.kind = SpawnRequest::Kind::kEnter;
  spawn.caller = session.peer().user;
  if (worker->runs_as != 0) {
    spawn.caller = {worker->runs_as, worker->runs_as_group, {}};
  }
  spawn.limits = TRY(session.limits_of_client());
  TRY(check_descriptors(session, incoming.fds));
  if (worker->shield.empty()) {
    return Error{"enter", EPERM, worker->id, "it was started by an older daemon, under no policy",
                 "start it again"};
  }
  spawn.shield = worker->shield;
  take_descriptors(incoming.fds, spawn);
  spawn.target.reset(::fcntl(worker->pidfd.get(), F_DUPFD_CLOEXEC, 3));
  server.journal().say(Level::kInfo, "entered",
                       {.worker = worker->id,
                        .request = session.request_id(),
                        .uid = worker->uid,
                        .more = {{"by", int64_t{session.peer().user.uid}}}});
  return spawn;
}

}  // namespace

awaitable<std::string> enter_worker(Session& session, Incoming incoming) {
  Server& server = session.server();
  auto began = Clock::now();
  Share share(server.starts(), session.peer().user.uid);
  if (!share.resize(1)) {
    Error error{"enter", EAGAIN, "", "too many starts are under way", "try again"};
    co_return refusal(session, Op::kEnter, error);
  }
  auto request = prepare_enter(session, incoming);
  if (!request) co_return refusal(session, Op::kEnter, request.error());
  auto asked = server.spawners().ask(std::move(*request));
  if (!asked) co_return refusal(session, Op::kEnter, asked.error());
  auto reply = co_await (*asked)->next(kMostStart);
  if (!reply) {
    server.spawners().give_up(**asked);
    if (reply.error().code == ETIMEDOUT) server.spawners().check_hangs(began);
    co_return refusal(session, Op::kEnter, reply.error());
  }
  if (reply->kind != SpawnReply::Kind::kStarted) {
    co_return refusal(session, Op::kEnter, reply->error);
  }
  Json json = {{"ok", true}, {"pid", reply->pid}};
  json["steps"] = steps_json(reply->steps);
  json["controls"] = controls_json(reply->applied);
  co_return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace rtlaunch
