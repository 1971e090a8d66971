// The ops that are answered at once, and the way to all others.
#include "launcher/session_ops.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <nlohmann/json.hpp>
#include <set>

#include "config/explain.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;
using protocol::Op;
using protocol::Request;

constexpr char kServer[] = "rtlaunchd 0.1.0";

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string fine(Json rest = Json::object()) {
  Json json = {{"ok", true}};
  json.update(rest);
  return text_of(json);
}

Status only_root(Session& session, const char* what) {
  if (session.peer().user.uid == 0) return {};
  return Error{what, EPERM, "", "only root may", "ask the administrator of this machine"};
}

Json record_json(const store::Record& record) {
  Json layers = Json::array();
  for (const store::Digest& digest : record.layers) layers.push_back(digest.hex);
  return {{"kind", record.kind}, {"name", record.name}, {"layers", layers}, {"data", record.data}};
}

Result<std::string> lookup(Session& session, const Request& request) {
  store::Store store = TRY(session.server().store_of(session.peer().user.uid));
  Json records = Json::array();
  for (const std::string& key : request.keys) {
    auto record = TRY(store.lookup({key}));
    records.push_back(record ? record_json(*record) : Json());
    session.server().metrics().count(
        "rtlaunch_lookups_total",
        {{"kind", record ? record->kind : "unknown"}, {"result", record ? "hit" : "miss"}});
  }
  return fine({{"records", records}});
}

Result<std::string> remember(Session& session, const Request& request) {
  store::Store store = TRY(session.server().store_of(session.peer().user.uid));
  std::vector<store::Digest> layers;
  for (const std::string& hex : request.layers) layers.push_back({hex});
  std::vector<store::Digest> entitled =
      TRY(layers_of(session.server().records(), store, request.keys));
  std::set<store::Digest> own(entitled.begin(), entitled.end());
  for (const store::Digest& digest : layers) {
    if (own.contains(digest)) continue;
    return Error{"remember", EPERM, digest.hex.substr(0, 12), "belongs to none of the keys",
                 "name the records that have the layer"};
  }
  auto before = TRY(store.lookup({request.key}));
  if (before && before->kind != "env") {
    return Error{"remember", EEXIST, request.key.substr(0, 12), "is another kind of record", ""};
  }
  TRY(store.record({request.key}, {"env", request.name, layers, request.data}));
  return fine();
}

// By its whole key, which costs the same however many others there are; by a hold's name; by a
// prefix of its key.
Result<store::Store::RecordRow> find_env(const store::Store& store, const std::string& id) {
  if (store::is_hex64(id)) {
    if (auto row = store.find("env", id)) return row;
  }
  for (const auto& hold : TRY(store.holds())) {
    if (hold.name == id && hold.uid == store.caller()) return store.find("env", hold.env.hex);
  }
  bool hex = id.size() >= 4 && id.find_first_not_of("0123456789abcdef") == id.npos;
  if (hex) return store.find("env", id);
  return Error{"env", ENOENT, id, "is no environment", "rtlaunch env ls shows those there are"};
}

Result<std::string> show_env(Session& session, const Request& request) {
  store::Store store = TRY(session.server().store_of(session.peer().user.uid));
  auto row = TRY(find_env(store, request.id));
  return fine({{"key", row.key.hex}, {"record", record_json(row.record)}});
}

Result<std::string> hold(Session& session, const Request& request) {
  store::Store store = TRY(session.server().store_of(session.peer().user.uid));
  auto row = TRY(find_env(store, request.env));
  auto held = TRY(store.hold(request.name, row.key, request.ttl));
  return fine({{"name", held.name}, {"env", held.env.hex}, {"expires", held.expires}});
}

Result<std::string> release(Session& session, const Request& request) {
  store::Store store = TRY(session.server().store_of(session.peer().user.uid));
  TRY(store.release(request.name));
  return fine();
}

Result<std::string> show_holds(Session& session) {
  store::Store store = TRY(session.server().store_of(session.peer().user.uid));
  Json holds = Json::array();
  for (const auto& hold : TRY(store.holds())) {
    holds.push_back(
        {{"name", hold.name}, {"env", hold.env.hex}, {"uid", hold.uid}, {"expires", hold.expires}});
  }
  return fine({{"holds", holds}});
}

// A pin has no owner and no end: for others than root there are holds.
Result<std::string> pin(Session& session, const Request& request) {
  if (session.peer().user.uid != 0) {
    return Error{"pin", EPERM, request.env, "a pin has no owner, so only root may",
                 "hold it by a name of yours: rtlaunch env create --name NAME ..."};
  }
  store::Store store = TRY(session.server().store_of(0));
  auto row = TRY(find_env(store, request.env));
  for (const store::Digest& digest : row.record.layers) {
    std::string name = "pins/" + digest.hex;
    if (request.pinned) {
      TRY(sys::replace_file_at(store.dir(), name, "", 0600));
    } else if (::unlinkat(store.dir(), name.c_str(), 0) != 0 && errno != ENOENT) {
      return sys_error("pin", name);
    }
  }
  return fine();
}

Result<std::string> adopt(Session& session) {
  TRY(only_root(session, "adopt"));
  session.server().look_for_lost_soon();
  return fine();
}

// The command is pid 1's eldest child: what it adopts comes behind.
Result<UniqueFd> command_of(const Worker& worker) {
  std::string folder = "/proc/" + std::to_string(worker.pid) + "/task/";
  std::string children =
      TRY(sys::read_file(folder + std::to_string(worker.pid) + "/children", 1 << 16));
  pid_t eldest = std::atoi(children.c_str());
  UniqueFd pidfd = eldest > 0 ? pidfd_of(eldest) : UniqueFd();
  std::string again =
      TRY(sys::read_file(folder + std::to_string(worker.pid) + "/children", 1 << 16));
  if (pidfd.valid() && std::atoi(again.c_str()) == eldest) return pidfd;
  return Error{"kill", ESRCH, worker.id, "its command has just ended", ""};
}

Result<std::string> kill_worker(Session& session, const Request& request) {
  Server& server = session.server();
  Worker* worker = TRY(server.workers().find(request.worker, session.peer().user.uid));
  if (!worker->pidfd.valid()) {
    return Error{"kill", EAGAIN, worker->id, "is only just starting", "try again"};
  }
  if (request.signal == SIGKILL) {
    TRY(sys::send_signal(worker->pidfd.get(), SIGKILL));
  } else {
    UniqueFd command = TRY(command_of(*worker));
    TRY(sys::send_signal(command.get(), static_cast<int>(request.signal)));
  }
  server.journal().say(
      Level::kInfo, "killed",
      {.worker = worker->id,
       .request = session.request_id(),
       .uid = worker->uid,
       .more = {{"signal", request.signal}, {"by", int64_t{session.peer().user.uid}}}});
  return fine();
}

Result<std::string> collect(Session& session) {
  TRY(only_root(session, "collect"));
  session.server().housekeeping().collect_soon();
  return fine();
}

std::optional<uint64_t> unsigned_of(const std::optional<int64_t>& number) {
  return number ? std::optional<uint64_t>(static_cast<uint64_t>(*number)) : std::nullopt;
}

Result<std::string> change_limits(Session& session, const Request& request) {
  TRY(only_root(session, "limits"));
  store::Store* store = TRY(session.server().store());
  store::LimitsChange change;
  change.max_bytes = unsigned_of(request.max_bytes);
  change.min_free = unsigned_of(request.min_free);
  change.max_files = unsigned_of(request.max_inodes);
  change.max_age_seconds = request.max_age;
  bool changes = change.max_bytes || change.min_free || change.max_files || change.max_age_seconds;
  if (changes) TRY(store->change_limits(change));
  store::Limits now = TRY(store->limits());
  if (changes) session.server().housekeeping().collect_soon();
  return fine({{"max_bytes", now.max_bytes},
               {"min_free", now.min_free},
               {"max_inodes", now.max_files},
               {"max_age", now.max_age_seconds}});
}

Result<std::string> show_profile(Session& session, const Request& request) {
  config::Verdict verdict = TRY(session.server().policy().decide(session.peer().user, request));
  Shape shape = shape_of(verdict.profile);
  Json json = {{"profile", shape.profile}, {"shared", shape.shared}, {"home", shape.home},
               {"environment", nullptr},   {"copies", shape.copies}, {"shape", shape.key()}};
  if (shape.environment) json["environment"] = *shape.environment;
  json["verdict"] = config::verdict_json(verdict);
  return fine(std::move(json));
}

Result<std::string> answer_at_once(Session& session, const Request& request) {
  switch (request.op) {
    case Op::kHello:
      return Error{"protocol", EPROTO, "hello", "was said already", ""};
    case Op::kLookup:
      return lookup(session, request);
    case Op::kRemember:
      return remember(session, request);
    case Op::kEnv:
      return show_env(session, request);
    case Op::kHold:
      return hold(session, request);
    case Op::kRelease:
      return release(session, request);
    case Op::kHolds:
      return show_holds(session);
    case Op::kPin:
      return pin(session, request);
    case Op::kKill:
      return kill_worker(session, request);
    case Op::kStatus:
      return show_status(session);
    case Op::kCollect:
      return collect(session);
    case Op::kLimits:
      return change_limits(session, request);
    case Op::kProfile:
      return show_profile(session, request);
    case Op::kGrant:
      return grant_start(session, request);
    case Op::kAdopt:
      return adopt(session);
    default:
      return Error{"protocol", ENOSYS, protocol::name_of(request.op), "is not there yet", ""};
  }
}

}  // namespace

Error wrongly(const std::string& assumed) {
  return Error{kAssumed, ESTALE, assumed.substr(0, 12), "is another than was assumed",
               "plan again"};
}

Result<std::vector<store::Digest>> layers_of(KnownRecords& records, const store::Store& store,
                                             const std::vector<std::string>& keys,
                                             const Digests& assumed) {
  std::vector<store::Digest> layers;
  for (const std::string& key : keys) {
    auto known = TRY(records.find(store, key));
    if (!known) {
      return Error{"lookup", ESTALE, key.substr(0, 12), "is no record of yours (any more)",
                   "plan again"};
    }
    auto one = assumed.find(key);
    if (one != assumed.end() && one->second != known->digest) return wrongly(key);
    layers.insert(layers.end(), known->record.layers.begin(), known->record.layers.end());
    store.touch({key});
  }
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  return layers;
}

std::string refusal(Session& session, Op op, const Error& error) {
  return refusal(session, op, error, error.code == EAGAIN);
}

std::string refusal(Session& session, Op op, const Error& error, bool again) {
  Server& server = session.server();
  server.metrics().count("rtlaunch_failures_total",
                         {{"class", error.step.empty() ? "unknown" : error.step}});
  Facts facts = {.request = session.request_id(), .uid = session.peer().user.uid};
  facts.more = {{"op", protocol::name_of(op)}};
  server.journal().say(Level::kWarning, "failed", facts_of(error, std::move(facts)));
  return protocol::error_answer(error, again);
}

std::string hello_answer(Server& server) {
  return fine({{"version", protocol::kVersion},
               {"server", kServer},
               {"store", server.options().store},
               {"plugins", server.options().plugins},
               {"tools", server.tools()},
               {"pid", ::getpid()}});
}

std::string wrong_version(int64_t version) {
  Error error{"hello", EPROTONOSUPPORT, std::to_string(version), "is a version that isn't spoken",
              "install rtlaunch and rtlaunchd of one version"};
  Json json = Json::parse(protocol::error_answer(error, false));
  json["versions"] = {protocol::kVersion};
  return text_of(json);
}

awaitable<std::string> carry_out(Session& session, Incoming incoming) {
  Op op = incoming.request.op;
  session.server().metrics().count("rtlaunch_requests_total", {{"op", protocol::name_of(op)}});
  if (op == Op::kStart) co_return co_await start_worker(session, std::move(incoming));
  if (op == Op::kEnter) co_return co_await enter_worker(session, std::move(incoming));
  if (op == Op::kMake) co_return co_await make_layers(session, std::move(incoming));
  if (op == Op::kLogs) co_return co_await show_logs(session, std::move(incoming.request));
  if (op == Op::kEnvs) co_return co_await show_envs(session);
  if (op == Op::kForget) co_return co_await forget_envs(session, std::move(incoming.request));
  if (op == Op::kPs) co_return co_await show_workers(session, std::move(incoming.request));
  auto answer = answer_at_once(session, incoming.request);
  co_return answer ? std::move(*answer) : refusal(session, op, answer.error());
}

}  // namespace rtlaunch
