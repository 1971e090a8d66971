// envs and forget: a caller's environments, listed and removed by rtlaunch-build, which alone knows
// the index of the store; as a job of the caller's, so that nothing of others is told or touched.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "launcher/request.h"
#include "launcher/session_ops.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;
using protocol::Op;
using protocol::Request;

constexpr auto kToStart = seconds(30), kLongest = seconds(120);
constexpr size_t kMostOutput = 64 << 20;

struct Ends {
  UniqueFd ours, theirs;
};

Result<Ends> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return sys_error("pipe", "");
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return Ends{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// False at the end.
bool take_output(int fd, std::string& text) {
  char buffer[16384];
  ssize_t count = ::read(fd, buffer, sizeof buffer);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  text.append(buffer, static_cast<size_t>(count));
  return count > 0 && text.size() < kMostOutput;
}

awaitable<Result<std::string>> output_of(Server* server, std::vector<std::string> arguments) {
  auto ends = make_pipe();
  if (!ends) co_return ends.error();
  SpawnRequest request;
  request.kind = SpawnRequest::Kind::kBuild;
  request.arguments = std::move(arguments);
  request.output = std::move(ends->theirs);
  auto asked = server->spawners().ask(std::move(request));
  if (!asked) co_return asked.error();
  auto started = co_await (*asked)->next(kToStart);
  if (!started) co_return started.error();
  if (started->kind != SpawnReply::Kind::kStarted) co_return started->error;
  Watched output(server->io(), std::move(ends->ours));
  auto until = Clock::now() + kLongest;
  std::string text;
  bool more = true;
  while (more && Clock::now() < until) {
    if (co_await output.wait(Watched::kRead, until - Clock::now())) {
      more = take_output(output.fd(), text);
    }
  }
  if (more) spawn(server->io(), end_builder(server->io(), std::move(started->pidfd)));
  if (more) co_return Error{"env", ETIMEDOUT, "", "the store doesn't answer", "try again", 125};
  co_return text;
}

// A list, or the error that it ended with.
Result<Json> parse_output(const std::string& text) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_array()) return json;
  auto answer = parse_answer(text);
  if (answer && answer->kind == Answer::Kind::kError) return std::move(answer->error);
  return make_error("env", "rtlaunch-build", "ended without an answer", "see the daemon's log");
}

std::vector<std::string> arguments_for(Session& session, const char* verb,
                                       const std::vector<std::string>& ids) {
  uid_t uid = session.peer().user.uid;
  std::vector<std::string> arguments = {"env", verb, "--json", "--store",
                                        session.server().options().store};
  if (uid != 0) arguments.insert(arguments.end(), {"--uid", std::to_string(uid)});
  arguments.insert(arguments.end(), ids.begin(), ids.end());
  return arguments;
}

awaitable<Result<Json>> ask_builder(Session* session, std::vector<std::string> arguments) {
  Server& server = session->server();
  Share share(server.lookers(), session->peer().user.uid);
  if (!share.resize(1)) {
    co_return Error{"env", EAGAIN, "", "too many ask for environments already", "try again"};
  }
  auto text = co_await output_of(&server, std::move(arguments));
  if (!text) co_return text.error();
  co_return parse_output(*text);
}

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

awaitable<std::string> show_envs(Session& session) {
  auto envs = co_await ask_builder(&session, arguments_for(session, "ls", {}));
  if (!envs) co_return refusal(session, Op::kEnvs, envs.error());
  for (const Json& env : *envs) {
    Json event = {{"event", "env"}};
    event["env"] = env;
    if (!co_await session.send(text_of(event))) break;
  }
  co_return R"({"ok":true})";
}

awaitable<std::string> forget_envs(Session& session, Request request) {
  auto removed = co_await ask_builder(&session, arguments_for(session, "rm", request.ids));
  if (!removed) co_return refusal(session, Op::kForget, removed.error());
  Facts facts = {.request = session.request_id(), .uid = session.peer().user.uid};
  facts.more = {{"envs", static_cast<int64_t>(removed->size())}};
  session.server().journal().say(Level::kInfo, "forgotten", facts);
  Json answer = {{"ok", true}};
  answer["removed"] = *removed;
  co_return text_of(answer);
}

}  // namespace rtlaunch
