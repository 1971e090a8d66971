// The only way out of a build's network: an HTTP proxy of ours that stands outside and serves the
// listening socket inside (isolation/net.h). It lets through CONNECT and plain http to the places
// that the requirements and the configuration name, and to those that an index names for its files:
// when a host is asked for that nobody named, the indexes themselves are asked (their pages of the
// packages in question, and where these and their files are redirected to). All else is refused and
// remembered. Where the caller has a proxy of his own, everything goes on through that one.
//
// Addresses are looked at after a name was resolved: cloud metadata and link-local ones are always
// refused; loopback and private ones are for places that were named, and for those learned from an
// index that itself lies there. (Behind another proxy only names can be looked at.)
//
// It is a process of its own, because it reads what a build writes: as the caller, without any
// privilege; it ends with its owner, and with the thread that made it.
//
//   Forwarder forwarder = TRY(Forwarder::start(way_out_of(job, command)));
//   spec.network = isolation::Network::kNone;
//   spec.listener_to = forwarder.listener_to();
//   for (const std::string& variable : Forwarder::environment()) spec.env.push_back(variable);
//   ... run ...
//   for (const Mishap& m : forwarder.mishaps()) ...
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "installers/gate.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::installers {

// What didn't work, in the order in which it was asked for.
struct Mishap {
  bool refused = false;  // by us; else the place didn't answer
  std::string place;     // "host:port"
  std::string agent;     // what the one who asked calls itself: "pip/25.0"; may be empty
  std::string reason;
};

class Forwarder {
 public:
  static Result<Forwarder> start(const WayOut& way_out);
  Forwarder(Forwarder&& other) noexcept;
  Forwarder& operator=(Forwarder&& other) noexcept;
  ~Forwarder() { end(); }

  // For Spec::listener_to, of any number of sandboxes one after the other.
  int listener_to() const { return door_.get(); }
  // Since it was asked last.
  std::vector<Mishap> mishaps();
  // The variables that lead there: "HTTPS_PROXY=http://127.0.0.1:3128", and so on.
  static std::vector<std::string> environment();

 private:
  Forwarder() = default;
  void end();

  pid_t pid_ = -1;
  UniqueFd door_, mishaps_;
};

}  // namespace rtlaunch::installers
