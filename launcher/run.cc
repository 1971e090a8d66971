#include "launcher/run.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <nlohmann/json.hpp>

#include "installers/plan.h"
#include "isolation/sandbox.h"
#include "isolation/sys/files.h"
#include "launcher/builder.h"
#include "launcher/signals.h"
#include "launcher/worker.h"
#include "launcher/written.h"

extern char** environ;

namespace rtlaunch {
namespace {

using installers::Field;
using installers::Plan;
using installers::PlanRequest;

// A layer can be collected between its making and its lease, a working_dir can change between two
// looks at it. More than this often in a row is no coincidence.
constexpr int kAttempts = 4;

installers::Environment caller_variables() {
  installers::Environment variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string text = *entry;
    if (size_t equals = text.find('='); equals != std::string::npos && equals > 0) {
      variables[text.substr(0, equals)] = text.substr(equals + 1);
    }
  }
  return variables;
}

Result<std::string> caller_cwd() {
  char buffer[PATH_MAX];
  if (::getcwd(buffer, sizeof buffer) == nullptr) return sys_error("getcwd", "current directory");
  return std::string(buffer);
}

// --runtime-env is JSON if it begins like an object, else a file's name.
Result<config::RuntimeEnv> read_runtime_env(const std::string& option, const std::string& cwd) {
  if (option.empty()) return config::RuntimeEnv();
  size_t first = option.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && (option[first] == '{' || option[first] == '[')) {
    return config::parse_runtime_env(option, "--runtime-env", cwd);
  }
  auto text = sys::read_file(option, 16 << 20);
  if (!text) {
    text.error().step = "--runtime-env";
    text.error().cure = "give the name of a JSON file, or the JSON itself";
    return text.error();
  }
  return config::parse_runtime_env(*text, option, cwd);
}

Status add_requirements(const std::vector<std::string>& lines, const std::string& cwd,
                        config::RuntimeEnv& env) {
  if (lines.empty()) return {};
  if (!env.packages) env.packages.emplace();
  for (const std::string& line : lines) {
    size_t file = line.rfind("-r", 0) == 0 ? line.find_first_not_of(" =", 2) : std::string::npos;
    if (file == std::string::npos) {
      env.packages->lines.push_back(line);
      continue;
    }
    for (std::string& read :
         TRY(config::read_requirements(sys::absolute_path(line.substr(file), cwd)))) {
      env.packages->lines.push_back(std::move(read));
    }
  }
  return {};
}

void add_variables(const std::vector<std::pair<std::string, std::string>>& added,
                   config::RuntimeEnv& env) {
  for (const auto& [name, value] : added) {
    auto same = [&, &key = name](const auto& entry) { return entry.first == key; };
    auto& variables = env.env_vars;
    variables.erase(std::remove_if(variables.begin(), variables.end(), same), variables.end());
    variables.emplace_back(name, value);
  }
}

bool names_python(const std::string& command) {
  std::string name = command.substr(command.rfind('/') + 1);
  return name.rfind("python", 0) == 0 &&
         name.find_first_not_of("0123456789.", 6) == std::string::npos;
}

Result<PlanRequest> read_request(const RunOptions& options) {
  PlanRequest request;
  request.cwd = TRY(caller_cwd());
  request.variables = caller_variables();
  request.env = TRY(read_runtime_env(options.runtime_env, request.cwd));
  if (options.working_dir) request.env.working_dir = options.working_dir;
  TRY(add_requirements(options.pip, request.cwd, request.env));
  add_variables(options.env, request.env);
  // `run -- python3.9 main.py` means packages for that Python.
  request.python = options.python;
  if (request.python.empty() && names_python(options.command[0]))
    request.python = options.command[0];
  request.tools = TRY(tools_folder());
  request.allow_conflicts = options.allow_conflicts;
  return request;
}

std::vector<std::string> fields_to_make(const Plan& plan) {
  std::vector<std::string> names;
  for (const Field& field : plan.fields) {
    if (field.missing() && field.key) names.push_back(field.name);
  }
  return names;
}

struct Ready {
  Plan plan;
  std::vector<store::Lease> leases;
  bool cold = false;
};

// A layer that is named by a record but gone: the record is worth nothing.
Status forget_stale(const Plan& plan, store::Store& store) {
  for (const Field& field : plan.fields) {
    if (!field.record || TRY(store.acquire_all(field.record->layers))) continue;
    TRY(store.forget(*field.key));
  }
  return {};
}

Result<Ready> make_ready(const PlanRequest& request, store::Store& store, Signals& signals,
                         Report& report) {
  Ready ready;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    ready.plan = TRY(installers::make_plan(request, store));
    if (ready.plan.complete()) {
      auto leases = TRY(store.acquire_all(ready.plan.layers()));
      if (leases) {
        ready.leases = std::move(*leases);
        return ready;
      }
      TRY(forget_stale(ready.plan, store));
      continue;
    }
    ready.cold = true;
    TRY(build_fields(fields_to_make(ready.plan), request, store.path(), signals, report));
  }
  return make_error(
      "run", "layers", "they change or vanish faster than they are made",
      "check that nothing writes to the working_dir meanwhile, and the store's size limit");
}

// What `rtlaunch env ls` shows. Values of variables are nobody's business here.
std::string describe(const PlanRequest& request, const Plan& plan) {
  nlohmann::ordered_json fields = nlohmann::ordered_json::object();
  for (const Field& field : plan.fields) {
    nlohmann::ordered_json entry = {{"key", field.key ? field.key->hex : ""}};
    if (field.source) entry["source"] = field.source->shown;
    fields[field.name] = entry;
  }
  nlohmann::ordered_json names = nlohmann::ordered_json::array();
  for (const auto& [name, value] : request.env.env_vars) names.push_back(name);
  nlohmann::ordered_json json = {{"fields", fields}, {"env_vars", names}};
  if (plan.python) json["python"] = plan.python->executable;
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string environment_name(const Plan& plan) {
  std::string name;
  for (const Field& field : plan.fields) {
    name += (name.empty() ? "" : " + ") + (field.record ? field.record->name : field.source->shown);
  }
  return name;
}

Status remember(const PlanRequest& request, const Plan& plan, store::Store& store) {
  if (plan.layers().empty() || store.read_only()) return {};
  store::Key id = plan.id();
  if (TRY(store.lookup(id))) {
    store.touch(id);
    return {};
  }
  return store.record(id, {"env", environment_name(plan), plan.layers(), describe(request, plan)});
}

Result<int> wait_for(isolation::Sandbox& sandbox, Signals& signals) {
  while (true) {
    struct pollfd polls[2] = {{signals.fd(), POLLIN, 0}, {sandbox.done_fd(), POLLIN, 0}};
    if (::poll(polls, 2, -1) < 0 && errno != EINTR) return sys_error("poll", "");
    while (auto caught = signals.next()) {
      if (!caught->from_terminal && caught->number != SIGPIPE) (void)sandbox.send(caught->number);
    }
    if (polls[1].revents != 0) return sandbox.wait();
  }
}

// The command has its own copies of stdin and stdout. Ours would keep a pipe open after the command
// has closed it; a terminal is kept, to be taken back at the end.
Status let_go_of_stdio() {
  UniqueFd null = TRY(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
  for (int fd : {STDIN_FILENO, STDOUT_FILENO}) {
    if (!::isatty(fd) && ::dup2(null.get(), fd) < 0) return sys_error("dup2", "/dev/null");
  }
  return {};
}

// A shell with job control makes its own group the terminal's foreground, and that group is gone
// now: the terminal comes back to us, as it would to the shell that had started it.
class Terminal {
 public:
  Terminal() : group_(::tcgetpgrp(STDIN_FILENO)) {}
  ~Terminal() {
    if (group_ <= 0 || group_ != ::getpgrp()) return;
    sigset_t stop, before;
    ::sigemptyset(&stop);
    ::sigaddset(&stop, SIGTTOU);
    ::sigprocmask(SIG_BLOCK, &stop, &before);
    ::tcsetpgrp(STDIN_FILENO, group_);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
  }

 private:
  pid_t group_;
};

std::string plural(uint64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

Status account_for_written(const RunOptions& options, const isolation::Spec& spec,
                           const isolation::Sandbox& sandbox, Report& report) {
  if (sandbox.upper_dir() < 0) return {};
  std::vector<std::string> skip;
  for (const isolation::Overlay& overlay : spec.overlays) {
    if (overlay.report) skip = overlay.mkdirs;
  }
  if (!options.keep.empty()) {
    Written kept = TRY(keep_written(sandbox.upper_dir(), skip, options.keep));
    report.note("kept", plural(kept.files, "file") + " (" + human_bytes(kept.bytes) + ") kept in " +
                            options.keep);
    return {};
  }
  Written dropped = TRY(count_written(sandbox.upper_dir(), skip));
  if (dropped.files == 0 && dropped.deleted == 0) return {};
  std::string text = plural(dropped.files, "file") + " (" + human_bytes(dropped.bytes) +
                     ") written in the working directory dropped; --keep DIR saves them";
  report.note("dropped", text);
  return {};
}

void show_timings(const isolation::Sandbox& sandbox, int64_t planned, Report& report) {
  std::string text = "plan " + human_seconds(planned);
  for (const auto& step : sandbox.steps())
    text += ", " + step.name + " " + human_seconds(step.microseconds);
  report.note("timings", text);
}

Result<isolation::Sandbox> launch(const RunOptions& options, const PlanRequest& request,
                                  const Ready& ready, const store::Store& store,
                                  isolation::Spec& spec) {
  spec = TRY(worker_spec(options, request, ready.plan, store));
  for (const store::Lease& lease : ready.leases) spec.leases.push_back(lease.fd.get());
  return isolation::start(spec);
}

bool wants_bytecode(const Plan& plan) {
  const Field* packages = plan.find("pip") != nullptr ? plan.find("pip") : plan.find("uv");
  return packages != nullptr && packages->record && installers::lacks_bytecode(*packages->record);
}

}  // namespace

Result<int> run(const RunOptions& options, Report& report) {
  int64_t began = now_microseconds();
  Signals signals = TRY(Signals::block());
  PlanRequest request = TRY(read_request(options));
  report.hide(request.env.env_vars);
  std::string path = TRY(store_path(options.store));
  store::Store store = TRY(store::Store::open(path, true));
  Ready ready = TRY(make_ready(request, store, signals, report));
  report.clear();
  TRY(remember(request, ready.plan, store));
  Terminal terminal;
  isolation::Spec spec;
  int64_t planned = now_microseconds();
  isolation::Sandbox sandbox = TRY(launch(options, request, ready, store, spec));
  int64_t started = now_microseconds();
  TRY(let_go_of_stdio());
  if (options.timings) show_timings(sandbox, planned - began, report);
  Background background;
  bool unsettled = !store.read_only() && (ready.cold || wants_bytecode(ready.plan));
  if (unsettled) background = TRY(Background::start(request, store.path()));
  int status = TRY(wait_for(sandbox, signals));
  TRY(account_for_written(options, spec, sandbox, report));
  if (ready.cold) {
    report.note("cold", "cold start: " + report.where_time_went() + ", launch " +
                            human_seconds(started - planned) + ", command " +
                            human_seconds(now_microseconds() - started));
  }
  background.release();
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace rtlaunch
