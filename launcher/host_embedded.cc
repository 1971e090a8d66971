// The host that is this process: its store, its children.
#include <unistd.h>

#include "config/policy_file.h"
#include "isolation/ahead.h"
#include "isolation/userns.h"
#include "launcher/builder.h"
#include "launcher/host_parts.h"
#include "launcher/job_user.h"

namespace rtlaunch {
namespace {

class EmbeddedRunning : public Running {
 public:
  EmbeddedRunning(isolation::Sandbox sandbox, std::vector<store::Lease> leases, std::string profile)
      : leases_(std::move(leases)), sandbox_(std::move(sandbox)), profile_(std::move(profile)) {}
  Status send(int signal) override { return sandbox_.send(signal); }
  int done_fd() const override { return sandbox_.done_fd(); }
  Result<int> wait() override { return sandbox_.ended(); }
  int upper_dir() const override { return sandbox_.upper_dir(); }
  std::vector<isolation::Sandbox::Step> steps() override { return sandbox_.steps(); }
  std::string profile() override { return profile_; }
  std::vector<isolation::Applied> applied() override { return sandbox_.applied(); }
  std::string met() const override { return sandbox_.met(); }
  std::optional<uint64_t> refused() const override { return sandbox_.refused(); }

 private:
  std::vector<store::Lease> leases_;
  isolation::Sandbox sandbox_;
  std::string profile_;
};

class EmbeddedHost : public Host {
 public:
  EmbeddedHost(store::Store store, Signals& signals)
      : store_(std::move(store)), signals_(signals) {}

  bool shares_terminal() const override { return true; }
  const std::string& store() const override { return store_.path(); }
  Result<const store::Store*> own() override { return &store_; }
  std::vector<std::string> hidden() const override {
    // What isn't there, nor about to be made, needs no cover, and one for nothing has to be given
    // back.
    bool others = ::geteuid() == 0 && (gives_users() || ::access(kJobUsers, F_OK) == 0);
    return others ? std::vector<std::string>{store_.path(), kJobUsers}
                  : std::vector<std::string>{store_.path()};
  }
  std::optional<Past> start_past(const Launch& launch) override {
    isolation::Spec spec = launch.spec;
    bool held = hold_to_policy(&spec).ok();
    auto leases = store_.acquire_all(launch.layers);
    if (!held || gives_users() || !leases || !*leases) return std::nullopt;
    return Past{std::move(spec), profile(), std::move(**leases), {}, ""};
  }
  void started_past(const Past&, pid_t, const std::string&) override {}

  Result<std::vector<std::optional<store::Record>>> lookup(
      const std::vector<store::Key>& keys) override {
    std::vector<std::optional<store::Record>> records;
    for (const store::Key& key : keys) records.push_back(TRY(store_.lookup(key)));
    return records;
  }

  Status make(const std::vector<std::string>& fields, const installers::PlanRequest& request,
              Report& report) override {
    ahead_.reset();  // it would wait for long
    return build_fields(fields, request, store_.path(), signals_, report);
  }

  // Root's policy is root's, and everybody's: but here a plain user is asked of himself alone, who
  // could do without us.
  Result<Shape> shape(const Asked& asked, bool) override {
    asked_ = asked;
    assumed_ = assumed_shape(asked.ask.profile);
    bool usual = assumed_ && asked.ask.controls.empty() && config::has_built_in_policy();
    if (usual) return *assumed_;
    assumed_.reset();
    TRY(decide());
    return shape_of(verdict_->profile);
  }

  // Its pid 1 parses the policy, too, if that is the built-in one.
  void expect_start() override {
    if (gives_users() || (assumed_ && assumed_->shared)) return;
    if (!assumed_) {
      auto bound = shield();
      if (!bound || !isolation::Ahead::fits(bound->bound)) return;
    }
    auto ahead = isolation::Ahead::begin([this]() -> isolation::Ahead::Finish {
      return [this, held = shield()](isolation::Spec* spec) -> Status {
        if (!held) return held.error();
        return apply(*held, ::geteuid(), store_.path(), spec);
      };
    });
    if (ahead) ahead_.emplace(std::move(*ahead));  // else start() tells why
  }

  config::Allowed allowed() const override {
    return verdict_ ? verdict_->allow : config::Allowed();
  }

  Result<std::unique_ptr<Running>> start(Launch launch) override {
    auto leases = TRY(store_.acquire_all(launch.layers));
    if (!leases) return std::unique_ptr<Running>();
    for (const store::Lease& lease : *leases) launch.spec.leases.push_back(lease.fd.get());
    isolation::Sandbox sandbox = TRY(start_sandbox(&launch.spec));
    return std::unique_ptr<Running>(
        std::make_unique<EmbeddedRunning>(std::move(sandbox), std::move(*leases), profile()));
  }

  Status remember(const store::Key& id, const store::Record& record) override {
    return store_.read_only() ? Status() : store_.record(id, record);
  }

  void touch(const store::Key& id) override { store_.touch(id); }

  Result<Found> environment(const std::string& id) override { return find_environment(store_, id); }

  Status hold(const std::string& name, const store::Key& id, int64_t ttl) override {
    TRY(store_.hold(name, id, ttl));
    return {};
  }

  Status hold_again(const store::Key& id) override {
    for (const store::Store::Hold& hold : TRY(store_.holds())) {
      if (hold.env != id || hold.uid != ::geteuid()) continue;
      TRY(store_.hold(hold.name, id, seconds_left(hold.expires)));
    }
    return {};
  }

  Status settle(const installers::PlanRequest& request) override {
    if (!store_.read_only()) background_ = TRY(Background::start(request, store_.path()));
    return {};
  }

  void ended() override { background_.release(); }

 private:
  // Of the profile's `uids`, before whom an image's own user gives way.
  bool gives_users() const {
    return ::geteuid() == 0 && verdict_ && verdict_->profile.uids.want != config::Want::kOff;
  }
  Result<UniqueFd> take_job_user(const std::string& job, isolation::Spec* spec) const {
    if (!gives_users()) return UniqueFd();
    HeldUser held = TRY(hold_job_user(verdict_->profile.uids, job, 10000));
    spec->user = held.user;
    spec->leases.push_back(held.hold.get());
    return std::move(held.hold);
  }

  // Another user: as if that one had asked, and what is in the image is that user's.
  Result<UniqueFd> become(isolation::Spec* spec) const {
    if (!spec->user) return UniqueFd();
    UniqueFd id_map = TRY(isolation::make_id_map(spec->user->uid, spec->user->gid));
    spec->caller = spec->user;
    spec->store = store_.path();
    spec->id_map = id_map.get();
    return id_map;
  }

  Result<isolation::Sandbox> start_sandbox(isolation::Spec* spec) {
    std::optional<isolation::Ahead> ahead = std::exchange(ahead_, std::nullopt);
    if (ahead && isolation::Ahead::fits(*spec) && ahead->tell(*spec)) return ahead->finish();
    ahead.reset();
    TRY(hold_to_policy(spec));
    UniqueFd user = TRY(take_job_user(asked_.job, spec));
    UniqueFd id_map = TRY(become(spec));
    return isolation::start(*spec);
  }

  std::string profile() const {
    return verdict_ ? verdict_->profile.name : assumed_ ? assumed_->profile : "";
  }

  Status decide() {
    if (verdict_) return {};
    config::Who who = TRY(config::ourselves());
    who.job = asked_.job;
    who.labels = asked_.labels;
    if (assumed_) {
      verdict_ = TRY(config::resolve(config::built_in_policy(), who, asked_.ask));
    } else {
      config::Policy policy = TRY(config::load_default_policy());
      verdict_ = TRY(config::resolve(policy, who, asked_.ask));
    }
    return {};
  }

  Result<Shield> shield() {
    TRY(decide());
    config::Verdict verdict = *verdict_;
    if (gives_users()) verdict.profile.uids = {};  // that one is ours to give
    return shield_of(verdict, asked_.job);
  }

  Status hold_to_policy(isolation::Spec* spec) {
    Shield held = TRY(shield());
    return apply(held, ::geteuid(), store_.path(), spec);
  }

  store::Store store_;
  Signals& signals_;
  Background background_;
  Asked asked_;
  std::optional<Shape> assumed_;            // under the built-in policy, which isn't looked at
  std::optional<config::Verdict> verdict_;  // when it was needed
  std::optional<isolation::Ahead> ahead_;
};

}  // namespace

Result<std::unique_ptr<Host>> make_embedded_host(const std::string& store, Signals& signals) {
  std::string path = TRY(store_path(store));
  store::Store opened = TRY(store::Store::open(path, true));
  return std::unique_ptr<Host>(std::make_unique<EmbeddedHost>(std::move(opened), signals));
}

}  // namespace rtlaunch
