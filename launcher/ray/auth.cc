#include "launcher/ray/auth.h"

#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::ray {
namespace {

using sys::trimmed;

using Variables = std::map<std::string, std::string>;

constexpr std::string_view kBearer = "Bearer ";
constexpr std::string_view kCookie = "ray-authentication-token";
constexpr const char* kServiceAccount = "/var/run/secrets/ray.io/serviceaccount/token";

std::string value_of(const Variables& variables, const std::string& name) {
  auto found = variables.find(name);
  return found == variables.end() ? "" : found->second;
}

std::string first_line(const std::string& text) {
  return trimmed(std::string_view(text).substr(0, text.find('\n')));
}

Result<std::string> token_in(const std::string& path) {
  std::string token = first_line(TRY(sys::read_file(path, 1 << 20)));
  if (token.empty()) return make_error("token", path, "is empty", "write Ray's token into it");
  return token;
}

bool by_kubernetes(const Variables& variables) {
  std::string value = value_of(variables, "RAY_ENABLE_K8S_TOKEN_AUTH");
  return value == "1" || value == "true";
}

std::string file_of(const Variables& variables) {
  std::string path = value_of(variables, "RAY_AUTH_TOKEN_PATH");
  if (path.empty() && by_kubernetes(variables)) return kServiceAccount;
  return path.empty() ? value_of(variables, "HOME") + "/.ray/auth_token" : path;
}

// The cookie's value; "" when it isn't there.
std::string cookie_in(std::string_view cookies) {
  while (!cookies.empty()) {
    size_t end = std::min(cookies.find(';'), cookies.size());
    std::string one = trimmed(cookies.substr(0, end));
    size_t equals = one.find('=');
    if (equals != std::string::npos && trimmed(one.substr(0, equals)) == kCookie) {
      std::string value = trimmed(one.substr(equals + 1));
      bool quoted = value.size() >= 2 && value.front() == '"' && value.back() == '"';
      return quoted ? value.substr(1, value.size() - 2) : value;
    }
    cookies.remove_prefix(std::min(end + 1, cookies.size()));
  }
  return {};
}

// Looks at as many bytes whatever they are; only lengths can be told apart.
bool equal(std::string_view given, std::string_view right) {
  unsigned char differs = given.size() != right.size();
  for (size_t i = 0; i < given.size(); ++i) {
    differs |= static_cast<unsigned char>(given[i] ^ right[i % right.size()]);
  }
  return differs == 0;
}

}  // namespace

Result<Auth> Auth::load(const Variables& variables) {
  Auth auth;
  if (value_of(variables, "RAY_AUTH_MODE") != "token") return auth;
  auth.kubernetes_ = by_kubernetes(variables);
  auth.needed_ = true;
  auth.token_ = first_line(value_of(variables, "RAY_AUTH_TOKEN"));
  if (!auth.token_.empty()) return auth;
  auth.token_ = TRY(token_in(file_of(variables)));
  // A service account's is a link to what the kubelet exchanges.
  auth.file_ = auth.kubernetes_ ? file_of(variables) : TRY(sys::real_path(file_of(variables)));
  return auth;
}

std::string Auth::token() const {
  if (!kubernetes_ || file_.empty()) return token_;
  auto renewed = token_in(file_);
  return renewed ? *renewed : token_;
}

std::string Auth::given(std::string_view authorization, std::string_view ray_authorization,
                        std::string_view cookies) {
  std::string_view header = authorization.empty() ? ray_authorization : authorization;
  if (!header.empty()) return std::string(header);
  std::string cookie = cookie_in(cookies);
  return cookie.empty() ? "" : std::string(kBearer) + cookie;
}

Auth::Verdict Auth::judge(std::string_view authorization, std::string_view ray_authorization,
                          std::string_view cookies) const {
  if (!needed_) return Verdict::kAllowed;
  std::string text = given(authorization, ray_authorization, cookies);
  if (text.empty()) return Verdict::kMissing;
  if (!text.starts_with(kBearer)) return Verdict::kWrong;
  if (kubernetes_) return Verdict::kAsk;
  return equal(std::string_view(text).substr(kBearer.size()), token_) ? Verdict::kAllowed
                                                                      : Verdict::kWrong;
}

}  // namespace rtlaunch::ray
