// rtlaunch-ray-grpc: the agent for Ray before 2.8, whose raylet asks over gRPC. The messages are
// the same bytes, so each call of ray.rpc.RuntimeEnvService is passed on to the agent as a POST,
// with its `authorization`, and the answer back. Started by rtlaunch-agent with --grpc-port; ends
// with it. A thread for each call that is under way; a raylet has ten.
//
//   rtlaunch-ray-grpc LISTEN_ADDRESS:PORT AGENT_ADDRESS PORT
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cstdio>
#include <map>
#include <thread>

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr int kMostBytes = 64 << 20;

const std::map<std::string, std::string> kPaths = {
    {"/ray.rpc.RuntimeEnvService/GetOrCreateRuntimeEnv", "/get_or_create_runtime_env"},
    {"/ray.rpc.RuntimeEnvService/DeleteRuntimeEnvIfPossible", "/delete_runtime_env_if_possible"},
    {"/ray.rpc.RuntimeEnvService/GetRuntimeEnvsInfo", "/get_runtime_envs_info"},
};

struct Agent {
  std::string address;
  uint16_t port = 0;
};

std::string bytes_of(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

grpc::Status status_of(unsigned http_status, const std::string& body) {
  if (http_status == 200) return grpc::Status::OK;
  bool refused = http_status == 401 || http_status == 403;
  return {refused ? grpc::StatusCode::UNAUTHENTICATED : grpc::StatusCode::INTERNAL, body};
}

// The agent's answer to one POST.
grpc::Status pass_on(const Agent& agent, const std::string& path, const std::string& authorization,
                     const std::string& request, grpc::ByteBuffer& reply) {
  boost::system::error_code error;
  asio::io_context io(1);
  tcp::socket socket(io);
  socket.connect({asio::ip::make_address(agent.address, error), agent.port}, error);
  http::request<http::string_body> post(http::verb::post, path, 11, request);
  post.set(http::field::host, agent.address);
  if (!authorization.empty()) post.set(http::field::authorization, authorization);
  post.prepare_payload();
  if (!error) http::write(socket, post, error);
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMostBytes);
  if (!error) http::read(socket, buffer, parser, error);
  if (error) return {grpc::StatusCode::UNAVAILABLE, "the agent: " + error.message()};
  const std::string& body = parser.get().body();
  grpc::Slice slice(body);
  reply = grpc::ByteBuffer(&slice, 1);
  return status_of(parser.get().result_int(), body);
}

class Call : public grpc::ServerGenericBidiReactor {
 public:
  Call(const Agent& agent, const grpc::GenericCallbackServerContext& context) : agent_(agent) {
    if (auto found = kPaths.find(context.method()); found != kPaths.end()) path_ = found->second;
    auto sent = context.client_metadata().find("authorization");
    if (sent != context.client_metadata().end()) {
      authorization_.assign(sent->second.data(), sent->second.size());
    }
    if (path_.empty()) {
      Finish({grpc::StatusCode::UNIMPLEMENTED, "no such method"});
    } else {
      StartRead(&request_);
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Finish({grpc::StatusCode::INVALID_ARGUMENT, "no message"});
    std::thread([this] { answer(); }).detach();
  }
  void OnDone() override { delete this; }

 private:
  void answer() {
    grpc::Status status = pass_on(agent_, path_, authorization_, bytes_of(request_), reply_);
    if (!status.ok()) return Finish(status);
    StartWriteAndFinish(&reply_, grpc::WriteOptions(), status);
  }

  const Agent& agent_;
  std::string path_, authorization_;
  grpc::ByteBuffer request_, reply_;
};

class Service : public grpc::CallbackGenericService {
 public:
  explicit Service(Agent agent) : agent_(std::move(agent)) {}
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    return new Call(agent_, *context);
  }

 private:
  Agent agent_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return std::fputs("rtlaunch-ray-grpc is started by rtlaunch-agent\n", stderr), 125;
  Service service({argv[2], static_cast<uint16_t>(std::atoi(argv[3]))});
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials(), &port);
  builder.RegisterCallbackGenericService(&service);
  builder.SetMaxReceiveMessageSize(kMostBytes);
  auto server = builder.BuildAndStart();
  if (!server || port == 0) {
    return std::fprintf(stderr, "rtlaunch-ray-grpc: can't listen at %s\n", argv[1]), 125;
  }
  server->Wait();
}
