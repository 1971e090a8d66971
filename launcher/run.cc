#include "launcher/run.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "isolation/sys/process.h"
#include "isolation/sys/text.h"
#include "launcher/asked.h"
#include "launcher/attend.h"
#include "launcher/environment.h"
#include "launcher/signals.h"
#include "launcher/worker.h"
#include "launcher/written.h"
#include "launcher/zygote.h"

namespace rtlaunch {
namespace {

using installers::Field;
using installers::Plan;
using installers::PlanRequest;

// A layer can be collected between its making and its lease, a working_dir can change between two
// looks at it. More than this often in a row is no coincidence.
constexpr int kAttempts = 4;

Error never_ready() {
  return make_error(
      "run", "layers", "they change or vanish faster than they are made",
      "check that nothing writes to the working_dir meanwhile, and the store's size limit");
}

std::vector<std::string> fields_to_make(const Plan& plan) {
  std::vector<std::string> names;
  for (const Field& field : plan.fields) {
    if (field.missing() && field.key) names.push_back(field.name);
  }
  return names;
}

bool asks_for_layers(const config::RuntimeEnv& env) {
  return env.image || env.working_dir || !env.py_modules.empty() || !env.java_jars.empty() ||
         env.packages || env.conda || !env.plugins.empty();
}

// Without a field nothing has to be looked up, and a daemon's client needs no store of its own.
Result<Plan> plan_for(const PlanRequest& request, Host& host) {
  if (!asks_for_layers(request.env)) return Plan();
  return installers::make_plan(request, *TRY(host.own()), host);
}

// What `rtlaunch env ls` shows. Bytecode that was added meanwhile belongs to it.
Status remember(const PlanRequest& request, const Plan& plan, Host& host) {
  if (plan.layers().empty()) return {};
  bool same = plan.known && plan.known->layers == plan.layers();
  if (!same) return host.remember(plan.id(), environment_record(request, plan));
  host.touch(plan.id());
  return {};
}

std::string plural(uint64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

void show_timings(Running& running, int64_t planned, Report& report) {
  std::string text = "plan " + human_seconds(planned);
  for (const auto& step : running.steps())
    text += ", " + step.name + " " + human_seconds(step.microseconds);
  report.note("timings", text);
}

// What was wanted and couldn't be had is said with the timings, and all of it to programs.
void show_controls(Running& running, const RunOptions& options, Report& report) {
  if (!options.json && !options.timings) return;
  std::string applied, lacking;
  for (const isolation::Applied& one : running.applied()) {
    std::string name = isolation::control_name(one.control);
    std::string& list = one.applied ? applied : lacking;
    list += (list.empty() ? "" : ", ") + name + (one.applied ? "" : " (" + one.why + ")");
  }
  report.note("controls", "profile " + running.profile() + "; applied: " + applied +
                              (lacking.empty() ? "" : "; not: " + lacking));
}

void tell_limit(const Running& running, int status, Report& report) {
  if (running.met().empty() || status == 0) return;
  report.note("limit", std::string("command ") + (WIFSIGNALED(status) ? "was killed" : "ended") +
                           ": " + running.met());
}

// To places that the profile's network doesn't lead to.
void tell_refused(const Running& running, Report& report) {
  uint64_t refused = running.refused().value_or(0);
  if (refused > 0) report.note("network", plural(refused, "packet") + " refused");
}

bool wants_bytecode(const Plan& plan) {
  return std::any_of(plan.fields.begin(), plan.fields.end(), [](const Field& field) {
    return field.record && field.is_packages() && installers::lacks_bytecode(*field.record);
  });
}

std::string program_of(const std::vector<std::string>& command) { return sys::leaf_of(command[0]); }

Result<Launch> launch_of(const Plan& plan, const RunOptions& options, const Shape& shape,
                         const PlanRequest& request, const Host& host) {
  Launch launch;
  launch.spec = TRY(worker_spec(options, shape, request, plan, host.store(), host.hidden()));
  launch.asked = options.asked;
  launch.shape = shape.key();
  launch.layers = plan.layers();
  if (!launch.layers.empty()) launch.environment = plan.id();
  launch.name = program_of(launch.spec.argv);
  return launch;
}

// A command that runs, and what its end needs to know.
struct Started {
  std::unique_ptr<Running> running;   // none: a layer has gone
  std::vector<std::string> own_dirs;  // mount points in the upper: not what the command wrote
  bool cold = false, lacks_bytecode = false;
  int64_t planned = 0;           // when planning, or making, had ended
  std::optional<Zygote> zygote;  // is wanted for the next of its kind
  isolation::Spec spec;          // with `zygote`
};

// By the zygote of its kind, past the host; else nothing, and no zygote where none could ever do.
std::unique_ptr<Running> start_from(std::optional<Zygote>& zygote, const Launch& launch,
                                    Host& host) {
  auto past = host.start_past(launch);
  bool can = past && Zygote::can_give(past->spec);
  pid_t pid1 = 0;
  std::unique_ptr<Running> running;
  if (can) {
    Zygote::Held held{past->leases, past->record.get(), past->profile};
    running = zygote->ask(past->spec, held, &pid1);
  }
  std::string lacking = running ? lacking_of(running->applied()) : "";
  if (past) host.started_past(*past, running ? pid1 : 0, lacking);
  if (!can) zygote.reset();
  return running;
}

Result<std::unique_ptr<Running>> start_launch(Launch launch, const RunOptions& options,
                                              Started& started, Host& host) {
  if (options.zygote) started.zygote = Zygote::of(launch.spec, /*bare=*/false);
  if (started.zygote) {
    auto running = start_from(started.zygote, launch, host);
    if (running) return running;
    started.spec = launch.spec;
  }
  return host.start(std::move(launch));
}

Result<Started> start_planned(const Plan& plan, const RunOptions& options, Shape& shape,
                              const PlanRequest& request, const Attendant& attendant, Host& host) {
  Started started;
  started.planned = now_microseconds();
  for (int attempt = 1;; ++attempt) {
    Launch launch = TRY(launch_of(plan, options, shape, request, host));
    for (const isolation::Overlay& overlay : launch.spec.overlays) {
      if (overlay.report) started.own_dirs = overlay.mkdirs;
    }
    attendant.connect(launch.spec);
    auto running = start_launch(std::move(launch), options, started, host);
    bool other_shape = !running && running.error().code == EREMCHG && attempt < kAttempts;
    if (!other_shape) {
      started.running = TRY(std::move(running));
      started.lacks_bytecode = wants_bytecode(plan);  // while the command runs
      return started;
    }
    shape = TRY(host.shape(options.asked, true));
  }
}

// A record may name a layer that is gone: whoever makes a field looks at that, too.
Status mend(const Plan& plan, const PlanRequest& request, Host& host, Report& report) {
  for (const Field& field : plan.fields) {
    if (field.key) TRY(host.make({field.name}, request, report));
  }
  return {};
}

Result<Started> start_ready(const RunOptions& options, Shape& shape, const PlanRequest& request,
                            const Attendant& attendant, Host& host, Report& report) {
  bool cold = false;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Ready ready = TRY(make_ready(request, host, report));
    cold |= ready.cold;
    report.clear();
    TRY(remember(request, ready.plan, host));
    Started started = TRY(start_planned(ready.plan, options, shape, request, attendant, host));
    started.cold = cold;
    if (started.running) return started;
    if (host.assumed_wrongly()) continue;
    cold = true;
    TRY(mend(ready.plan, request, host, report));
  }
  return never_ready();
}

Status account_for_written(const RunOptions& options, const Started& started, Report& report) {
  int upper = started.running->upper_dir();
  if (upper < 0) return {};
  if (!options.keep.empty()) {
    Written kept = TRY(keep_written(upper, started.own_dirs, options.keep));
    report.note("kept", plural(kept.files, "file") + " (" + human_bytes(kept.bytes) + ") kept in " +
                            options.keep);
    return {};
  }
  Written dropped = TRY(count_written(upper, started.own_dirs));
  if (dropped.files == 0 && dropped.deleted == 0) return {};
  std::string text = plural(dropped.files, "file") + " (" + human_bytes(dropped.bytes) +
                     ") written in the working directory dropped; --keep DIR saves them";
  report.note("dropped", text);
  return {};
}

// An environment, and the command in it.
struct Executed {
  Host::Found found;
  Plan plan;
  Started started;
};
Result<Executed> start_found(const RunOptions& options, Shape& shape, const PlanRequest& request,
                             const Attendant& attendant, Host& host) {
  Executed executed;
  do {
    executed.found = TRY(host.environment(options.environment));
    executed.plan = TRY(plan_of(executed.found.record));
    executed.started = TRY(start_planned(executed.plan, options, shape, request, attendant, host));
  } while (!executed.started.running && host.assumed_wrongly());
  return executed;
}

Error not_whole(const std::string& environment) {
  return Error{"exec",
               ESTALE,
               environment,
               "a layer of this environment was collected",
               "make it again: rtlaunch env create, with --name to keep it",
               125};
}

// Bytecode that was made since this environment was remembered: the next `exec` has it.
Status add_bytecode(const Host::Found& found, Plan plan, Host& host) {
  auto records = TRY(host.lookup(keys_of(plan)));
  auto record = records.begin();
  for (Field& field : plan.fields) {
    if (field.in_place()) continue;
    if (!*record) return {};
    field.record = std::move(*record++);
  }
  if (wants_bytecode(plan)) return {};
  TRY(host.remember(found.id, environment_record(found.record, plan)));
  return host.hold_again(found.id);
}

// Killed, we take the command with us, whoever started it.
Status take_on_death(const RunOptions& options) {
  if (!options.die_with_parent) return {};
  pid_t parent = ::getppid();
  TRY(sys::die_with_parent());
  if (::getppid() == parent) return {};
  return make_error("--die-with-parent", "", "the parent has gone already");
}

// Of a start through a daemon nothing has to be taken down in order: the end of this process, which
// somebody waits for, ends it all, and sooner.
void leave_to_the_end(std::unique_ptr<Host>& host, Started& started) {
  if (host->shares_terminal()) return;
  // Within reach: no leak, to who looks for one.
  [[maybe_unused]] static const void* volatile left[2];
  left[0] = started.running.release();
  left[1] = host.release();
}

int exit_status(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace

HostOptions host_options(const RunOptions& options) {
  return {options.socket, options.store, options.embedded};
}

Result<Ready> make_ready(const PlanRequest& request, Host& host, Report& report) {
  Ready ready;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    ready.plan = TRY(plan_for(request, host));
    if (ready.plan.complete()) return ready;
    ready.cold = true;
    TRY(host.make(fields_to_make(ready.plan), request, report));
  }
  return never_ready();
}

Result<int> run(const RunOptions& options, Report& report) {
  int64_t began = now_microseconds();
  TRY(take_on_death(options));
  Signals signals = TRY(Signals::block());
  std::unique_ptr<Host> host = TRY(choose_host(host_options(options), signals));
  PlanRequest request = TRY(read_request(options, *host));
  report.hide(request.env.env_vars);
  Shape shape = TRY(host->shape(options.asked, false));
  if (!options.zygote) host->expect_start();
  request.allowed = host->allowed();
  Attendant attendant = TRY(Attendant::prepare(host->shares_terminal(), signals));
  Started started = TRY(start_ready(options, shape, request, attendant, *host, report));
  int64_t running_since = now_microseconds();
  TRY(attendant.let_go_of_stdio());
  if (options.timings) show_timings(*started.running, started.planned - began, report);
  show_controls(*started.running, options, report);
  if (started.cold || started.lacks_bytecode) TRY(host->settle(request));
  int status = TRY(attendant.wait_for(*started.running));
  tell_limit(*started.running, status, report);
  tell_refused(*started.running, report);
  TRY(account_for_written(options, started, report));
  if (started.cold) {
    report.note("cold", "cold start: " + report.where_time_went() + ", launch " +
                            human_seconds(running_since - started.planned) + ", command " +
                            human_seconds(now_microseconds() - running_since));
  }
  host->ended();
  leave_to_the_end(host, started);
  return exit_status(status);
}

Result<int> exec(const RunOptions& options, Report& report) {
  int64_t began = now_microseconds();
  TRY(take_on_death(options));
  Signals signals = TRY(Signals::block());
  std::unique_ptr<Host> host = TRY(choose_host(host_options(options), signals));
  PlanRequest request = TRY(exec_request(options));
  report.hide(request.env.env_vars);
  Shape shape = TRY(host->shape(options.asked, false));
  if (!options.zygote) host->expect_start();
  Attendant attendant = TRY(Attendant::prepare(host->shares_terminal(), signals));
  Executed executed = TRY(start_found(options, shape, request, attendant, *host));
  Started& started = executed.started;
  if (!started.running) return not_whole(options.environment);
  TRY(attendant.let_go_of_stdio());
  if (options.timings) show_timings(*started.running, started.planned - began, report);
  show_controls(*started.running, options, report);
  if (started.lacks_bytecode)
    (void)add_bytecode(executed.found, std::move(executed.plan), *host).ok();
  if (started.zygote) started.zygote->start_soon(started.spec);
  int status = TRY(attendant.wait_for(*started.running));
  tell_limit(*started.running, status, report);
  tell_refused(*started.running, report);
  TRY(account_for_written(options, started, report));
  leave_to_the_end(host, started);
  return exit_status(status);
}

}  // namespace rtlaunch
