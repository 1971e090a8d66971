// From a profile, which says what is wanted, to what isolation/ is told. Two halves:
//   Shape   what the author of a Spec has to know to write one that fits: where things lie
//   Shield  what a Spec is held to, whoever wrote it. The daemon makes it of its policy, the
//   spawner
//           applies it in the child that has just decoded what a caller wrote. Nothing in it comes
//           from the caller but what the policy let through, and it can only take away.
//
//   Shield shield = TRY(shield_of(verdict));       // EOPNOTSUPP: a required control isn't there
//   TRY(apply(shield, caller, store, &spec));      // EACCES: the Spec has more than it may
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/policy.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "launcher/devices.h"

namespace rtlaunch {

struct Shape {
  std::string profile;
  bool shared = false;  // files, /tmp, /dev and ipc of the host (Root::kShared)
  bool home = true;     // else: may be changed inside
  std::optional<std::vector<std::string>> environment;  // of the caller's variables; nothing: all
  bool copies = false;  // a zygote has all of it to give (Zygote::can_give())
  bool operator==(const Shape&) const = default;

  // Where things lie, which client and daemon must agree on: "host home *".
  std::string key() const;
};
Shape shape_of(const config::Profile& profile);
// Of the profiles that are shipped, where no policy says otherwise; nothing: it has to be asked
// for.
std::optional<Shape> assumed_shape(const std::string& profile);

struct Shield {
  isolation::Spec bound;  // root, network, sizes and controls: what a Spec can have at most
  std::string filter;     // its system call filter, compiled; "" for one that is shipped, or none
  bool home = true, keep_caps = true, read_only = true;
  std::optional<std::vector<std::string>> mounts;  // config::Allowed's
};
// `job`: whose workers share a network, where they have one of their own. `folders`: whoever asks
// often keeps them.
Result<Shield> shield_of(const config::Verdict& verdict, const std::string& job = "",
                         DeviceFolders* folders = nullptr);
// Of all that goes into it, this alone is the machine's, and may be another at each start.
std::vector<std::string> granted_devices(const config::Profile& profile, DeviceFolders* folders);
// Compiles its filter, if it is a policy's own: whoever keeps policies keeps that with them.
Result<std::string> compiled_filter(const Shield& shield);
// As plain text, for the spawner and for the worker's record.
std::string encode(const Shield& shield);
Result<Shield> decode_shield(std::string_view text);

// `store`: what lies below is layers, which are not for this to judge. Paths that may be changed
// inside become what they really are.
Status apply(const Shield& shield, uid_t caller, const std::string& store, isolation::Spec* spec);

// Names of controls that were preferred and not to be had: "keyring, landlock_ports".
std::string lacking_of(const std::vector<isolation::Applied>& applied);

}  // namespace rtlaunch
