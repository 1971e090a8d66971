#include "installers/fetch.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "installers/fetch_trust.h"
#include "installers/index.h"
#include "installers/reach.h"
#include "installers/source.h"
#include "installers/store/hash.h"

namespace rtlaunch {
namespace {

using std::chrono::steady_clock;

constexpr int kMaxRedirects = 10;
constexpr auto kProgressEvery = std::chrono::milliseconds(40);
constexpr uint64_t kMostOfAGuess = 64 << 20;

struct Transfer {
  enum class State { kWaiting, kActive, kPaused, kArrived, kFailed, kDone };
  State state = State::kWaiting;
  bool needed = true;  // else a guess
  std::function<void(const Fetched&)> arrived;
  FetchJob job;
  Fetched result;
  std::string label;
  uint64_t max_bytes = 0;
  CURL* easy = nullptr;
  char detail[CURL_ERROR_SIZE] = {};
  store::Hasher hash;
  uint64_t offset = 0;  // bytes that were written
  bool resumed = false, first_bytes = true;
  std::optional<Error> refused;  // by us, while the bytes came in
  decltype(FetchOptions::may_reach) may_reach;
};

bool has_prefix(const std::string& text, const char* prefix) {
  return ::strncasecmp(text.c_str(), prefix, std::strlen(prefix)) == 0;
}

// For people.
std::string title_of(const std::string& url) {
  std::string file = installers::file_of_url(url);
  return file.empty() ? url : file;
}

// `code`: of an error that may pass by itself.
Error fetch_error(const Transfer& transfer, const std::string& reason, const std::string& cure,
                  int code = 0) {
  return Error{"download", code, transfer.result.url, reason, cure, 125};
}

long response_code(CURL* easy) {
  long code = 0;
  ::curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &code);
  return code;
}

// A server that ignores the range starts again from the first byte, and so do we.
void start_over(Transfer& transfer) {
  transfer.offset = 0;
  transfer.hash = store::Hasher();
}

size_t take_bytes(char* data, size_t, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (std::exchange(transfer.first_bytes, false) && response_code(transfer.easy) != 206)
    start_over(transfer);
  if (!transfer.needed && transfer.offset + count > kMostOfAGuess) {
    transfer.state = Transfer::State::kPaused;
    return CURL_WRITEFUNC_PAUSE;
  }
  uint64_t limit = transfer.job.size.value_or(transfer.max_bytes);
  if (transfer.offset + count > limit) {
    transfer.refused =
        fetch_error(transfer, "it is larger than the " + std::to_string(limit) + " bytes expected",
                    "check who serves this URL");
    return 0;
  }
  transfer.hash.bytes(data, count);
  for (size_t written = 0; written < count;) {
    ssize_t wrote = ::pwrite(transfer.job.fd, data + written, count - written,
                             static_cast<off_t>(transfer.offset + written));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      transfer.refused = sys_error("download", transfer.result.url);
      return 0;
    }
    written += static_cast<size_t>(wrote);
  }
  transfer.offset += count;
  return count;
}

// The variables that libcurl looks at.
bool has_proxy(bool secure) {
  for (const char* name : {secure ? "https_proxy" : "http_proxy", secure ? "HTTPS_PROXY" : "",
                           "all_proxy", "ALL_PROXY"})
    if (const char* value = ::getenv(name); value != nullptr && *value != '\0') return true;
  return false;
}

bool may_reach(const Transfer& transfer, const struct sockaddr* address) {
  if (!transfer.may_reach) return true;
  char* url = nullptr;
  ::curl_easy_getinfo(transfer.easy, CURLINFO_EFFECTIVE_URL, &url);
  return url != nullptr && transfer.may_reach(url, address, has_proxy(has_prefix(url, "https:")));
}

// Whatever name or redirect leads there, as for builds (forwarder.h).
curl_socket_t open_socket(void* user, curlsocktype, struct curl_sockaddr* address) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (installers::kind_of_address(&address->addr) == installers::Reachable::kForbidden) {
    transfer.refused = fetch_error(
        transfer, "it leads to an address that is for machines, not for files",
        "link-local and cloud metadata addresses are never fetched from: check the URL, its host's "
        "name and where it redirects to");
  } else if (!may_reach(transfer, &address->addr)) {
    transfer.refused = fetch_error(
        transfer, "it leads to an address of the host's or a private network's that nobody named",
        "name the place, by --find-links say, if files are to come from there");
  } else {
    return ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  }
  return CURL_SOCKET_BAD;
}

void set_options(Transfer& transfer, const FetchOptions& options, Authorities& authorities) {
  CURL* easy = transfer.easy;
  bool secure = has_prefix(transfer.job.url, "https:");
  ::curl_easy_setopt(easy, CURLOPT_URL, transfer.job.url.c_str());
  ::curl_easy_setopt(easy, CURLOPT_PRIVATE, &transfer);
  ::curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
  ::curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
  ::curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
  ::curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, &transfer);
  ::curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer.detail);
  ::curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  ::curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
  ::curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
  ::curl_easy_setopt(easy, CURLOPT_MAXREDIRS, static_cast<long>(kMaxRedirects));
  ::curl_easy_setopt(easy, CURLOPT_FAILONERROR, 1L);
  ::curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  ::curl_easy_setopt(easy, CURLOPT_USERAGENT, options.user_agent.c_str());
  // Several plain connections beat one that is shared: wheels are few and large.
  ::curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  ::curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     static_cast<long>(options.connect_timeout.count()));
  ::curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
  ::curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME,
                     std::max<long>(1, static_cast<long>(options.stall_timeout.count() / 1000)));
  ::curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 256L << 10);
  if (!options.bearer.empty()) {
    ::curl_easy_setopt(easy, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    ::curl_easy_setopt(easy, CURLOPT_XOAUTH2_BEARER, options.bearer.c_str());
  }
  if (secure) authorities.read();
  authorities.hand_to(easy);
  if (transfer.offset > 0) {
    std::string range = std::to_string(transfer.offset) + "-";
    ::curl_easy_setopt(easy, CURLOPT_RANGE, range.c_str());
  }
}

bool broke_off(CURLcode code) {
  switch (code) {
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      return true;
    default:
      return false;
  }
}

Error explain_status(const Transfer& transfer, long status) {
  std::string reason = "the server answered " + std::to_string(status);
  switch (status) {
    case 401:
    case 403:
      return fetch_error(transfer, reason + ": not allowed",
                         "check the user and password, or ask for access");
    case 404:
    case 410:
      return fetch_error(transfer, reason + ": not there", "check the URL");
    default:
      return fetch_error(transfer, reason, status >= 500 ? "try again later" : "check the URL",
                         status >= 500 || status == 429 ? EAGAIN : 0);
  }
}

Error explain(const Transfer& transfer, CURLcode code) {
  if (transfer.refused) return *transfer.refused;
  switch (code) {
    case CURLE_HTTP_RETURNED_ERROR:
      return explain_status(transfer, response_code(transfer.easy));
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return fetch_error(transfer, "the host's name can't be resolved",
                         "check the URL and the network", EAGAIN);
    case CURLE_COULDNT_CONNECT:
      return fetch_error(transfer, "no connection to the host", "check the URL and the network",
                         ECONNREFUSED);
    case CURLE_OPERATION_TIMEDOUT:
      return fetch_error(transfer, "the server is silent", "try again, or check the network",
                         ETIMEDOUT);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CACERT_BADFILE:
      return fetch_error(
          transfer,
          "its TLS certificate isn't accepted: " + std::string(::curl_easy_strerror(code)),
          "name the right CA bundle with SSL_CERT_FILE");
    case CURLE_UNSUPPORTED_PROTOCOL:
      return fetch_error(transfer, "only http and https can be fetched, also after a redirect",
                         "check the URL");
    case CURLE_URL_MALFORMAT:
      return fetch_error(transfer, "not a URL", "check the URL");
    case CURLE_TOO_MANY_REDIRECTS:
      return fetch_error(transfer, "it is redirected without end", "check the URL");
    default:
      return fetch_error(transfer, ::curl_easy_strerror(code), "try again, or check the network",
                         broke_off(code) ? ECONNRESET : 0);
  }
}

Status close_file(Transfer& transfer) {
  transfer.result.size = transfer.offset;
  transfer.result.sha256 = transfer.hash.hex();
  // What a longer, broken attempt may have left behind.
  if (::ftruncate(transfer.job.fd, static_cast<off_t>(transfer.offset)) == 0) return {};
  return sys_error("download", transfer.result.url);
}

Status check_whole(const Transfer& transfer) {
  if (transfer.job.size && *transfer.job.size != transfer.offset) {
    return fetch_error(transfer,
                       "it has " + std::to_string(transfer.offset) + " bytes, not the " +
                           std::to_string(*transfer.job.size) + " expected",
                       "check who serves this URL");
  }
  if (transfer.job.sha256 && *transfer.job.sha256 != transfer.result.sha256) {
    return fetch_error(transfer,
                       "its content has another hash than expected: " + transfer.result.sha256,
                       "check who serves this URL; nothing of it was used");
  }
  return {};
}

}  // namespace

class Fetches::Transfers {
 public:
  Transfers(Progress& progress, Deadline deadline, FetchOptions options)
      : progress_(progress),
        deadline_(deadline),
        options_(std::move(options)),
        multi_(::curl_multi_init()) {}
  ~Transfers() {
    for (auto& transfer : all_) end(*transfer);
    ::curl_multi_cleanup(multi_);
  }

  size_t add(FetchJob job, bool needed, std::function<void(const Fetched&)> arrived = {}) {
    auto transfer = std::make_unique<Transfer>();
    transfer->needed = needed;
    transfer->arrived = std::move(arrived);
    transfer->job = std::move(job);
    transfer->max_bytes = options_.max_bytes;
    transfer->may_reach = options_.may_reach;
    const std::string& shown = transfer->job.shown;
    transfer->result.url = shown.empty() ? installers::shown_url(transfer->job.url) : shown;
    name(*transfer);
    all_.push_back(std::move(transfer));
    return all_.size() - 1;
  }

  void need(size_t number, FetchJob job) {
    Transfer& transfer = *all_[number];
    transfer.needed = true;
    transfer.job.sha256 = std::move(job.sha256);
    transfer.job.size = job.size;
    transfer.job.label = std::move(job.label);
    transfer.job.on_done = std::move(job.on_done);
    name(transfer);
    if (transfer.state == Transfer::State::kFailed) {
      transfer.state = Transfer::State::kWaiting;
      transfer.first_bytes = true;
      transfer.refused.reset();
      start_over(transfer);
    } else if (transfer.state == Transfer::State::kPaused) {
      transfer.state = Transfer::State::kActive;
      ::curl_easy_pause(transfer.easy, CURLPAUSE_CONT);
    }
  }

  int wait(pollfd* fds, nfds_t count, int timeout_ms) {
    if (all_.empty() && !authorities_.asked()) return wait_or_prepare(fds, count, timeout_ms);
    if (failure_) failure_ = begin_waiting();
    const bool idle = active_ == 0;
    if (failure_) failure_ = perform();
    if (active_ == 0) return ::poll(fds, count, idle ? timeout_ms : 0);
    std::vector<curl_waitfd> extra;
    for (nfds_t i = 0; i < count; ++i)
      if (fds[i].fd >= 0) extra.push_back({fds[i].fd, CURL_WAIT_POLLIN, 0});
    int patience = timeout_ms < 0 || timeout_ms > kTurnMs ? kTurnMs : timeout_ms;
    ::curl_multi_poll(multi_, extra.data(), static_cast<unsigned>(extra.size()), patience, nullptr);
    return ::poll(fds, count, 0);
  }

  void expect() { expecting_ = true; }

  uint64_t arrived() const {
    uint64_t bytes = 0;
    for (const auto& transfer : all_) bytes += transfer->offset;
    return bytes;
  }

  Result<std::vector<Fetched>> finish() {
    TRY(std::move(failure_));
    drop_guesses();
    for (auto& transfer : all_) {
      total_ += transfer->job.size.value_or(0);
      sizes_known_ = sizes_known_ && transfer->job.size.has_value();
    }
    for (auto& transfer : all_)
      if (transfer->state == Transfer::State::kArrived) TRY(complete(*transfer));
    while (finished_ < all_.size()) {
      TRY(begin_waiting());
      TRY(turn());
    }
    std::vector<Fetched> results;
    for (auto& transfer : all_) results.push_back(transfer->result);
    return results;
  }

 private:
  static constexpr int kTurnMs = 100;
  static constexpr int kIdleMs = 60, kExpectingMs = 1;

  // Where nothing happens for a while, what the first connection needs is got ready: 30 ms of work
  // that would hold up one who asks nobody, and is done soon.
  int wait_or_prepare(pollfd* fds, nfds_t count, int timeout_ms) {
    int idle = expecting_ ? kExpectingMs : kIdleMs;
    int patience = timeout_ms < 0 || timeout_ms > idle ? idle : timeout_ms;
    int ready = ::poll(fds, count, patience);
    if (ready == 0 && patience == idle) authorities_.read();
    return ready;
  }

  static void name(Transfer& transfer) {
    const std::string& label = transfer.job.label;
    transfer.label = label.empty() ? title_of(transfer.result.url) : label;
  }

  void drop_guesses() {
    for (auto& transfer : all_)
      if (!transfer->needed) end(*transfer);
    std::erase_if(all_, [](const auto& transfer) { return !transfer->needed; });
  }

  Status begin_waiting() {
    for (auto& transfer : all_) {
      if (active_ >= std::max(1u, options_.parallel)) return {};
      if (transfer->state != Transfer::State::kWaiting) continue;
      Status begun = begin(*transfer);
      if (!begun) transfer->state = Transfer::State::kFailed;
      if (!begun && transfer->needed) return begun;
    }
    return {};
  }

  Status begin(Transfer& transfer) {
    if (!has_prefix(transfer.job.url, "http://") && !has_prefix(transfer.job.url, "https://")) {
      return fetch_error(transfer, "only http and https can be fetched", "check the URL");
    }
    transfer.easy = ::curl_easy_init();
    if (transfer.easy == nullptr) return fetch_error(transfer, "out of memory", "free some memory");
    set_options(transfer, options_, authorities_);
    ::curl_multi_add_handle(multi_, transfer.easy);
    transfer.state = Transfer::State::kActive;
    ++active_;
    return {};
  }

  void end(Transfer& transfer) {
    if (transfer.easy == nullptr) return;
    ::curl_multi_remove_handle(multi_, transfer.easy);
    ::curl_easy_cleanup(transfer.easy);
    transfer.easy = nullptr;
    --active_;
  }

  Status perform() {
    int running = 0, left = 0;
    ::curl_multi_perform(multi_, &running);
    while (CURLMsg* message = ::curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      Transfer* transfer = nullptr;
      ::curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
      TRY(settle(*transfer, message->data.result));
    }
    return {};
  }

  Status turn() {
    TRY(perform());
    tell();
    if (active_ > 0) ::curl_multi_poll(multi_, nullptr, 0, kTurnMs, nullptr);
    if (steady_clock::now() < deadline_) return {};
    return make_error("download", all_[0]->result.url, "it took longer than the environment may",
                      "raise config.setup_timeout_seconds, or check the network");
  }

  Status settle(Transfer& transfer, CURLcode code) {
    if (code != CURLE_OK) {
      bool again = broke_off(code) && !transfer.refused && !transfer.resumed;
      Error error = explain(transfer, code);
      end(transfer);
      transfer.state = Transfer::State::kFailed;
      if (!transfer.needed) return {};
      if (!again) return error;
      transfer.resumed = true;
      transfer.first_bytes = true;
      return begin(transfer);
    }
    end(transfer);
    Status closed = close_file(transfer);
    transfer.state = closed ? Transfer::State::kArrived : Transfer::State::kFailed;
    if (transfer.needed) return closed ? complete(transfer) : std::move(closed);
    if (closed && transfer.arrived) transfer.arrived(transfer.result);
    return {};
  }

  Status complete(Transfer& transfer) {
    transfer.state = Transfer::State::kDone;
    ++finished_;
    TRY(check_whole(transfer));
    return transfer.job.on_done ? transfer.job.on_done(transfer.result) : Status();
  }

  void tell() {
    auto now = steady_clock::now();
    if (now - told_ < kProgressEvery && finished_ < all_.size()) return;
    told_ = now;
    uint64_t done = 0;
    const Transfer* current = all_.empty() ? nullptr : all_.back().get();
    for (auto& transfer : all_) {
      done += transfer->offset;
      if (transfer->easy != nullptr) current = transfer.get();
    }
    if (current != nullptr) {
      progress_.report(
          {options_.layer, "download", current->label, done, sizes_known_ ? total_ : 0});
    }
  }

  Progress& progress_;
  const Deadline deadline_;
  const FetchOptions options_;
  CURLM* multi_;
  Authorities authorities_;
  std::vector<std::unique_ptr<Transfer>> all_;
  size_t finished_ = 0, active_ = 0;
  Status failure_;  // while somebody waited for something else
  uint64_t total_ = 0;
  bool sizes_known_ = true, expecting_ = false;
  steady_clock::time_point told_;
};

namespace {

Status prepare_curl() {
  static const CURLcode ready = ::curl_global_init(CURL_GLOBAL_DEFAULT);
  if (ready == CURLE_OK) return {};
  return make_error("download", "libcurl", ::curl_easy_strerror(ready), "reinstall libcurl");
}

}  // namespace

Fetches::Fetches(Progress& progress, Deadline deadline, FetchOptions options) {
  if (prepare_curl())
    transfers_ = std::make_unique<Transfers>(progress, deadline, std::move(options));
}
Fetches::~Fetches() = default;

void Fetches::add(FetchJob job) {
  if (transfers_) transfers_->add(std::move(job), true);
}
size_t Fetches::guess(FetchJob job, std::function<void(const Fetched&)> arrived) {
  return transfers_ ? transfers_->add(std::move(job), false, std::move(arrived)) : 0;
}
void Fetches::expect() {
  if (transfers_) transfers_->expect();
}
void Fetches::need(size_t number, FetchJob job) {
  if (transfers_) transfers_->need(number, std::move(job));
}
int Fetches::wait(pollfd* fds, nfds_t count, int timeout_ms) {
  return transfers_ ? transfers_->wait(fds, count, timeout_ms) : ::poll(fds, count, timeout_ms);
}
uint64_t Fetches::arrived() const { return transfers_ ? transfers_->arrived() : 0; }
Result<std::vector<Fetched>> Fetches::finish() {
  TRY(prepare_curl());
  return transfers_->finish();
}

Result<std::vector<Fetched>> fetch_all(std::vector<FetchJob> jobs, Progress& progress,
                                       Deadline deadline, const FetchOptions& options) {
  Fetches fetches(progress, deadline, options);
  for (FetchJob& job : jobs) fetches.add(std::move(job));
  return fetches.finish();
}

Result<Fetched> fetch(const std::string& url, int fd, const std::string& layer, Progress& progress,
                      Deadline deadline) {
  FetchJob job;
  job.url = url;
  job.fd = fd;
  FetchOptions options;
  options.layer = layer;
  std::vector<FetchJob> jobs;
  jobs.push_back(std::move(job));
  auto fetched = TRY(fetch_all(std::move(jobs), progress, deadline, options));
  return fetched.front();
}

}  // namespace rtlaunch
