// Which environments there are, who uses them, and how they came to be: Ray's rules on top of
// rtlaunch's. Keyed by the very string that the raylet sent, since its deletes repeat it.
//
// - Each get counts one use, each delete takes one back; those of "client_server" don't count.
// - A failed get leaves no use behind. The failure is remembered for a while, unless it is one that
//   may pass by itself.
// - An environment is made once, however many ask. What may pass is tried again until the request's
//   one deadline; what can't isn't.
// - What the policy says of workers without layers is looked at at each get: what was made, or
//   refused, under another word is made anew.
// - Unused ones stay until their URIs are over the limit (uri_cache.h). Until then a hold keeps
//   their layers; it is renewed, and whoever lost it is made anew at the next get.
//
// One thread. All coroutines refer to the object, which outlives the io_context's run.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "launcher/ray/agent_options.h"
#include "launcher/ray/bridge.h"
#include "launcher/ray/context.h"
#include "launcher/ray/drivers.h"
#include "launcher/ray/early_zygotes.h"
#include "launcher/ray/executable.h"
#include "launcher/ray/in_image.h"
#include "launcher/ray/maker.h"
#include "launcher/ray/ray_env.h"
#include "launcher/ray/uri_cache.h"
#include "launcher/ray/uv_run.h"
#include "launcher/ray_node.h"
#include "launcher/server_async.h"

namespace rtlaunch::ray {

struct GetRequest {
  std::string env;                    // as it was sent
  std::string source;                 // source_process
  std::string job;                    // hex digits
  std::optional<seconds> limit{600};  // nothing: none
  std::vector<std::string> log_files = {};
};

struct GetAnswer {
  bool ok = false;
  std::string text;  // the context, or the error
};

struct EnvironmentState {
  std::string env;
  int64_t uses = 0;
  std::optional<bool> made;  // nothing: it is on its way
  std::string error;
  std::optional<int64_t> creation_ms;
};

class Environments {
 public:
  using Log = std::function<void(LogLevel, const std::string&)>;
  Environments(asio::io_context& io, const AgentOptions& options, const Knobs& knobs, Maker& maker,
               Executables& executables, Images& images, Drivers& drivers,
               EarlyZygotes& early_zygotes, Bridge& bridge, std::string rtlaunch,
               EveryWorker& every_worker, Log log);
  ~Environments();

  // Counts, and answers if nothing has to be made or waited for.
  std::optional<GetAnswer> get_known(const GetRequest& request);
  awaitable<GetAnswer> get(GetRequest request);  // the same, however long it takes
  Status remove(const std::string& env, const std::string& source);
  std::vector<EnvironmentState> states() const;
  awaitable<void> keep_holds();  // for ever

 private:
  struct Entry;
  using EntryPtr = std::shared_ptr<Entry>;

  EntryPtr entry_of(const std::string& env);
  GetAnswer known_failure(const Entry& entry, const GetRequest& request);
  void tell_known(const GetRequest& request);
  void tell_used_again(const Entry& entry, const GetRequest& request);
  SetupLog setup_log(const GetRequest& request) const;
  void count_use(Entry& entry, const std::string& source);
  void take_back(Entry& entry, const std::string& source);
  void settle(const std::string& env, Entry& entry);
  void forget_unused();
  void forget_with(const Uri& gone);
  void drop(const std::string& env, Entry& entry);
  awaitable<void> make(EntryPtr entry, GetRequest request);
  awaitable<Status> try_make(Entry& entry, const GetRequest& request, SetupLog& log);
  awaitable<Result<Maker::Made>> make_layers(const RayEnv& env, std::string hold,
                                             Clock::time_point deadline, SetupLog& log);
  awaitable<Status> sync_once(Entry& entry, const UvRun& run, RayEnv& env, RunBy& run_by,
                              ContextRequest& context, Clock::time_point deadline, SetupLog& log);
  awaitable<void> measure(std::vector<Uri> uris, std::string id);
  Status make_mount_points(const RayEnv& env);
  awaitable<Status> copy_files(const RayEnv& env, std::string id, Clock::time_point deadline);
  awaitable<Status> find_plugins(const RayEnv& env, std::set<std::string>* plugins,
                                 Clock::time_point deadline, SetupLog& log);
  awaitable<Status> plug_in(Entry& entry, const GetRequest& request, RayEnv env,
                            ContextRequest& context, RunBy& run_by, Clock::time_point deadline,
                            SetupLog& log);
  awaitable<Bridge::Done> run_plugins(Bridge::Setup setup, Clock::time_point deadline,
                                      SetupLog& log);
  static Status check_image(const RayEnv& env, bool has_plugins);
  static Status check_is_there(const RayEnv& env, const RunBy& run_by);
  static Status check_can_run(const RayEnv& env, const RunBy& run_by, bool every_worker);
  bool is_out_of_date(const Entry& entry);
  bool gives_time_for_a_zygote(const RayEnv& env, const RunBy& run_by) const;

  asio::io_context& io_;
  const AgentOptions& options_;
  const Knobs& knobs_;
  Maker& maker_;
  Executables& executables_;
  Images& images_;
  Drivers& drivers_;
  EarlyZygotes& early_zygotes_;
  Bridge& bridge_;
  std::string rtlaunch_;
  EveryWorker& every_worker_;
  std::map<std::string, std::string> variables_;
  std::vector<std::string> plugin_folders_;
  Log log_;
  UriCache uris_;
  std::unordered_map<std::string, EntryPtr> entries_;
  std::set<std::string> copied_;  // directories below the runtime env folder that have files
  uint64_t holds_ = 0;
};

}  // namespace rtlaunch::ray
