#include "launcher/ray/service.h"

#include "launcher/ray/failure.h"
#include "launcher/ray/runtime_env_agent.pb.h"

namespace rtlaunch::ray {
namespace {

namespace rpc = ::ray::rpc;

constexpr int kDefaultSeconds = 600;

HttpAnswer unreadable() {
  return {500, "text/plain; charset=utf-8",
          "500 Internal Server Error\n\nServer got itself in trouble"};
}

template <typename Message>
HttpAnswer written(const Message& message) {
  HttpAnswer answer;
  message.SerializeToString(&answer.body);
  return answer;
}

std::optional<seconds> limit_of(int wanted) {
  if (wanted < 0) return std::nullopt;
  return seconds(wanted == 0 ? kDefaultSeconds : wanted);
}

GetRequest request_of(rpc::GetOrCreateRuntimeEnvRequest& message) {
  GetRequest request;
  request.env = std::move(*message.mutable_serialized_runtime_env());
  request.source = message.source_process();
  request.job = message.job_id();
  request.limit = limit_of(message.runtime_env_config().setup_timeout_seconds());
  for (const std::string& name : message.runtime_env_config().log_files()) {
    request.log_files.push_back(name);
  }
  return request;
}

HttpAnswer reply_to_get(const GetAnswer& answer) {
  rpc::GetOrCreateRuntimeEnvReply reply;
  if (answer.ok) {
    reply.set_serialized_runtime_env_context(answer.text);
  } else {
    reply.set_status(rpc::AGENT_RPC_STATUS_FAILED);
    reply.set_error_message(answer.text);
  }
  return written(reply);
}

}  // namespace

awaitable<HttpAnswer> Service::answer(std::string path, std::string body) {
  if (path == "/get_or_create_runtime_env") co_return co_await get_or_create(std::move(body));
  if (path == "/delete_runtime_env_if_possible") co_return remove(body);
  if (path == "/get_runtime_envs_info") co_return list(body);
  co_return HttpAnswer{404, "text/plain; charset=utf-8", "404: Not Found"};
}

awaitable<HttpAnswer> Service::get_or_create(std::string body) {
  rpc::GetOrCreateRuntimeEnvRequest message;
  if (!message.ParseFromString(body)) co_return unreadable();
  GetRequest request = request_of(message);
  if (auto known = environments_.get_known(request)) co_return reply_to_get(*known);
  co_return reply_to_get(co_await environments_.get(std::move(request)));
}

HttpAnswer Service::remove(const std::string& body) {
  rpc::DeleteRuntimeEnvIfPossibleRequest message;
  if (!message.ParseFromString(body)) return unreadable();
  rpc::DeleteRuntimeEnvIfPossibleReply reply;
  Status removed = environments_.remove(message.serialized_runtime_env(), message.source_process());
  if (!removed) {
    reply.set_status(rpc::AGENT_RPC_STATUS_FAILED);
    reply.set_error_message(on_node(node_ip_, failure_text(removed.error())));
  }
  return written(reply);
}

HttpAnswer Service::list(const std::string& body) const {
  rpc::GetRuntimeEnvsInfoRequest message;
  if (!message.ParseFromString(body)) return unreadable();
  rpc::GetRuntimeEnvsInfoReply reply;
  auto states = environments_.states();
  reply.set_total(static_cast<int64_t>(states.size()));
  int64_t most = message.has_limit() && message.limit() >= 0 ? message.limit() : reply.total();
  for (const EnvironmentState& state : states) {
    if (reply.runtime_env_states_size() >= most) break;
    rpc::RuntimeEnvState& shown = *reply.add_runtime_env_states();
    shown.set_runtime_env(state.env);
    shown.set_ref_cnt(state.uses);
    if (state.made) shown.set_success(*state.made);
    if (!state.error.empty()) shown.set_error(state.error);
    if (state.creation_ms) shown.set_creation_time_ms(*state.creation_ms);
  }
  return written(reply);
}

}  // namespace rtlaunch::ray
