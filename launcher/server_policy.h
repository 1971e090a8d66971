// The policy that the daemon goes by: read at the start, which fails without a good one, and again
// on SIGHUP, when a bad one leaves the old in force and says why. Each request is decided by one
// whole policy. Owned by the daemon's one thread.
//
//   PolicyInForce policy = TRY(PolicyInForce::load(options.policy, journal));
//   Granted granted = TRY(policy.decide(peer.user, request));
#pragma once

#include <map>
#include <optional>
#include <string>

#include "config/policy.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "launcher/journal.h"
#include "launcher/protocol.h"
#include "launcher/shield.h"

namespace rtlaunch {

class PolicyInForce {
 public:
  // "" for the default file, or the built-in policy where there is none.
  static Result<PolicyInForce> load(const std::string& file, Journal& journal);
  void reload(Journal& journal);

  // What this user gets for what the request asks (ASKED in protocol.h). EPERM: less.
  Result<config::Verdict> decide(const isolation::User& user,
                                 const protocol::Request& request) const;
  // The same for the spawner. Filters are compiled once for a policy.
  Result<Shield> shield(const config::Verdict& verdict, const std::string& job);
  // What this user may name in a runtime env.
  config::Allowed allowed(const isolation::User& user) const;

  // {"file", "loaded", "profiles", "rules", "warnings": [...], "error": why a newer one isn't in
  // force}
  config::Json status() const;

 private:
  std::string file_;
  config::Policy policy_;
  int64_t loaded_ = 0;  // seconds since 1970
  std::string error_;
  std::map<std::string, std::string> filters_;  // by what they were made of
};

}  // namespace rtlaunch
