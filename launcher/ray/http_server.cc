#include "launcher/ray/http_server.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <list>

namespace rtlaunch::ray {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr uint64_t kMostBody = 64 << 20;
constexpr uint32_t kMostHeader = 64 << 10;
constexpr size_t kRead = 16 << 10;
constexpr size_t kMostConnections = 1024;
constexpr auto kIdle = std::chrono::hours(1);       // nothing but a leak is idle for so long
constexpr auto kRequest = std::chrono::minutes(1);  // from its first byte to its last
constexpr auto kAnswer = std::chrono::minutes(1);   // to be taken
constexpr auto kLook = std::chrono::seconds(10);    // for those that are late

using Parser = http::request_parser<http::string_body>;

const char* reason_of(unsigned status) {
  auto text = http::obsolete_reason(static_cast<http::status>(status));
  return text.data();
}

std::string head_of(const HttpAnswer& answer, bool keep_alive) {
  return "HTTP/1.1 " + std::to_string(answer.status) + " " + reason_of(answer.status) +
         "\r\nServer: rtlaunch-agent\r\nContent-Type: " + answer.type +
         "\r\nContent-Length: " + std::to_string(answer.body.size()) +
         (keep_alive ? "\r\n\r\n" : "\r\nConnection: close\r\n\r\n");
}

HttpAnswer in_words(unsigned status, const std::string& text) {
  return {status, "text/plain; charset=utf-8", text};
}

std::string_view header(const Parser::value_type& request, beast::string_view name) {
  beast::string_view value = request[name];
  return {value.data(), value.size()};
}

class Server : public HttpServer {
 public:
  Server(asio::io_context& io, Auth auth, Handler handler, Review review)
      : io_(io),
        acceptor_(io),
        auth_(std::move(auth)),
        handler_(std::move(handler)),
        review_(std::move(review)) {}

  Status open(const std::string& ip, uint16_t port) {
    error_code error;
    auto address = asio::ip::make_address(ip == "localhost" ? "127.0.0.1" : ip, error);
    if (error) return make_error("listen", ip, "is no address", "start the agent with the node's");
    tcp::endpoint endpoint(address, port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(tcp::acceptor::max_listen_connections, error);
    if (!error) return {};
    return Error{"listen", error.value(), ip + ":" + std::to_string(port), "", "", 125};
  }

  uint16_t port() const override { return acceptor_.local_endpoint().port(); }
  void start() override { spawn(io_, accept_all(this)); }

 private:
  struct Line;
  using Lines = std::list<Line*>;

  // A connection, which is on the server's list while it is there; it may outlive the server.
  struct Line {
    Line(std::shared_ptr<Lines> all, tcp::socket from)
        : lines(std::move(all)), socket(std::move(from)) {
      at = lines->insert(lines->end(), this);
    }
    ~Line() { lines->erase(at); }
    Line(const Line&) = delete;
    Line& operator=(const Line&) = delete;

    std::shared_ptr<Lines> lines;
    Lines::iterator at;
    tcp::socket socket;
    beast::flat_buffer buffer;
    Clock::time_point late = Clock::time_point::max();
  };

  static awaitable<void> accept_all(Server* self) {
    for (;;) {
      error_code error;
      tcp::socket socket =
          co_await self->acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
      if (error || self->lines_->size() >= kMostConnections) {
        co_await sleep_for(self->io_, milliseconds(100));
        if (error) continue;
      }
      socket.set_option(tcp::no_delay(true), error);
      socket.non_blocking(true, error);
      spawn(self->io_, attend(self, std::move(socket)));
      if (!self->looking_) spawn(self->io_, close_late_ones(self));
      self->looking_ = true;
    }
  }

  // One timer for all: setting one for each request is a system call for each.
  static awaitable<void> close_late_ones(Server* self) {
    while (!self->lines_->empty()) {
      co_await sleep_for(self->io_, kLook);
      for (Line* line : *self->lines_) {
        error_code ignored;
        if (line->late < Clock::now()) line->socket.close(ignored);
      }
    }
    self->looking_ = false;
  }

  static awaitable<void> attend(Server* self, tcp::socket socket) {
    Line line(self->lines_, std::move(socket));
    bool open = true;
    while (open) open = co_await serve_one(self, line);
    error_code ignored;
    line.socket.shutdown(tcp::socket::shutdown_send, ignored);
  }

  // True when the request is whole, or never will be one.
  static bool take(beast::flat_buffer& buffer, Parser& parser, error_code& error) {
    if (buffer.size() == 0) return false;
    buffer.consume(parser.put(buffer.data(), error));
    if (error == http::error::need_more) error = {};
    return error || parser.is_done();
  }

  // False when there will be no further request.
  static awaitable<bool> serve_one(Server* self, Line& line) {
    error_code error;
    Parser parser;
    parser.body_limit(kMostBody);
    parser.header_limit(kMostHeader);
    parser.eager(true);
    bool begun = line.buffer.size() > 0;
    line.late = Clock::now() + (begun ? Clock::duration(kRequest) : kIdle);
    while (!take(line.buffer, parser, error)) {
      size_t count = co_await line.socket.async_read_some(
          line.buffer.prepare(kRead), asio::redirect_error(asio::use_awaitable, error));
      if (error) break;
      if (!std::exchange(begun, true)) line.late = Clock::now() + kRequest;
      line.buffer.commit(count);
    }
    line.late = Clock::time_point::max();
    if (error && !is_our_answer(error)) co_return false;
    bool keep_alive = !error && parser.keep_alive();
    HttpAnswer answer = error ? refuse(error) : HttpAnswer();
    if (!error) answer = co_await respond(self, parser.release());
    co_return co_await send(line, answer, keep_alive);
  }

  // What the client should hear of; of all else there is nobody to hear.
  static bool is_our_answer(const error_code& error) {
    return error.category() == make_error_code(http::error::bad_target).category() &&
           error != http::error::end_of_stream && error != http::error::partial_message;
  }

  static HttpAnswer refuse(const error_code& error) {
    if (error == http::error::body_limit) return in_words(413, "413: Request Entity Too Large");
    return in_words(400, "400: Bad Request");
  }

  static awaitable<HttpAnswer> respond(Server* self, Parser::value_type request) {
    std::string_view own = header(request, "Authorization"),
                     rays = header(request, "X-Ray-Authorization"),
                     cookies = header(request, "Cookie");
    Auth::Verdict verdict = self->auth_.judge(own, rays, cookies);
    if (verdict == Auth::Verdict::kAsk) {
      bool allowed = co_await self->review_(Auth::given(own, rays, cookies));
      verdict = allowed ? Auth::Verdict::kAllowed : Auth::Verdict::kWrong;
    }
    if (verdict == Auth::Verdict::kMissing)
      co_return in_words(401, "Unauthorized: Missing authentication token");
    if (verdict == Auth::Verdict::kWrong)
      co_return in_words(403, "Forbidden: Invalid authentication token");
    if (request.method() != http::verb::post) co_return in_words(405, "405: Method Not Allowed");
    std::string path(request.target().data(), request.target().size());
    path.resize(std::min(path.find('?'), path.size()));
    co_return co_await self->handler_(std::move(path), std::move(request.body()));
  }

  // Nearly always at once: to wait for it would be one more turn of the loop.
  static awaitable<bool> send(Line& line, const HttpAnswer& answer, bool keep_alive) {
    error_code error;
    std::string head = head_of(answer, keep_alive);
    std::array<asio::const_buffer, 2> parts = {asio::buffer(head), asio::buffer(answer.body)};
    size_t sent = line.socket.write_some(parts, error);
    if (error == asio::error::would_block) error = {};
    if (!error && sent < head.size() + answer.body.size()) {
      std::string rest = (head + answer.body).substr(sent);
      line.late = Clock::now() + kAnswer;
      co_await asio::async_write(line.socket, asio::buffer(rest),
                                 asio::redirect_error(asio::use_awaitable, error));
    }
    co_return !error && keep_alive;
  }

  asio::io_context& io_;
  tcp::acceptor acceptor_;
  Auth auth_;
  Handler handler_;
  Review review_;
  std::shared_ptr<Lines> lines_ = std::make_shared<Lines>();
  bool looking_ = false;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::listen(asio::io_context& io, const std::string& ip,
                                                       uint16_t port, Auth auth, Handler handler,
                                                       Review review) {
  auto server =
      std::make_unique<Server>(io, std::move(auth), std::move(handler), std::move(review));
  TRY(server->open(ip, port));
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace rtlaunch::ray
