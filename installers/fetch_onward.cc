#include "installers/fetch_onward.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <poll.h>
#include <strings.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "installers/fetch_trust.h"

namespace rtlaunch::installers {
namespace {

constexpr long kConnectMs = 20'000, kSilenceSeconds = 60, kMostRedirects = 10;
constexpr size_t kMostPage = 64 << 20, kBuffer = 64 << 10;
constexpr int kIdleMs = 300'000;  // of a tunnel

using Easy = std::unique_ptr<CURL, decltype(&::curl_easy_cleanup)>;

struct Attempt {
  const Onward& onward;
  bool through_proxy = false;
  bool refused = false, is_private = false;
};

curl_socket_t open_socket(void* user, curlsocktype, struct curl_sockaddr* address) {
  auto& attempt = *static_cast<Attempt*>(user);
  attempt.is_private = kind_of_address(&address->addr) == Reachable::kPrivate;
  if (!attempt.onward.judge(&address->addr, attempt.through_proxy)) {
    attempt.refused = true;
    return CURL_SOCKET_BAD;
  }
  return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

Easy make(const std::string& url, const std::string& proxy, Attempt& attempt) {
  Easy easy(::curl_easy_init(), ::curl_easy_cleanup);
  attempt.through_proxy = !proxy.empty();
  ::curl_easy_setopt(easy.get(), CURLOPT_URL, url.c_str());
  ::curl_easy_setopt(easy.get(), CURLOPT_NOSIGNAL, 1L);
  ::curl_easy_setopt(easy.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  ::curl_easy_setopt(easy.get(), CURLOPT_PROXY, proxy.c_str());
  ::curl_easy_setopt(easy.get(), CURLOPT_NOPROXY, attempt.onward.proxies.except.c_str());
  ::curl_easy_setopt(easy.get(), CURLOPT_CONNECTTIMEOUT_MS, kConnectMs);
  ::curl_easy_setopt(easy.get(), CURLOPT_OPENSOCKETFUNCTION, open_socket);
  ::curl_easy_setopt(easy.get(), CURLOPT_OPENSOCKETDATA, &attempt);
  ::curl_easy_setopt(easy.get(), CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  ::curl_easy_setopt(easy.get(), CURLOPT_LOW_SPEED_LIMIT, 1L);
  ::curl_easy_setopt(easy.get(), CURLOPT_LOW_SPEED_TIME, kSilenceSeconds);
  if (const char* bundle = named_bundle()) ::curl_easy_setopt(easy.get(), CURLOPT_CAINFO, bundle);
  return easy;
}

Status outcome(CURLcode code, const Attempt& attempt, const std::string& what) {
  if (code == CURLE_OK) return {};
  if (attempt.refused)
    return Error{"connect", EACCES, what, "its address may not be reached", "", 125};
  return Error{"connect", EHOSTUNREACH, what, ::curl_easy_strerror(code), "", 125};
}

bool is_secure(const std::string& url) { return url.starts_with("https:"); }

const std::string& proxy_for(const std::string& url, const Proxies& proxies) {
  return is_secure(url) ? proxies.for_https : proxies.for_http;
}

struct List {
  curl_slist* first = nullptr;
  void add(const std::string& text) { first = ::curl_slist_append(first, text.c_str()); }
  ~List() { ::curl_slist_free_all(first); }
};

// --- pumping ---

// One direction: what was read and not yet written.
struct Flow {
  std::string bytes = {};
  bool ended = false;  // its source
  bool told = false;   // its sink knows
};

void set_nonblocking(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }

}  // namespace

struct Tunnel::State {
  Easy easy{nullptr, ::curl_easy_cleanup};
  std::unique_ptr<Attempt> attempt;
  curl_socket_t socket = CURL_SOCKET_BAD;

  // False when the tunnel is broken.
  bool receive(Flow* flow) {
    char buffer[kBuffer];
    size_t size = 0;
    CURLcode code = ::curl_easy_recv(easy.get(), buffer, sizeof buffer, &size);
    if (code == CURLE_AGAIN) return true;
    if (code != CURLE_OK) return false;
    if (size == 0) flow->ended = true;
    flow->bytes.append(buffer, size);
    return true;
  }
  bool send(Flow* flow) {
    size_t size = 0;
    CURLcode code = ::curl_easy_send(easy.get(), flow->bytes.data(), flow->bytes.size(), &size);
    if (code != CURLE_OK && code != CURLE_AGAIN) return false;
    flow->bytes.erase(0, size);
    return true;
  }
};

namespace {

bool receive(int client, Flow* flow) {
  char buffer[kBuffer];
  ssize_t size = ::recv(client, buffer, sizeof buffer, 0);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  if (size == 0) flow->ended = true;
  flow->bytes.append(buffer, static_cast<size_t>(size));
  return true;
}

bool send(int client, Flow* flow) {
  ssize_t size = ::send(client, flow->bytes.data(), flow->bytes.size(), MSG_NOSIGNAL);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  flow->bytes.erase(0, static_cast<size_t>(size));
  return true;
}

void pass_end_on(int fd, Flow* flow) {
  if (!flow->ended || !flow->bytes.empty() || flow->told) return;
  ::shutdown(fd, SHUT_WR);
  flow->told = true;
}

short wanted(const Flow& in, const Flow& out) {
  return static_cast<short>((!in.ended && in.bytes.empty() ? POLLIN : 0) |
                            (!out.bytes.empty() ? POLLOUT : 0));
}

}  // namespace

void prepare_connections() {
  if (::curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) ::curl_easy_cleanup(::curl_easy_init());
}

Tunnel::Tunnel(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tunnel::Tunnel(Tunnel&&) noexcept = default;
Tunnel::~Tunnel() = default;

Result<Tunnel> Tunnel::open(const Place& place, const Onward& onward) {
  auto state = std::make_unique<State>();
  state->attempt = std::make_unique<Attempt>(Attempt{onward});
  // To curl it is http, so that it leaves TLS to those who talk.
  state->easy = make("http://" + shown(place), onward.proxies.for_https, *state->attempt);
  CURL* easy = state->easy.get();
  ::curl_easy_setopt(easy, CURLOPT_CONNECT_ONLY, 1L);
  ::curl_easy_setopt(easy, CURLOPT_HTTPPROXYTUNNEL, 1L);
  TRY(outcome(::curl_easy_perform(easy), *state->attempt, shown(place)));
  ::curl_easy_getinfo(easy, CURLINFO_ACTIVESOCKET, &state->socket);
  return Tunnel(std::move(state));
}

void Tunnel::carry(int client, std::string early) {
  int socket = static_cast<int>(state_->socket);
  set_nonblocking(client);
  Flow out{std::move(early)}, in;
  while (!out.told || !in.told) {
    struct pollfd polled[2] = {{client, wanted(out, in), 0}, {socket, wanted(in, out), 0}};
    for (struct pollfd& one : polled)
      if (one.events == 0) one.fd = -1;  // its hang-up would wake us for nothing
    int events = ::poll(polled, 2, kIdleMs);
    if (events == 0 || (events < 0 && errno != EINTR)) return;
    if ((polled[0].events & POLLIN) && polled[0].revents && !receive(client, &out)) return;
    if ((polled[1].events & POLLIN) && polled[1].revents && !state_->receive(&in)) return;
    if (!out.bytes.empty() && !state_->send(&out)) return;
    if (!in.bytes.empty() && !send(client, &in)) return;
    pass_end_on(socket, &out);
    pass_end_on(client, &in);
  }
}

// --- plain http ---

namespace {

struct Answer {
  const std::function<bool(std::string_view)>& to_client;
  bool broken = false;

  bool pass_on(std::string_view bytes) {
    broken = broken || !to_client(bytes);
    return !broken;
  }
};

bool begins(std::string_view line, std::string_view name) {
  return line.size() >= name.size() && ::strncasecmp(line.data(), name.data(), name.size()) == 0;
}

// How it is framed and how long the connection lives is between us and each side.
size_t take_header(char* data, size_t, size_t size, void* user) {
  auto& answer = *static_cast<Answer*>(user);
  std::string_view line(data, size);
  for (const char* own : {"transfer-encoding:", "connection:", "keep-alive:", "proxy-"})
    if (begins(line, own)) return size;
  if (line == "\r\n" || line == "\n") line = "Connection: close\r\n\r\n";
  return answer.pass_on(line) ? size : 0;
}

size_t take_body(char* data, size_t, size_t size, void* user) {
  return static_cast<Answer*>(user)->pass_on({data, size}) ? size : 0;
}

}  // namespace

Status relay(const Request& request, const Onward& onward,
             const std::function<bool(std::string_view)>& to_client) {
  Attempt attempt{onward};
  Easy easy = make(request.url, proxy_for(request.url, onward.proxies), attempt);
  Answer answer{to_client};
  List headers;
  for (const std::string& header : request.headers) headers.add(header);
  for (const char* own : {"Expect:", "Accept:", "Content-Type:"}) {
    auto given = [&](const std::string& header) { return begins(header, own); };
    if (std::none_of(request.headers.begin(), request.headers.end(), given)) headers.add(own);
  }
  CURL* e = easy.get();
  ::curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers.first);
  ::curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
  ::curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, take_header);
  ::curl_easy_setopt(e, CURLOPT_HEADERDATA, &answer);
  ::curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_body);
  ::curl_easy_setopt(e, CURLOPT_WRITEDATA, &answer);
  ::curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  if (request.method == "HEAD") ::curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
  if (request.method == "POST") {
    ::curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, static_cast<long>(request.body.size()));
    ::curl_easy_setopt(e, CURLOPT_POSTFIELDS, request.body.data());
  }
  CURLcode code = ::curl_easy_perform(e);
  return answer.broken ? Status() : outcome(code, attempt, request.url);
}

// --- pages ---

namespace {

size_t take_page(char* data, size_t, size_t size, void* user) {
  auto& text = *static_cast<std::string*>(user);
  if (text.size() + size > kMostPage) return 0;
  text.append(data, size);
  return size;
}

size_t take_location(char* data, size_t, size_t size, void* user) {
  std::string_view line(data, size);
  if (!begins(line, "location:")) return size;
  line.remove_prefix(9);
  while (line.starts_with(' ')) line.remove_prefix(1);
  static_cast<Page*>(user)->urls.emplace_back(line.substr(0, line.find_first_of("\r\n")));
  return size;
}

void use_netrc(CURL* easy) {
  ::curl_easy_setopt(easy, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_OPTIONAL));
  if (const char* file = ::getenv("NETRC")) ::curl_easy_setopt(easy, CURLOPT_NETRC_FILE, file);
}

}  // namespace

Result<Page> read_page(const std::string& url, bool head, const Onward& onward) {
  Attempt attempt{onward};
  Easy easy = make(url, proxy_for(url, onward.proxies), attempt);
  CURL* e = easy.get();
  Page page;
  List headers;
  headers.add("Accept: application/vnd.pypi.simple.v1+json, text/html;q=0.5, */*;q=0.1");
  ::curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers.first);
  ::curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 1L);
  ::curl_easy_setopt(e, CURLOPT_MAXREDIRS, kMostRedirects);
  ::curl_easy_setopt(e, CURLOPT_REDIR_PROTOCOLS_STR, is_secure(url) ? "https" : "http,https");
  ::curl_easy_setopt(e, CURLOPT_ACCEPT_ENCODING, "");
  ::curl_easy_setopt(e, CURLOPT_USERAGENT, "rtlaunch/0.1");
  ::curl_easy_setopt(e, CURLOPT_NOBODY, head ? 1L : 0L);
  ::curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, take_page);
  ::curl_easy_setopt(e, CURLOPT_WRITEDATA, &page.text);
  ::curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, take_location);
  ::curl_easy_setopt(e, CURLOPT_HEADERDATA, &page);
  use_netrc(e);
  Status got = outcome(::curl_easy_perform(e), attempt, "index");
  // Where a redirect leads may be out of our own reach; that it does is what we wanted to know.
  if (!got && page.urls.empty()) return std::move(got.error());
  page.private_address = attempt.is_private;
  return page;
}

}  // namespace rtlaunch::installers
