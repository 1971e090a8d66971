#include "installers/fetch_gcs.h"

#include <curl/curl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "installers/gcs_reply.h"
#include "installers/source.h"
#include "installers/store/hash.h"

namespace rtlaunch {
namespace {

using std::chrono::steady_clock;

constexpr char kMethod[] = "/ray.rpc.InternalKVGcsService/InternalKVGet";
constexpr int64_t kNotFound = 17;  // of Ray's statuses
constexpr auto kProgressEvery = std::chrono::milliseconds(40);
constexpr long kSilentSeconds = 60, kConnectMs = 20'000;
enum GrpcStatus { kDeadlineExceeded = 4, kUnavailable = 14, kUnauthenticated = 16 };

std::string variable(const char* name) {
  const char* value = ::getenv(name);
  return value == nullptr ? "" : value;
}

Error gcs_error(const std::string& uri, int code, const std::string& reason,
                const std::string& cure) {
  return Error{"download", code, uri, reason, cure, 125};
}

// gRPC's framing around InternalKVGetRequest{1: key}.
std::string request_for(const std::string& key) {
  std::string message = "\x0a";
  for (size_t left = key.size(); true; left >>= 7) {
    message += static_cast<char>((left & 0x7f) | (left > 0x7f ? 0x80 : 0));
    if (left <= 0x7f) break;
  }
  message += key;
  std::string frame(1, '\0');
  for (int shift = 24; shift >= 0; shift -= 8) {
    frame += static_cast<char>(message.size() >> shift & 0xff);
  }
  return frame + message;
}

class GcsFetch {
 public:
  GcsFetch(const std::string& uri, const GcsCluster& cluster, int fd, const std::string& layer,
           Progress& progress)
      : uri_(uri),
        cluster_(cluster),
        fd_(fd),
        layer_(layer),
        progress_(progress),
        request_(request_for(uri)),
        multi_(::curl_multi_init()),
        easy_(::curl_easy_init()),
        reply_([this](std::string_view piece) { return write(piece); }) {}
  GcsFetch(const GcsFetch&) = delete;
  ~GcsFetch() {
    ::curl_multi_remove_handle(multi_, easy_);
    ::curl_easy_cleanup(easy_);
    ::curl_multi_cleanup(multi_);
    ::curl_slist_free_all(headers_);
  }

  Result<Fetched> run(Deadline deadline) {
    set_options();
    ::curl_multi_add_handle(multi_, easy_);
    CURLcode code = TRY(perform(deadline));
    if (refused_) return *refused_;
    if (code != CURLE_OK) return explain(code);
    TRY(check_status());
    TRY(reply_.finish());
    if (::ftruncate(fd_, static_cast<off_t>(offset_)) != 0) return sys_error("download", uri_);
    return Fetched{uri_, hash_.hex(), offset_};
  }

 private:
  void add_header(const std::string& line) {
    headers_ = ::curl_slist_append(headers_, line.c_str());
  }

  void set_options() {
    add_header("Content-Type: application/grpc");
    add_header("TE: trailers");
    add_header("grpc-accept-encoding: identity");
    if (!cluster_.token.empty()) add_header("authorization: Bearer " + cluster_.token);
    if (!cluster_.id.empty()) add_header("ray_cluster_id: " + cluster_.id);
    bool tls = variable("RAY_USE_TLS") == "1" || variable("RAY_USE_TLS") == "true";
    std::string url = (tls ? "https://" : "http://") + cluster_.address + kMethod;
    ::curl_easy_setopt(easy_, CURLOPT_URL, url.c_str());
    ::curl_easy_setopt(easy_, CURLOPT_PROXY, "");
    ::curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
    ::curl_easy_setopt(easy_, CURLOPT_USERAGENT, "rtlaunch/0.1");
    ::curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, headers_);
    ::curl_easy_setopt(easy_, CURLOPT_POSTFIELDSIZE, static_cast<long>(request_.size()));
    ::curl_easy_setopt(easy_, CURLOPT_POSTFIELDS, request_.data());
    ::curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, take_bytes);
    ::curl_easy_setopt(easy_, CURLOPT_WRITEDATA, this);
    ::curl_easy_setopt(easy_, CURLOPT_HEADERFUNCTION, take_header);
    ::curl_easy_setopt(easy_, CURLOPT_HEADERDATA, this);
    ::curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT_MS, kConnectMs);
    ::curl_easy_setopt(easy_, CURLOPT_LOW_SPEED_LIMIT, 1L);
    ::curl_easy_setopt(easy_, CURLOPT_LOW_SPEED_TIME, kSilentSeconds);
    ::curl_easy_setopt(
        easy_, CURLOPT_HTTP_VERSION,
        static_cast<long>(tls ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE));
    if (tls) set_certificates();
  }

  void set_certificates() {
    ::curl_easy_setopt(easy_, CURLOPT_SSLCERT, variable("RAY_TLS_SERVER_CERT").c_str());
    ::curl_easy_setopt(easy_, CURLOPT_SSLKEY, variable("RAY_TLS_SERVER_KEY").c_str());
    std::string authority = variable("RAY_TLS_CA_CERT");
    if (!authority.empty()) ::curl_easy_setopt(easy_, CURLOPT_CAINFO, authority.c_str());
  }

  Result<CURLcode> perform(Deadline deadline) {
    for (int running = 1; running > 0;) {
      ::curl_multi_perform(multi_, &running);
      int left = 0;
      if (CURLMsg* message = ::curl_multi_info_read(multi_, &left)) return message->data.result;
      tell();
      if (steady_clock::now() >= deadline) {
        return gcs_error(uri_, 0, "it took longer than the environment may",
                         "raise config.setup_timeout_seconds, or check the network");
      }
      ::curl_multi_poll(multi_, nullptr, 0, 100, nullptr);
    }
    return CURLE_GOT_NOTHING;
  }

  static size_t take_bytes(char* data, size_t, size_t count, void* user) {
    auto& self = *static_cast<GcsFetch*>(user);
    Status taken = self.reply_.take({data, count});
    if (taken) return count;
    self.refused_ = taken.error();
    return 0;
  }

  // Headers, and what comes behind the body: gRPC's status.
  static size_t take_header(char* data, size_t, size_t count, void* user) {
    auto& self = *static_cast<GcsFetch*>(user);
    std::string_view line(data, count);
    while (!line.empty() && (line.back() == '\r' || line.back() == '\n')) line.remove_suffix(1);
    constexpr std::string_view kStatus = "grpc-status: ", kMessage = "grpc-message: ";
    if (line.starts_with(kStatus)) {
      self.status_ = std::atoi(std::string(line.substr(kStatus.size())).c_str());
    } else if (line.starts_with(kMessage)) {
      self.message_ = line.substr(kMessage.size(), 500);
    }
    return count;
  }

  Status write(std::string_view piece) {
    hash_.bytes(piece.data(), piece.size());
    while (!piece.empty()) {
      ssize_t wrote = ::pwrite(fd_, piece.data(), piece.size(), static_cast<off_t>(offset_));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return sys_error("download", uri_);
      offset_ += static_cast<uint64_t>(wrote);
      piece.remove_prefix(static_cast<size_t>(wrote));
    }
    return {};
  }

  void tell() {
    auto now = steady_clock::now();
    if (now - told_ < kProgressEvery) return;
    told_ = now;
    progress_.report({layer_, "download", uri_, offset_, reply_.value_size()});
  }

  Error explain(CURLcode code) const {
    const char* cure = "check that Ray's head node is up and can be reached from this one";
    switch (code) {
      case CURLE_COULDNT_CONNECT:
      case CURLE_COULDNT_RESOLVE_HOST:
        return gcs_error(uri_, ECONNREFUSED, "no connection to Ray's GCS at " + cluster_.address,
                         cure);
      case CURLE_OPERATION_TIMEDOUT:
        return gcs_error(uri_, ETIMEDOUT, "Ray's GCS is silent", cure);
      default:
        return gcs_error(
            uri_, ECONNRESET,
            "the connection to Ray's GCS broke off: " + std::string(::curl_easy_strerror(code)),
            cure);
    }
  }

  Status check_status() const {
    long http = 0;
    ::curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &http);
    if (http != 200 || !status_) {
      return gcs_error(uri_, 0, cluster_.address + " doesn't speak gRPC as Ray's GCS does",
                       "check the address of the GCS");
    }
    if (*status_ == kUnauthenticated) {
      return gcs_error(uri_, 0, "Ray's GCS refuses us: " + message_,
                       "give this node the cluster's token (RAY_AUTH_TOKEN, ~/.ray/auth_token)");
    }
    bool passes = *status_ == kUnavailable || *status_ == kDeadlineExceeded;
    if (*status_ != 0) {
      return gcs_error(
          uri_, passes ? EAGAIN : 0,
          "Ray's GCS answers with gRPC status " + std::to_string(*status_) + ": " + message_,
          "see gcs_server.out of the head node");
    }
    if (reply_.code() == kNotFound) return installers::package_gone(uri_);
    if (reply_.code() == 0) return {};
    return gcs_error(uri_, 0,
                     "Ray's GCS answers " + std::to_string(reply_.code()) + ": " +
                         reply_.message().substr(0, 500),
                     "see gcs_server.out of the head node");
  }

  const std::string& uri_;
  const GcsCluster& cluster_;
  const int fd_;
  const std::string& layer_;
  Progress& progress_;
  const std::string request_;
  CURLM* multi_;
  CURL* easy_;
  curl_slist* headers_ = nullptr;
  GcsReply reply_;
  store::Hasher hash_;
  uint64_t offset_ = 0;
  std::optional<int> status_;
  std::string message_;
  std::optional<Error> refused_;
  steady_clock::time_point told_;
};

}  // namespace

GcsCluster gcs_cluster() {
  return {variable("RTLAUNCH_GCS_ADDRESS"), variable("RTLAUNCH_GCS_CLUSTER"),
          variable("RTLAUNCH_GCS_TOKEN")};
}

Result<Fetched> fetch_gcs(const std::string& uri, const GcsCluster& cluster, int fd,
                          const std::string& layer, Progress& progress, Deadline deadline) {
  static const CURLcode ready = ::curl_global_init(CURL_GLOBAL_DEFAULT);
  if (ready != CURLE_OK) {
    return make_error("download", "libcurl", ::curl_easy_strerror(ready), "reinstall libcurl");
  }
  return GcsFetch(uri, cluster, fd, layer, progress).run(deadline);
}

}  // namespace rtlaunch
