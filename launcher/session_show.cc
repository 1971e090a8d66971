// ps, logs and status: what there is to look at. Others than root see what is theirs.
#include <cerrno>
#include <nlohmann/json.hpp>

#include "launcher/session_ops.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;
using protocol::Op;
using protocol::Request;

constexpr int64_t kFresh = 500'000;  // microseconds: how old a measurement `ps` may tell
constexpr size_t kAtOnce = 16;       // workers measured before others have their turn
constexpr auto kFollow = seconds(2);

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

bool may_see(const Session& session, const std::optional<uid_t>& owner) {
  uid_t caller = session.peer().user.uid;
  return caller == 0 || owner == caller;
}

Json worker_json(const Worker& worker, const char* state) {
  Json json = {{"id", worker.id},
               {"uid", worker.uid},
               {"name", worker.name},
               {"env", worker.env},
               {"pid", worker.pid},
               {"since", worker.since},
               {"profile", worker.profile},
               {"not_applied", worker.lacking},
               {"state", state}};
  if (worker.runs_as != 0) json["runs_as"] = worker.runs_as;
  if (worker.way_out) json["refused_packets"] = worker.refused;
  if (state == std::string_view("ended")) {
    json["status"] = worker.status ? Json(*worker.status) : Json();
    json["ended"] = worker.ended;
  } else {
    json["cpu_us"] = worker.usage.cpu_us;
    json["memory"] = worker.usage.memory;
    json["processes"] = worker.usage.processes;
  }
  return json;
}

std::vector<std::string> visible_workers(Session& session) {
  std::vector<std::string> ids;
  for (const auto& [id, worker] : session.server().workers().all_running()) {
    if (may_see(session, worker.uid)) ids.push_back(id);
  }
  return ids;
}

void measure(Worker& worker, Refusals& refusals) {
  int64_t now = wall_microseconds();
  if (worker.pid <= 0 || now - worker.measured < kFresh) return;
  worker.usage = usage_of(worker.pid, worker.cgroup);
  refusals.look(worker);
  worker.measured = now;
}

}  // namespace

awaitable<std::string> show_workers(Session& session, Request request) {
  Server& server = session.server();
  Json workers = Json::array();
  size_t measured = 0;
  for (const std::string& id : visible_workers(session)) {
    if (++measured % kAtOnce == 0) co_await let_others_run(server.io());
    Worker* worker = server.workers().running(id);
    if (worker == nullptr) continue;
    measure(*worker, server.refusals());
    workers.push_back(worker_json(*worker, worker->pid > 0 ? "running" : "starting"));
  }
  if (request.all) {
    for (const Worker& worker : server.workers().all_ended()) {
      if (may_see(session, worker.uid)) workers.push_back(worker_json(worker, "ended"));
    }
  }
  Json answer = {{"ok", true}};
  answer["workers"] = std::move(workers);
  co_return text_of(answer);
}

namespace {

// Lines from `next` on that the caller may see, as many as go into one turn.
struct Lines {
  std::vector<std::string> events;
  uint64_t next = 0;
  bool more = false, ended = false;
};

Lines lines_from(Session& session, const std::string& worker, uint64_t next) {
  Lines lines;
  const auto& entries = session.server().journal().entries();
  uint64_t first = entries.empty() ? next : entries.front().number;
  if (first > next && next > 0) {
    lines.events.push_back(R"({"event":"log","lost":)" + std::to_string(first - next) + "}");
  }
  for (size_t i = next > first ? next - first : 0; i < entries.size(); ++i) {
    const Journal::Entry& entry = entries[i];
    lines.next = entry.number + 1;
    if (!may_see(session, entry.uid) || !entry.worker.starts_with(worker)) continue;
    lines.events.push_back(R"({"event":"log","line":)" + entry.line + "}");
    lines.ended |= !worker.empty() && entry.line.find(R"("event":"ended")") != std::string::npos;
    lines.more = i + 1 < entries.size() && lines.events.size() >= 64;
    if (lines.more) break;
  }
  lines.next = std::max(lines.next, next);
  return lines;
}

bool known(Session& session, const std::string& worker) {
  if (worker.empty()) return true;
  for (const Journal::Entry& entry : session.server().journal().entries()) {
    if (may_see(session, entry.uid) && entry.worker.starts_with(worker)) return true;
  }
  return false;
}

}  // namespace

awaitable<std::string> show_logs(Session& session, Request request) {
  Server& server = session.server();
  Share share(server.followers(), session.peer().user.uid);
  if (!share.resize(1)) {
    Error error{"logs", EAGAIN, "", "too many read logs already", "try again"};
    co_return refusal(session, Op::kLogs, error);
  }
  if (!known(session, request.worker)) {
    Error error{"logs", ESRCH, request.worker, "nothing is known of such a worker",
                "rtlaunch ps --all shows the last ones"};
    co_return refusal(session, Op::kLogs, error);
  }
  auto gone = std::make_shared<bool>(false);
  session.watch_client([gone, &session] {
    *gone = true;
    session.server().news().ring();
  });
  uint64_t next = 0;
  bool ended = false;
  while (!*gone && session.open()) {
    Lines lines = lines_from(session, request.worker, next);
    for (const std::string& event : lines.events) {
      if (!co_await session.send(event)) break;
    }
    next = lines.next;
    ended |= lines.ended;
    if (lines.more) continue;
    if (!request.follow || ended || server.draining()) break;
    if (server.journal().next_number() <= next) co_await server.news().wait(kFollow);
  }
  session.stop_watching();
  if (*gone) session.close();
  co_return R"({"ok":true})";
}

Result<std::string> show_status(Session& session) {
  Server& server = session.server();
  server.update_gauges();
  Metrics& metrics = server.metrics();
  auto number = [&](const char* name) { return static_cast<int64_t>(metrics.sum(name)); };
  Json status = {{"started", number("rtlaunch_started_seconds")},
                 {"draining", server.draining()},
                 {"spawner",
                  {{"alive", server.spawners().alive()},
                   {"in_flight", server.spawners().in_flight()},
                   {"restarts", number("rtlaunch_spawner_restarts_total")}}},
                 {"memory", number("rtlaunch_resident_bytes")},
                 {"connections", number("rtlaunch_connections")},
                 {"requests", number("rtlaunch_requests_total")},
                 {"failures", number("rtlaunch_failures_total")},
                 {"starts", number("rtlaunch_starts_total")},
                 {"workers", number("rtlaunch_workers")},
                 {"workers_ended", number("rtlaunch_workers_ended_total")},
                 {"refused_packets", number("rtlaunch_refused_packets_total")},
                 {"builds",
                  {{"running", server.builds().running()},
                   {"queued", server.builds().waiting()},
                   {"total", number("rtlaunch_builds_total")}}},
                 {"housekeeping", server.housekeeping().busy()},
                 {"collections", number("rtlaunch_collections_total")}};
  Json stats = Json::parse(server.housekeeping().stats(), nullptr, false);
  status["policy"] = server.policy().status();
  status["store"] = {{"path", server.options().store},
                     {"stats", stats.is_object() ? stats : Json()}};
  auto store = server.store();
  if (!store) status["store"]["error"] = store.error().message();
  return text_of(Json{{"ok", true}, {"status", status}});
}

}  // namespace rtlaunch
