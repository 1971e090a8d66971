// make: one builder a field, side by side; the client hears of their progress as far as it listens.
#include <algorithm>
#include <cerrno>

#include "config/runtime_env.h"
#include "launcher/session_ops.h"

namespace rtlaunch {
namespace {

using protocol::Op;

constexpr uint64_t kMostRequest = 16 << 20;
constexpr auto kForEver = std::chrono::hours(24 * 365);

// What the builders of one request have in common.
struct Making {
  explicit Making(asio::io_context& io) : changed(io) {}
  std::vector<std::shared_ptr<Build>> builds;
  size_t left = 0;
  std::optional<Error> failed;  // the first
  bool again = false;           // it was ours, and passes; a builder's is its caller's to judge
  bool gone = false;            // the client
  Bell changed;

  void end_all() {
    for (const auto& build : builds) build->cancel();
  }
};

Status check_name(const std::string& field, const config::Allowed& allowed) {
  const std::vector<std::string>& fields = config::field_names();
  bool plugin = std::find(fields.begin(), fields.end(), field) == fields.end();
  return plugin ? config::check_plugin(field, allowed) : config::check_field(field, allowed);
}

Status prepare(Session& session, const std::shared_ptr<Making>& making, const Incoming& incoming) {
  Server& server = session.server();
  if (server.draining()) {
    return Error{"make", EAGAIN, "", "rtlaunchd is being restarted", "try again"};
  }
  TRY(check_memory_file(incoming.fds[0].get(), kMostRequest, "request"));
  TRY(server.store());
  config::Allowed allowed = server.policy().allowed(session.peer().user);
  for (const std::string& field : incoming.request.fields) {
    TRY(check_name(field.substr(0, field.find('[')), allowed));
  }
  std::weak_ptr<Session> weak = session.weak_from_this();
  for (const std::string& field : incoming.request.fields) {
    auto build = std::make_shared<Build>(server.io());
    build->field = field;
    build->request = session.request_id();
    build->caller = session.peer().user;
    build->allowed = allowed;
    build->document = TRY(open_again(incoming.fds[0].get()));
    build->on_event = [weak](const std::string& event) {
      if (auto open = weak.lock()) open->offer(event);
    };
    making->builds.push_back(std::move(build));
  }
  making->left = making->builds.size();
  return {};
}

awaitable<void> make_one(Server* server, std::shared_ptr<Making> making,
                         std::shared_ptr<Build> build) {
  Status made = co_await server->builds().make(build);
  --making->left;
  if (made.ok()) {
    build->on_event(R"({"event":"made","field":")" + build->field + "\"}");
  } else if (!making->failed) {
    making->failed = made.error();
    making->again = made.error().code == EAGAIN && !build->told;
    making->end_all();
  }
  making->changed.ring();
}

}  // namespace

awaitable<std::string> make_layers(Session& session, Incoming incoming) {
  Server& server = session.server();
  auto making = std::make_shared<Making>(server.io());
  Status prepared = prepare(session, making, incoming);
  if (!prepared.ok()) co_return refusal(session, Op::kMake, prepared.error());
  session.watch_client([making] {
    making->gone = true;
    making->end_all();
  });
  for (const auto& build : making->builds) spawn(server.io(), make_one(&server, making, build));
  while (making->left > 0) co_await making->changed.wait(kForEver);
  session.stop_watching();
  if (making->gone) session.close();
  if (making->failed) co_return refusal(session, Op::kMake, *making->failed, making->again);
  server.housekeeping().settle_later(session.peer().user, std::move(incoming.fds[0]));
  co_return R"({"ok":true})";
}

}  // namespace rtlaunch
