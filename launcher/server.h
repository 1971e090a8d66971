// rtlaunchd itself: one thread, one io_context, one socket. The daemon owns the table of workers,
// keeps a spawner alive, has builds and house-keeping run by it, and answers clients (session.h).
// It is crash-only: whatever it knows is in files (workers.h) or found again.
//
//   Server server(io, options, journal);
//   TRY(server.open());          // store, lock, socket, what runs already
//   server.start(notify);
//   io.run();                    // returns when it was told to stop and has
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "installers/store/store.h"
#include "launcher/daemon.h"
#include "launcher/journal.h"
#include "launcher/known_records.h"
#include "launcher/metrics.h"
#include "launcher/notify.h"
#include "launcher/server_async.h"
#include "launcher/server_builds.h"
#include "launcher/server_closer.h"
#include "launcher/server_housekeeping.h"
#include "launcher/server_policy.h"
#include "launcher/server_quota.h"
#include "launcher/server_refusals.h"
#include "launcher/server_spawner.h"
#include "launcher/workers.h"

namespace rtlaunch {

class MetricsPage;

class Server {
 public:
  static constexpr size_t kConnections = 16384, kConnectionsEach = 1024;
  static constexpr size_t kStarts = 512, kStartsEach = 256;
  static constexpr size_t kBytes = 64 << 20, kBytesEach = 8 << 20;       // of frames not whole yet
  static constexpr size_t kDescriptors = 8192, kDescriptorsEach = 2048;  // sent by clients
  static constexpr size_t kLookers = 32, kLookersEach = 4;               // at their environments
  static constexpr size_t kFollowers = 1024, kFollowersEach = 64;

  Server(asio::io_context& io, DaemonOptions options, Journal& journal, std::string tools);
  ~Server();
  Status open();
  void start(Notify notify);
  void drain();   // SIGTERM
  void reload();  // SIGHUP

  // --- what sessions use ---
  asio::io_context& io() { return io_; }
  const DaemonOptions& options() const { return options_; }
  const std::string& tools() const { return tools_; }
  PolicyInForce& policy() { return *policy_; }
  bool draining() const { return draining_; }
  Journal& journal() { return journal_; }
  Metrics& metrics() { return metrics_; }
  Workers& workers() { return *workers_; }
  Spawners& spawners() { return spawners_; }
  Builds& builds() { return *builds_; }
  Housekeeping& housekeeping() { return *housekeeping_; }
  Bell& news() { return news_; }  // the journal has a new entry
  Closer& closer() { return closer_; }
  Refusals& refusals() { return refusals_; }
  KnownRecords& records() { return records_; }
  Quota& starts() { return starts_; }
  Quota& bytes() { return bytes_; }
  Quota& descriptors() { return descriptors_; }
  Quota& followers() { return followers_; }
  Quota& lookers() { return lookers_; }
  Quota& connections() { return connections_; }
  // The store as the caller sees it. Opened anew when its folder is another one by now; an Error
  // while it isn't there.
  Result<store::Store> store_of(uid_t caller);
  Result<store::Store*> store();
  // One that runs now.
  void watch(const std::string& worker, Refusals::Since since = Refusals::kNew);
  void look_for_lost_soon();  // a start whose end we don't know
  void update_gauges();

 private:
  Status take_socket();
  Status tell_nodes();
  bool has_told() const;
  Status adopt();
  void log_adopted(const Workers::Adopted& adopted);
  awaitable<void> accept();
  void welcome(UniqueFd socket);
  awaitable<void> watch_worker(std::string id, std::shared_ptr<Watched> pidfd);
  awaitable<void> look_after();  // the watchdog, and folders that vanish
  awaitable<void> look_for_lost();
  awaitable<void> finish();
  void check_runtime();

  asio::io_context& io_;
  DaemonOptions options_;
  std::string tools_;
  Journal& journal_;
  std::optional<PolicyInForce> policy_;
  Metrics metrics_;
  Refusals refusals_{metrics_};
  Notify notify_;
  UniqueFd lock_;
  std::shared_ptr<Watched> listener_;
  bool given_ = false;  // the socket is the service manager's
  bool told_ = false;   // tell_nodes() did, of the policy in force
  std::optional<store::Store> store_;
  std::optional<Workers> workers_;
  Closer closer_;
  KnownRecords records_;
  Spawners spawners_;
  std::optional<Builds> builds_;
  std::optional<Housekeeping> housekeeping_;
  std::unique_ptr<MetricsPage> page_;
  Bell news_;
  Quota connections_, starts_, bytes_, descriptors_, followers_, lookers_;
  uint64_t last_connection_ = 0;
  bool draining_ = false, lost_ = false;
  std::string missing_;  // the last trouble with a folder, told once
};

}  // namespace rtlaunch
