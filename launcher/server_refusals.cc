#include "launcher/server_refusals.h"

#include <sys/stat.h>

#include "isolation/net.h"

namespace rtlaunch {

struct WatchedNetwork {
  UniqueFd fd;
  uint64_t told = 0;  // of its packets, in the metrics
};

namespace {

uint64_t refused_by(const WatchedNetwork& network) {
  auto count = isolation::refused_packets(network.fd.get());
  return count ? *count : network.told;
}

}  // namespace

void Refusals::watch(Worker& worker, Since since) {
  if (!worker.way_out || worker.pid <= 0) return;
  auto fd = isolation::open_network(worker.pid);
  struct stat st;
  if (!fd || ::fstat(fd->get(), &st) != 0) return;  // it has ended
  std::erase_if(networks_, [](const auto& known) { return known.second.expired(); });
  worker.network = networks_[st.st_ino].lock();
  if (worker.network) return;
  worker.network = std::make_shared<WatchedNetwork>(WatchedNetwork{std::move(*fd)});
  if (since == kAdopted) worker.network->told = refused_by(*worker.network);
  networks_[st.st_ino] = worker.network;
}

void Refusals::look(Worker& worker) {
  if (!worker.network) return;
  worker.refused = refused_by(*worker.network);
  metrics_.count("rtlaunch_refused_packets_total", {},
                 static_cast<double>(worker.refused - worker.network->told));
  worker.network->told = worker.refused;
}

}  // namespace rtlaunch
