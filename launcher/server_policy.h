// The policy that the daemon goes by: read at the start, which fails without a good one, and again
// on SIGHUP, when a bad one leaves the old in force and says why. Each request is decided by one
// whole policy. Owned by the daemon's one thread.
//
//   PolicyInForce policy = TRY(PolicyInForce::load(options.policy, journal));
//   Granted granted = TRY(policy.decide(peer.user, request));
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "config/policy.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "launcher/journal.h"
#include "launcher/protocol.h"
#include "launcher/shield.h"

namespace rtlaunch {

// What a start is held to: all that depends on the policy, on who asks and on what for.
struct Decision {
  config::Verdict verdict;
  config::UidRange uids;  // root's: the worker shall be somebody out of these
  Shield shield;
  std::string shape;     // Shape::key()
  std::string encoded;   // the shield, for the spawner
  std::string recorded;  // the same without its filter: who enters pays for compiling it again
};

class PolicyInForce {
 public:
  // "" for the default file, or the built-in policy where there is none.
  static Result<PolicyInForce> load(const std::string& file, Journal& journal);
  void reload(Journal& journal);

  // What this user gets for what the request asks (ASKED in protocol.h). EPERM: less.
  Result<config::Verdict> decide(const isolation::User& user,
                                 const protocol::Request& request) const;
  // The same with all that follows from it. Who asks the same again gets the same, until the policy
  // is read again or other devices are there.
  Result<std::shared_ptr<const Decision>> decision(const isolation::User& user,
                                                   const protocol::Request& request);
  // What this user may name in a runtime env.
  config::Allowed allowed(const isolation::User& user) const;

  // What each node of Ray's may know of it (config::every_worker()).
  std::string every_worker_text() const { return config::every_worker_text(policy_); }

  // {"file", "loaded", "profiles", "rules", "warnings": [...], "error": why a newer one isn't in
  // force}
  config::Json status() const;

 private:
  Result<Decision> decide_anew(const isolation::User& user, const protocol::Request& request);
  // Filters are compiled once for a policy.
  Result<Shield> shield(const config::Verdict& verdict, const std::string& job);

  std::string file_;
  config::Policy policy_;
  int64_t loaded_ = 0;  // seconds since 1970
  std::string error_;
  std::map<std::string, std::string> filters_;                        // by what they were made of
  std::map<std::string, std::shared_ptr<const Decision>> decisions_;  // by what was asked
  DeviceFolders folders_;
};

}  // namespace rtlaunch
