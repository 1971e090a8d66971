// Ray's token: who may talk to the agent, and what the agent says to Ray's key-value store.
//
//   Auth auth = TRY(Auth::load(own_environment()));
//   if (!auth.allows(request headers)) ...
//
// Off unless RAY_AUTH_MODE=token. The token is looked for where Ray looks: RAY_AUTH_TOKEN, the file
// named by RAY_AUTH_TOKEN_PATH (which then has to be there), $HOME/.ray/auth_token. With
// RAY_ENABLE_K8S_TOKEN_AUTH our own is the service account's, which the kubelet renews, and those
// of others are for Kubernetes to judge (token_review.h). A token is a secret: it is never in an
// Error.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "isolation/sys/result.h"

namespace rtlaunch::ray {

class Auth {
 public:
  enum class Verdict { kAllowed, kMissing, kWrong, kAsk };  // kAsk: Kubernetes

  Auth() = default;  // everybody may
  static Result<Auth> load(const std::map<std::string, std::string>& variables);

  bool needed() const { return needed_; }
  std::string token() const;                         // as it is now
  const std::string& file() const { return file_; }  // it is in; "": in a variable
  // Of a request: its headers Authorization and X-Ray-Authorization, and all of its cookies ("" for
  // what isn't there). The first that is there counts. Takes as long for a wrong token as for the
  // right one.
  Verdict judge(std::string_view authorization, std::string_view ray_authorization,
                std::string_view cookies) const;
  // What there is to judge, as the header has it: "Bearer ..."; "" for nothing.
  static std::string given(std::string_view authorization, std::string_view ray_authorization,
                           std::string_view cookies);

 private:
  bool needed_ = false, kubernetes_ = false;
  std::string token_, file_;
};

}  // namespace rtlaunch::ray
