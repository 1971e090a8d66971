// Workers of Ray from a zygote: a process that has imported Ray and is copied for each worker, so
// that a worker's start is a fork and not a start of Python (launcher/zygote/). There is one for
// each user, job, raylet and interpreter; it runs outside of all sandboxes, with the rights of
// whoever starts workers here, and has imported nothing but the base's own modules. It makes each
// worker's sandbox itself, as we do when we are embedded, so that a worker has all that is private
// to one: mounts, processes, working_dir. Whoever asks holds the worker's line (isolation/line.h)
// and needs the zygote no longer once the worker runs.
//
//   auto zygote = Zygote::of(spec, bare);        // nothing: such a command has none
//   auto running = zygote->ask(spec, held, &pid1);
//   if (!running) ... nothing has run: start it as ever ..., then zygote->start_soon();
//
// In a sandbox a worker gets what its Spec says, as from the spawner; where a zygote hasn't got
// that to give, there is none (can_give()).
//
// It is in the session's own folder of sockets, under a lock that lives as long as it does. Only
// root has zygotes: who else could choose a pid for a copy?
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "installers/store/store.h"
#include "isolation/sandbox.h"
#include "launcher/host.h"

namespace rtlaunch {

class Zygote {
 public:
  // `spec`: of a worker, with its variables. Bare: in no sandbox.
  static std::optional<Zygote> of(const isolation::Spec& spec, bool bare);
  // A network or a limit by cgroup of its own, files other than the host's, clocks of its own, or
  // less than root's capabilities: only the spawner makes those.
  static bool can_give(const isolation::Spec& spec);
  // What a worker's parent, pid 1 of its sandbox, holds.
  struct Held {
    const std::vector<store::Lease>& leases;
    int record = -1;
    std::string profile;  // that it was given
  };
  // Waits until the worker has begun to connect to Ray; nothing when there is no zygote, or
  // none that would do.
  std::unique_ptr<Running> ask(const isolation::Spec& spec, const Held& held, pid_t* pid1) const;
  // If there is none: starts one and doesn't wait for it. Soon: a moment later, since a worker that
  // has just begun comes first.
  void start_soon(const isolation::Spec& spec) const;
  void start_now(const isolation::Spec& spec) const;

 private:
  void start(const isolation::Spec& spec, int later_ms) const;

  std::string place_;   // of its socket
  std::string script_;  // default_worker.py
  pid_t raylet_ = 0;    // it ends with this one
  uint64_t blocked_ = 0;
  bool bare_ = false;
};

// `rtlaunch start-zygote WORD...`: of workers in a sandbox with these words and our variables,
// whose RAY_RAYLET_PID is the raylet. The agent has them made before a job's first worker.
int start_zygote(const std::vector<std::string>& words);

}  // namespace rtlaunch
