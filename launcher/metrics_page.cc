#include "launcher/metrics_page.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <charconv>

namespace rtlaunch {

namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

struct MetricsPage::State {
  State(asio::io_context& on, Text from) : io(on), text(std::move(from)), acceptor(on) {}
  asio::io_context& io;
  Text text;
  tcp::acceptor acceptor;
  int open = 0;
};

namespace {

constexpr auto kPatience = seconds(10);
constexpr size_t kMostHeader = 8192;

Error bad(const std::string& address, const std::string& reason) {
  return make_error("--metrics", address, reason, "give ADDR:PORT of this machine, or off");
}

Result<tcp::endpoint> parse_address(const std::string& text) {
  size_t colon = text.rfind(':');
  if (colon == std::string::npos) return bad(text, "has no port");
  std::string host = text.substr(0, colon), port = text.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  error_code error;
  asio::ip::address address = asio::ip::make_address(host, error);
  uint16_t number = 0;
  auto [end, code] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error || code != std::errc() || end != port.data() + port.size()) {
    return bad(text, "is no address and port");
  }
  return tcp::endpoint(address, number);
}

using Answer = http::response<http::string_body>;

Answer answer_to(const http::request<http::empty_body>& request,
                 const std::function<std::string()>& text) {
  Answer answer{http::status::ok, request.version()};
  answer.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
  answer.set(http::field::cache_control, "no-store");
  if (request.method() != http::verb::get) {
    answer.result(http::status::method_not_allowed);
    answer.set(http::field::allow, "GET");
  } else if (request.target() == "/metrics") {
    answer.body() = text();
  } else {
    answer.result(http::status::not_found);
    answer.body() = "/metrics is what there is\n";
  }
  answer.keep_alive(false);
  answer.prepare_payload();
  return answer;
}

// One request a connection.
awaitable<void> serve_one(std::shared_ptr<beast::tcp_stream> stream,
                          std::function<std::string()> text) {
  error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  stream->expires_after(kPatience);
  beast::flat_buffer buffer(kMostHeader);
  http::request<http::empty_body> request;
  co_await http::async_read(*stream, buffer, request, token);
  if (error) co_return;
  Answer answer = answer_to(request, text);
  stream->expires_after(kPatience);
  co_await http::async_write(*stream, answer, token);
  stream->socket().shutdown(tcp::socket::shutdown_both, error);
}

}  // namespace

Result<std::unique_ptr<MetricsPage>> MetricsPage::open(asio::io_context& io,
                                                       const std::string& address, Text text) {
  if (address == "off") return std::unique_ptr<MetricsPage>();
  tcp::endpoint endpoint = TRY(parse_address(address));
  auto state = std::make_shared<MetricsPage::State>(io, std::move(text));
  error_code error;
  state->acceptor.open(endpoint.protocol(), error);
  if (!error) state->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) state->acceptor.bind(endpoint, error);
  if (!error) state->acceptor.listen(16, error);
  if (error) return bad(address, "can't be listened at: " + error.message());
  return std::unique_ptr<MetricsPage>(new MetricsPage(std::move(state)));
}

namespace {

template <typename StatePtr>
awaitable<void> serve_and_count(StatePtr state, std::shared_ptr<beast::tcp_stream> stream) {
  ++state->open;
  co_await serve_one(std::move(stream), state->text);
  --state->open;
}

template <typename StatePtr>
awaitable<void> accept(StatePtr state) {
  while (state->acceptor.is_open()) {
    error_code error;
    tcp::socket socket =
        co_await state->acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (error) {
      co_await sleep_for(state->io, milliseconds(100));
    } else if (state->open < MetricsPage::kMost) {
      spawn(state->io,
            serve_and_count(state, std::make_shared<beast::tcp_stream>(std::move(socket))));
    }
  }
}

}  // namespace

MetricsPage::MetricsPage(std::shared_ptr<State> state) : state_(std::move(state)) {
  spawn(state_->io, accept(state_));
}

MetricsPage::~MetricsPage() {
  error_code ignored;
  state_->acceptor.close(ignored);
}

std::string MetricsPage::address() const {
  error_code ignored;
  tcp::endpoint endpoint = state_->acceptor.local_endpoint(ignored);
  bool six = endpoint.address().is_v6();
  std::string host = endpoint.address().to_string();
  return (six ? "[" + host + "]" : host) + ":" + std::to_string(endpoint.port());
}

}  // namespace rtlaunch
