// What pid 1 of a sandbox holds while it makes it, and the way in. For launch.cc and sandbox.cc.
#pragma once

#include <optional>

#include "isolation/caps.h"
#include "isolation/cgroup_limits.h"
#include "isolation/dev.h"
#include "isolation/launch.h"
#include "isolation/mounts.h"
#include "isolation/net.h"
#include "isolation/overlay.h"
#include "isolation/report.h"
#include "isolation/rights.h"
#include "isolation/same_pid.h"
#include "isolation/sandbox.h"
#include "isolation/spares.h"

namespace rtlaunch::isolation {

class Rehearsal;
class Understudy;

// It never returns, so what is still open at the end is closed by number, not by owner.
struct Setup {
  StepClock clock;
  bool rootless = false;
  uid_t uid = 0;  // as they were before the namespaces were made
  gid_t gid = 0;
  int socket = -1;                   // to the launcher
  const Outside* outside = nullptr;  // as in LaunchOptions
  bool shared = false;
  Spec spec = {};
  Spares spares = {};
  mode_t umask = 0;
  int stdio[3] = {0, 1, 2};
  UniqueFd children = {};  // signalfd
  std::optional<Rights> rights = {};
  std::optional<Tree> tree = {};
  std::optional<Devices> devices = {};
  std::optional<Vault> vault = {};
  std::optional<OverlayContext> overlays = {};
  UniqueFd upper = {};
  WayOut way_out = {};  // of the network
  std::optional<SamePid> same_pid = {};
  ControlLog log = {};
  LimitWatch limits = {};
  bool masks_proc = true;
  Rehearsal* rehearsal = nullptr;
  Understudy* understudy = nullptr;  // the worker, if it was made ahead
  bool may_go = false;               // it was said with the request
  bool made = false;                 // what can fail now is the command's own

  bool supervised() const { return spec.line >= 0; }
};

// Only what the sandbox was given, and `more`, stays open; what of it is below 3 and out of place
// moves up.
Status keep_only_given_descriptors(Setup& setup, int more);
// What the worker may do.
Privileges privileges_of(const Setup& setup);
// Supervised: whoever started us has it on record that we are there.
Status wait_for_go(Setup& setup);

// Clocks of its own, if it shall have them, which the command inherits: who borrows memory can't
// enter any. Before the guard: without root its file is ours only as long as we can be looked into.
Status take_clocks(Setup& setup);

// The steps between the descriptors and the command: all that is mounted.
Status make_mounts(Setup& setup);

// For whoever makes no sandbox: the parent of a command in that of another, or in none.
Status prepare_without_sandbox(Setup& setup, const Prepare& prepare);

[[noreturn]] void run_pid1(Setup& setup, const Prepare& prepare);

}  // namespace rtlaunch::isolation
