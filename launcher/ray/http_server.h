// HTTP/1.1 as a raylet speaks it: POSTs with a body, answered one after the other on each
// connection, which stays open until the client closes it. A request is always answered: what isn't
// HTTP with 400, without a token with 401, with a wrong one with 403, an unknown path with 404, and
// what the handler can't read with 500; a connection that is dropped meanwhile would have the
// raylet send it again, and in the end kill its node.
//
//   auto server = TRY(HttpServer::listen(io, "10.0.0.1", 0, auth, handler));
//   server->start();   // port() is listened at from before
//
// One thread. The handler is a coroutine, and many may run at once; what it throws is our own bug.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "isolation/sys/result.h"
#include "launcher/ray/auth.h"
#include "launcher/server_async.h"

namespace rtlaunch::ray {

struct HttpAnswer {
  unsigned status = 200;
  std::string type = "application/octet-stream";
  std::string body = {};
};

class HttpServer {
 public:
  using Handler = std::function<awaitable<HttpAnswer>(std::string path, std::string body)>;
  // Whether somebody else allows the request with that header: Auth::Verdict::kAsk.
  using Review = std::function<awaitable<bool>(std::string authorization)>;

  // `ip`: an address, or "localhost". Port 0: any.
  static Result<std::unique_ptr<HttpServer>> listen(asio::io_context& io, const std::string& ip,
                                                    uint16_t port, Auth auth, Handler handler,
                                                    Review review);
  virtual ~HttpServer() = default;
  virtual uint16_t port() const = 0;
  virtual void start() = 0;  // from now on connections are taken
};

}  // namespace rtlaunch::ray
