// What the networks of workers refuse to let out (isolation/net.h), for `ps`, the journal and
// Prometheus. A network is kept open as long as a worker of it is known, so that it can still be
// asked when its last process has ended; one that several workers share is counted once.
//
// The daemon's one thread. Looking is a visit to that network, some 50 microseconds.
//
//   refusals.watch(worker, Refusals::kNew);  // opens its network, if it has one with a way out
//   refusals.look(worker);                   // worker.refused is as of now
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>

#include "launcher/metrics.h"
#include "launcher/workers.h"

namespace rtlaunch {

class Refusals {
 public:
  // kAdopted: what it has refused so far was told by the daemon before us.
  enum Since { kNew, kAdopted };

  explicit Refusals(Metrics& metrics) : metrics_(metrics) {}
  void watch(Worker& worker, Since since);
  void look(Worker& worker);

 private:
  Metrics& metrics_;
  std::map<ino_t, std::weak_ptr<WatchedNetwork>> networks_;
};

}  // namespace rtlaunch
