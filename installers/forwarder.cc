#include "installers/forwarder.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <mutex>
#include <thread>

#include "installers/gate.h"
#include "isolation/net.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/process.h"

namespace rtlaunch::installers {
namespace {

constexpr size_t kMostHead = 64 << 10, kMostBody = 64 << 20;
constexpr int kMostGuests = 256;
constexpr int kHeadMs = 60'000, kFullMs = 20;

// ---- what somebody asks ------------------------------------------------------------------------

struct Asked {
  std::string method, target;
  std::vector<std::string> headers;  // "Name: value"
  std::string rest;                  // that came behind them

  std::string header(std::string_view name) const {
    for (const std::string& line : headers) {
      if (line.size() > name.size() && line[name.size()] == ':' &&
          ::strncasecmp(line.data(), name.data(), name.size()) == 0) {
        return line.substr(std::min(line.find_first_not_of(' ', name.size() + 1), line.size()));
      }
    }
    return "";
  }
};

// False at the end, and when nothing comes for too long.
bool read_more(int guest, std::string* text) {
  char buffer[16384];
  struct pollfd polled = {guest, POLLIN, 0};
  if (::poll(&polled, 1, kHeadMs) <= 0) return false;
  ssize_t size = ::recv(guest, buffer, sizeof buffer, 0);
  if (size <= 0) return false;
  text->append(buffer, static_cast<size_t>(size));
  return true;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return ::isalnum(c) != 0 ||
           std::string_view("!#$%&'*+-.^_`|~").find(char(c)) != std::string_view::npos;
  });
}

bool is_text(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return c == '\t' || (c >= ' ' && c != 0x7f); });
}

// Strict: what is odd could mean something else to the next one who reads it.
std::optional<Asked> parse(std::string_view head) {
  Asked asked;
  bool first = true;
  while (!head.empty()) {
    size_t end = head.find("\r\n");
    std::string_view line = head.substr(0, end);
    head.remove_prefix(end == std::string_view::npos ? head.size() : end + 2);
    if (!is_text(line)) return {};
    if (first) {
      size_t one = line.find(' '), two = line.rfind(' ');
      if (one == std::string_view::npos || one == two) return {};
      if (line.substr(two + 1).substr(0, 7) != "HTTP/1.") return {};
      asked.method = line.substr(0, one);
      asked.target = line.substr(one + 1, two - one - 1);
      first = false;
    } else if (!line.empty()) {
      size_t colon = line.find(':');
      if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) return {};
      asked.headers.emplace_back(line);
    }
  }
  if (!is_token(asked.method) || asked.target.find_first_of(" \\") != std::string::npos) return {};
  return asked;
}

std::optional<Asked> read_asked(int guest) {
  std::string text;
  size_t end;
  while ((end = text.find("\r\n\r\n")) == std::string::npos) {
    if (text.size() > kMostHead || !read_more(guest, &text)) return {};
  }
  auto asked = parse(std::string_view(text).substr(0, end));
  if (asked) asked->rest = text.substr(end + 4);
  return asked;
}

// A body has a length, or there is none: nothing may hide behind it.
std::optional<std::string> read_body(int guest, const Asked& asked) {
  if (!asked.header("Transfer-Encoding").empty()) return {};
  size_t size = 0;
  std::string length = asked.header("Content-Length");
  if (!length.empty()) {
    auto [end, code] = std::from_chars(length.data(), length.data() + length.size(), size);
    if (code != std::errc() || end != length.data() + length.size()) return {};
  }
  std::string body = asked.rest;
  while (body.size() < size)
    if (size > kMostBody || !read_more(guest, &body)) return {};
  body.resize(size);
  return body;
}

// What concerns the next one: not us, nor who it is that he talks with.
std::vector<std::string> headers_to_pass_on(const Asked& asked) {
  std::vector<std::string> headers;
  for (const std::string& header : asked.headers) {
    std::string name = header.substr(0, header.find(':'));
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    bool ours = name.starts_with("proxy-") || name == "connection" || name == "keep-alive" ||
                name == "te" || name == "trailer" || name == "upgrade" || name == "host" ||
                name == "content-length" || name == "expect";
    if (!ours) headers.push_back(header);
  }
  return headers;
}

// ---- one who asks ------------------------------------------------------------------------------

class Desk {
 public:
  Desk(WayOut way_out, UniqueFd mishaps)
      : gate_(std::move(way_out)), mishaps_(std::move(mishaps)) {}

  void serve(int guest) {
    auto asked = read_asked(guest);
    if (!asked) return answer(guest, "400 Bad Request", "this is a proxy for HTTP/1.1");
    bool connect = asked->method == "CONNECT";
    auto place = connect ? parse_place(asked->target) : place_of(asked->target);
    bool plain = asked->target.starts_with("http://");
    if (!place || (!connect && !plain)) {
      return answer(guest, "400 Bad Request", "it names no http URL");
    }
    Gate::Verdict verdict = gate_.judge(*place);
    if (!verdict.ok()) return refuse(guest, *asked, *place, verdict.refusal);
    Onward onward{gate_.proxies(), [=](const struct sockaddr* address, bool through_proxy) {
                    return verdict.allows(address, through_proxy);
                  }};
    connect ? tunnel(guest, *asked, *place, onward) : pass_on(guest, *asked, *place, onward);
  }

 private:
  static bool say(int guest, std::string_view text) {
    while (!text.empty()) {
      ssize_t size = ::send(guest, text.data(), text.size(), MSG_NOSIGNAL);
      if (size < 0 && errno != EINTR) return false;
      if (size > 0) text.remove_prefix(static_cast<size_t>(size));
    }
    return true;
  }
  static void answer(int guest, const std::string& status, const std::string& why) {
    (void)say(guest, "HTTP/1.1 " + status + "\r\nContent-Type: text/plain\r\nContent-Length: " +
                         std::to_string(why.size() + 1) + "\r\nConnection: close\r\n\r\n" + why +
                         "\n");
  }

  // One line each, which is written whole (PIPE_BUF); a flood of them is cut off.
  void remember(char kind, const Asked& asked, const Place& place, const std::string& reason) {
    std::string agent = asked.header("User-Agent").substr(0, 100);
    std::replace(agent.begin(), agent.end(), '\t', ' ');
    std::string line = kind + ("\t" + shown(place)) + "\t" + agent + "\t" + reason + "\n";
    (void)!::write(mishaps_.get(), line.data(), line.size());
  }
  void refuse(int guest, const Asked& asked, const Place& place, const std::string& why) {
    remember('r', asked, place, why);
    answer(guest, "403 Forbidden", "rtlaunch: a build may not reach " + shown(place) + ": " + why);
  }
  void lost(int guest, const Asked& asked, const Place& place, const Error& error) {
    if (error.code == EACCES) return refuse(guest, asked, place, error.reason);
    remember('f', asked, place, error.reason);
    answer(guest, "502 Bad Gateway", "rtlaunch: " + shown(place) + ": " + error.reason);
  }

  void tunnel(int guest, const Asked& asked, const Place& place, const Onward& onward) {
    Result<Tunnel> tunnel = Tunnel::open(place, onward);
    if (!tunnel) return lost(guest, asked, place, tunnel.error());
    if (say(guest, "HTTP/1.1 200 Connection established\r\n\r\n")) tunnel->carry(guest, asked.rest);
  }

  void pass_on(int guest, const Asked& asked, const Place& place, const Onward& onward) {
    bool known = asked.method == "GET" || asked.method == "HEAD" || asked.method == "POST";
    if (!known) return answer(guest, "405 Method Not Allowed", "only GET, HEAD and POST");
    auto body = read_body(guest, asked);
    if (!body) return answer(guest, "411 Length Required", "a body needs a Content-Length");
    size_t path = asked.target.find_first_of("/?#", 7);
    Request request{asked.method, "http://" + shown(place), headers_to_pass_on(asked), *body};
    request.url += path == std::string::npos ? "/" : asked.target.substr(path);
    bool begun = false;
    Status passed = relay(request, onward, [&](std::string_view bytes) {
      begun = true;
      return say(guest, bytes);
    });
    if (!passed && !begun) lost(guest, asked, place, passed.error());
  }

  Gate gate_;
  UniqueFd mishaps_;
};

// ---- the process -------------------------------------------------------------------------------

// It shares nothing with its maker but the two ends; a lock of the store that it kept would outlive
// him.
bool become_forwarder(UniqueFd* door, UniqueFd* mishaps) {
  if (sys::acting_for() != nullptr) {
    if (sys::become_caller_after_fork() != 0) return false;
  } else if (::geteuid() == 0 && !sys::set_capabilities(0).ok()) {
    return false;
  }
  const int keep[] = {0, 1, 2, door->get(), mishaps->get()};
  return sys::set_no_new_privs().ok() && sys::close_all_but(keep, std::size(keep)).ok() &&
         sys::hide_from_peers().ok();
}

// Frames of HTTP/2 and of TLS are small: each that waited for the acknowledgement of the one before
// would be 40 ms late.
void hold_nothing_back(int guest) {
  int on = 1;
  (void)::setsockopt(guest, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void serve_guests(int door, Desk& desk) {
  static std::atomic<int> guests = 0;
  UniqueFd listener;
  for (;;) {
    bool full = guests >= kMostGuests;
    struct pollfd polled[2] = {{door, POLLIN, 0}, {full ? -1 : listener.get(), POLLIN, 0}};
    if (::poll(polled, 2, full ? kFullMs : -1) < 0 && errno != EINTR) return;
    if (polled[0].revents != 0) {  // the next sandbox's, or the end
      Result<UniqueFd> next = isolation::receive_listener(door);
      if (!next || !next->valid()) return;
      listener = std::move(*next);
      continue;
    }
    if (polled[1].revents == 0) continue;
    UniqueFd guest(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!guest.valid()) continue;
    hold_nothing_back(guest.get());
    ++guests;
    std::thread([&desk, fd = guest.release()] {
      desk.serve(fd);
      ::close(fd);
      --guests;
    }).detach();
  }
}

[[noreturn]] void run(WayOut way_out, UniqueFd door, UniqueFd mishaps, pid_t parent) {
  if (!become_forwarder(&door, &mishaps) || !sys::die_with_parent().ok()) ::_exit(1);
  if (::getppid() != parent) ::_exit(1);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);
  prepare_connections();  // nobody waits for it yet
  Desk desk(std::move(way_out), std::move(mishaps));
  serve_guests(door.get(), desk);
  ::_exit(0);
}

Mishap parse_mishap(const std::string& line) {
  std::string parts[4];
  size_t at = 0;
  for (size_t i = 0; i < 4; ++i) {
    size_t end = i == 3 ? line.size() : std::min(line.find('\t', at), line.size());
    parts[i] = line.substr(std::min(at, line.size()), end - std::min(at, end));
    at = end + 1;
  }
  return {parts[0] == "r", parts[1], parts[2], parts[3]};
}

}  // namespace

Result<Forwarder> Forwarder::start(const WayOut& way_out) {
  int pair[2], pipe[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return sys_error("socketpair", "");
  Forwarder forwarder;
  forwarder.door_.reset(pair[0]);
  UniqueFd door(pair[1]);
  if (::pipe2(pipe, O_CLOEXEC | O_NONBLOCK) != 0) return sys_error("pipe", "");
  forwarder.mishaps_.reset(pipe[0]);
  UniqueFd mishaps(pipe[1]);
  pid_t parent = ::getpid();
  forwarder.pid_ = ::fork();
  if (forwarder.pid_ < 0) return sys_error("fork", "");
  if (forwarder.pid_ == 0) {
    forwarder.door_.reset();  // whose end is ours
    run(way_out, std::move(door), std::move(mishaps), parent);
  }
  return forwarder;
}

Forwarder& Forwarder::operator=(Forwarder&& other) noexcept {
  if (this == &other) return *this;
  end();
  pid_ = std::exchange(other.pid_, -1);
  door_ = std::move(other.door_);
  mishaps_ = std::move(other.mishaps_);
  return *this;
}

Forwarder::Forwarder(Forwarder&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      door_(std::move(other.door_)),
      mishaps_(std::move(other.mishaps_)) {}

void Forwarder::end() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

std::vector<Mishap> Forwarder::mishaps() {
  std::string text;
  char buffer[16384];
  ssize_t size;
  while ((size = ::read(mishaps_.get(), buffer, sizeof buffer)) > 0)
    text.append(buffer, static_cast<size_t>(size));
  std::vector<Mishap> all;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    all.push_back(parse_mishap(text.substr(at, end - at)));
  return all;
}

std::vector<std::string> Forwarder::environment() {
  std::string url = "http://127.0.0.1:" + std::to_string(isolation::kDoorPort);
  std::vector<std::string> variables;
  for (const char* name :
       {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"})
    variables.push_back(std::string(name) + "=" + url);
  variables.insert(variables.end(), {"NO_PROXY=", "no_proxy="});
  return variables;
}

}  // namespace rtlaunch::installers
