// A sandbox's mounts, made before anybody has asked for it: who starts a command often starts the
// next in the same sandbox, and to make its mounts is half of a start.
//
// pid 1 makes them in a mount namespace beside its own, and waits in its own, which goes on to get
// what the host mounts. When its Spec is there, they are taken if they fit: the Spec asks for the
// same but for the command, nothing has been mounted on the host or unmounted, and every path that
// was looked up leads to the same file, with the same owner and mode, for the same caller. What
// lies in these files is the host's own of now: nothing of it was copied. If they don't fit they
// are left, and the sandbox is made as ever; that costs the half of a millisecond that was spared.
//
// The worker waits in them already, where nothing forbids it (understudy.h), and is taken if it has
// the same limits.
//
// Leases: whoever rehearses holds those of the rehearsed Spec as long as it waits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "isolation/setup.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"
#include "isolation/understudy.h"

namespace rtlaunch::isolation {

class Rehearsal {
 public:
  // Of a sandbox in the host's root that shares nothing with others: no image, network, device or
  // limit of its own.
  static bool suits(const Spec& spec);
  // In pid 1, which is back in its own mount namespace afterwards, whatever came of it. Takes its
  // spares. Never freed: what it has open is closed by number.
  static Result<Rehearsal*> make(Setup& setup, Spec spec);

  bool fits(Setup& setup) const;
  Status take(Setup& setup);
  void leave();
  // Once the command runs: what pid 1 hasn't taken is left to the kernel.
  void part() const;
  // What of it has to stay open until then.
  void append_to(std::vector<int>* descriptors) const;

 private:
  using Seen = std::vector<uint64_t>;
  static Result<Seen> look(const Spec& spec, const Rights& rights);

  // A mount namespace, and what is `/` in it to us.
  struct Place {
    UniqueFd mounts, root;
    static Result<Place> here();
    Status enter() const;
  };

  void take_understudy(Setup& setup);

  Setup made_;
  Seen seen_;
  Place own_, theirs_;  // where pid 1 waits; where it all is
  int left_ = -1;       // the mounts of the one that it is no longer in
  std::unique_ptr<Understudy> understudy_;
};

}  // namespace rtlaunch::isolation
