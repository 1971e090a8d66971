// Connections that somebody else asked for (forwarder.h), made with libcurl for its knowledge of
// proxies: through the caller's own where there is one. Each address is judged before it is
// connected to, after its name was resolved, so a name can't lead where it may not.
//
// Every call belongs to the thread that makes it; no state is shared.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "installers/reach.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// The caller's, as URLs with their credentials: "http://user:secret@host:3128", "socks5h://…".
struct Proxies {
  std::string for_https, for_http, except;  // `except`: NO_PROXY's list
};

// What may be connected to; `through_proxy`: it is the proxy itself.
using Judge = std::function<bool(const struct sockaddr* address, bool through_proxy)>;

struct Onward {
  const Proxies& proxies;
  Judge judge;
};

// What the first connection would have to wait for: the library's own preparations.
void prepare_connections();

// A stream to a place, for bytes that are none of our business.
class Tunnel {
 public:
  // Errors: EACCES when no address of it was allowed.
  static Result<Tunnel> open(const Place& place, const Onward& onward);
  Tunnel(Tunnel&&) noexcept;
  ~Tunnel();
  // Carries bytes both ways until both ends, or one of them for good, have ended; `early`: what the
  // client has sent already.
  void carry(int client, std::string early);

 private:
  struct State;
  explicit Tunnel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

struct Request {
  std::string method, url;  // without credentials in it
  std::vector<std::string> headers;
  std::string body;
};
// Asks, and hands the answer on as it comes: status line and headers first. Follows no redirect.
Status relay(const Request& request, const Onward& onward,
             const std::function<bool(std::string_view)>& to_client);

// What an index says. Redirects are followed, and told.
struct Page {
  std::string text;
  std::vector<std::string> urls;  // that led here, from the second on
  bool private_address = false;   // where it lies
};
// `url` with its credentials; `head`: no text. Nothing that is an answer is an Error.
Result<Page> read_page(const std::string& url, bool head, const Onward& onward);

}  // namespace rtlaunch::installers
