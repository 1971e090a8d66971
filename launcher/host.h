// Who keeps the layers and starts the sandboxes: this process itself ("embedded"), or the machine's
// rtlaunchd. `run`, `exec` and `env` know no other difference between the two.
//
//   std::unique_ptr<Host> host = TRY(choose_host(options, signals));
//   plan with host->own() and host->records(); host->make() what is missing
//   auto running = TRY(host->start(launch));   // nothing: a layer has gone, plan again
//   int status = TRY(wait_for(*running, signals));
//
// Belongs to one thread. rtlaunchd may die and come back at any time: every call here is asked
// again for up to ten seconds, and a command is started at most once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "installers/plan.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "launcher/options.h"
#include "launcher/report.h"
#include "launcher/shield.h"
#include "launcher/signals.h"

namespace rtlaunch {

// Which host is wanted: --socket, --embedded, --store; RTLAUNCH_SOCKET and RTLAUNCH_STORE.
struct HostOptions {
  std::string socket;  // a daemon that has to answer; "" for the default one if it does
  std::string store;   // a store of one's own: no daemon is asked, unless one was named
  bool embedded = false;
};

// A command that runs. Its end ends all in its sandbox; so does the end of this object.
class Running {
 public:
  virtual ~Running() = default;
  virtual Status send(int signal) = 0;  // to the command, not to its children
  virtual int done_fd() const = 0;      // readable when wait() won't block
  virtual Result<int> wait() = 0;       // the command's wait status
  virtual int upper_dir() const = 0;    // see Sandbox::upper_dir()
  virtual std::vector<isolation::Sandbox::Step> steps() = 0;
  virtual std::string profile() = 0;                      // that it was given
  virtual std::vector<isolation::Applied> applied() = 0;  // see Sandbox::applied()
  virtual std::string met() const = 0;                    // see Sandbox::met()
  // After wait(): see Sandbox::refused(). Through a daemon it is the daemon that tells.
  virtual std::optional<uint64_t> refused() const { return std::nullopt; }
  virtual void runs_long() {}  // what is kept only for a short command may go
};

// One start.
struct Launch {
  isolation::Spec spec;
  Asked asked;                        // of the policy
  std::string shape;                  // that `spec` was written for (Shape::key())
  std::vector<store::Digest> layers;  // that `spec` names
  store::Key environment;             // whose record has them all; "" when there are none
  std::string name;                   // for people
};

class Host : public installers::Records {
 public:
  // False: commands have sessions of their own, and no key of ours reaches them by itself.
  virtual bool shares_terminal() const = 0;
  virtual Result<const store::Store*> own() = 0;  // where planning remembers; opened when asked for
  virtual Result<std::string> plugins() { return std::string(); }  // a daemon's folder of them
  virtual std::vector<std::string> hidden() const = 0;             // what no command may see
  // For who starts a command past this host (zygote.h): what it would have started, held to the
  // policy in just the same way, its layers and its record, held as the host would have them held.
  // Nothing: the host would have refused, or only it can hold them; start() tells.
  struct Past {
    isolation::Spec spec;
    std::string profile;
    std::vector<store::Lease> leases;
    UniqueFd record;  // for the command's pid 1; invalid: nobody keeps any
    std::string record_path;
  };
  virtual std::optional<Past> start_past(const Launch& launch) = 0;
  // How it went; without a pid nothing has started. `lacking`: lacking_of() it.
  virtual void started_past(const Past& past, pid_t pid1, const std::string& lacking) = 0;
  // Runs until all of `fields` are made or one fails. SIGINT, SIGTERM, SIGHUP: exit code 128+n.
  virtual Status make(const std::vector<std::string>& fields,
                      const installers::PlanRequest& request, Report& report) = 0;
  // What the policy gives for this. `surely`: asked of a daemon, else it may be what is usual, and
  // start() says whether it was right. EPERM: it doesn't give it.
  virtual Result<Shape> shape(const Asked& asked, bool surely) = 0;
  // A start with that shape is next, and is to be as quick as it can: what it needs whatever is
  // asked for may be made meanwhile, and records may be those of the last time (assumed.h).
  virtual void expect_start() {}
  // start() has returned nothing because they have changed: to plan again is all that is needed.
  virtual bool assumed_wrongly() { return false; }
  // What may be named in a runtime env; a daemon says so itself, when it is asked to make a layer.
  virtual config::Allowed allowed() const { return {}; }
  // Returns when the command has been exec'ed. EREMCHG: the shape was not right. Nothing: a layer,
  // or the environment's record, isn't there any more.
  virtual Result<std::unique_ptr<Running>> start(Launch launch) = 0;
  // An environment's record, for `env ls` and `exec`.
  virtual Status remember(const store::Key& id, const store::Record& record) = 0;
  virtual void touch(const store::Key& id) = 0;
  // The record of an environment by a prefix of its id or the name of a hold, with its id.
  struct Found {
    store::Key id;
    store::Record record;
  };
  virtual Result<Found> environment(const std::string& id) = 0;
  // Holds an environment under a name, again to renew it. ESTALE: a layer of it has gone.
  virtual Status hold(const std::string& name, const store::Key& id, int64_t ttl) = 0;
  // The caller's holds of this environment, with the layers that it has now.
  virtual Status hold_again(const store::Key& id) = 0;
  // What nobody waits for (bytecode, syncs), beside the command. ended(): it may go on without us.
  virtual Status settle(const installers::PlanRequest& request) = 0;
  virtual void ended() = 0;
};

Result<std::unique_ptr<Host>> choose_host(const HostOptions& options, Signals& signals);

}  // namespace rtlaunch
