#include "launcher/ray/environments.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "installers/plugin.h"
#include "installers/python.h"
#include "installers/source.h"
#include "installers/uv_run.h"
#include "isolation/sys/files.h"
#include "launcher/ray/context.h"
#include "launcher/ray/failure.h"
#include "launcher/ray/setup_words.h"
#include "launcher/report.h"

namespace rtlaunch::ray {
namespace {

constexpr const char* kNotCounted = "client_server";
constexpr auto kForEver = std::chrono::hours(24 * 365);

bool counts(const std::string& source) { return source != kNotCounted; }

Clock::time_point deadline_of(const std::optional<seconds>& limit) {
  return limit ? Clock::now() + *limit : Clock::time_point::max();
}

Error late_or(const Error& error, const std::optional<seconds>& limit) {
  return error.code == kTimeIsUp && limit ? too_late(*limit, error.object) : error;
}

}  // namespace

struct Environments::Entry {
  explicit Entry(asio::io_context& io) : bell(io) {}

  enum class State { kNew, kMaking, kMade, kFailed } state = State::kNew;
  int64_t uses = 0;
  std::string text;  // the context, or the error
  int64_t creation_ms = 0;
  Clock::time_point forget_failure_at;
  bool passes = false;    // the failure: it is shown, and the next who asks has it tried again
  std::vector<Uri> uris;  // of what was made
  std::string id;         // of its layers; "": none
  bool uses_uris = false;
  bool plugged = false;       // plugins of Ray's had a hand in it
  bool every_worker = false;  // it was made, or refused, where each worker is shut in
  bool word_counts = true;    // and would be another one where they aren't
  std::string hold;           // "": none
  Bell bell;                  // when making has ended
};

Environments::Environments(asio::io_context& io, const AgentOptions& options, const Knobs& knobs,
                           Maker& maker, Executables& executables, Images& images, Drivers& drivers,
                           EarlyZygotes& early_zygotes, Bridge& bridge, std::string rtlaunch,
                           EveryWorker& every_worker, Log log)
    : io_(io),
      options_(options),
      knobs_(knobs),
      maker_(maker),
      executables_(executables),
      images_(images),
      drivers_(drivers),
      early_zygotes_(early_zygotes),
      bridge_(bridge),
      rtlaunch_(std::move(rtlaunch)),
      every_worker_(every_worker),
      variables_(installers::own_environment()),
      plugin_folders_(installers::plugin_folders(variables_)),
      log_(std::move(log)),
      uris_([this](const std::string& field) { return knobs_.cache_bytes(field); }) {}

Environments::~Environments() = default;

Environments::EntryPtr Environments::entry_of(const std::string& env) {
  EntryPtr& entry = entries_[env];
  if (!entry) entry = std::make_shared<Entry>(io_);
  return entry;
}

void Environments::count_use(Entry& entry, const std::string& source) {
  if (counts(source)) ++entry.uses;
  if (entry.uses == 0 || entry.uses_uris || entry.state != Entry::State::kMade) return;
  for (const Uri& uri : entry.uris) uris_.use(uri);
  entry.uses_uris = true;
}

void Environments::take_back(Entry& entry, const std::string& source) {
  if (counts(source) && entry.uses > 0) --entry.uses;
  if (entry.uses > 0 || !entry.uses_uris) return;
  for (const Uri& uri : entry.uris) uris_.unuse(uri);
  entry.uses_uris = false;
}

// After a change: what nobody uses may have to go.
void Environments::settle(const std::string& env, Entry& entry) {
  if (entry.uses > 0 || entry.state == Entry::State::kMaking) return;
  bool forgettable =
      entry.state == Entry::State::kNew ||
      (entry.state == Entry::State::kMade && (entry.uris.empty() || entry.plugged)) ||
      (entry.state == Entry::State::kFailed && entry.forget_failure_at < Clock::now());
  if (forgettable && entry.plugged) {
    drop(env, entry);
  } else if (forgettable) {
    entries_.erase(env);
  }
  forget_unused();
}

void Environments::forget_unused() {
  for (const std::string& field : uris_.fields()) {
    // Some setup of Ray's plugins may be about to use them.
    if (bridge_.serves(field) && !bridge_.idle()) continue;
    for (const Uri& gone : uris_.take_excess(field)) forget_with(gone);
  }
}

// Its directory, and the unused environments that have it.
void Environments::forget_with(const Uri& gone) {
  if (bridge_.serves(gone.field)) bridge_.remove(gone);
  std::string folder = options_.runtime_env_dir + "/" + gone.directory;
  if (copied_.erase(gone.directory) > 0) {
    spawn(io_, maker_.remove_folder(folder));
  } else if (!gone.directory.empty()) {
    ::rmdir(folder.c_str());
  }
  std::vector<std::string> theirs;
  for (const auto& [env, entry] : entries_) {
    bool has = std::count(entry->uris.begin(), entry->uris.end(), gone) > 0;
    if (has && entry->uses == 0 && entry->state == Entry::State::kMade) theirs.push_back(env);
  }
  for (const std::string& env : theirs) drop(env, *entries_[env]);
  log_(LogLevel::kInfo, words_of_removal(gone));
}

awaitable<void> release(Maker& maker, std::string hold) {
  (void)(co_await maker.release(std::move(hold))).ok();  // else it expires
}

void Environments::drop(const std::string& env, Entry& entry) {
  if (!entry.hold.empty()) spawn(io_, release(maker_, entry.hold));
  entries_.erase(env);
}

bool Environments::is_out_of_date(const Entry& entry) {
  if (!entry.word_counts) return false;
  auto by = every_worker_.by();
  return !by || by->empty() == entry.every_worker;
}

std::optional<GetAnswer> Environments::get_known(const GetRequest& request) {
  auto found = entries_.find(request.env);
  if (found == entries_.end()) return std::nullopt;
  Entry& entry = *found->second;
  if (is_out_of_date(entry)) return std::nullopt;
  bool fails = entry.state == Entry::State::kFailed && !entry.passes;
  if (fails && Clock::now() < entry.forget_failure_at) return known_failure(entry, request);
  if (entry.state != Entry::State::kMade) return std::nullopt;
  bool again = entry.uses == 0;
  count_use(entry, request.source);
  again ? tell_used_again(entry, request) : tell_known(request);
  return GetAnswer{true, entry.text};
}

// Ray's words: what stays for the next job is made anew to its log, with nothing to do, and each
// further worker is a line in the agent's, which drivers are shown if they asked for it.
void Environments::tell_used_again(const Entry& entry, const GetRequest& request) {
  SetupLog log = setup_log(request);
  log_(LogLevel::kInfo, "Creating runtime env: " + fields_of(request.env));
  for (const Uri& uri : entry.uris) {
    log.info(words_before(uri, true, knobs_.python));
    log.info(words_after(uri, true));
  }
  log_(LogLevel::kInfo, "Successfully created runtime env: " + fields_of(request.env));
}

void Environments::tell_known(const GetRequest& request) {
  log_(LogLevel::kInfo, "Runtime env already created successfully. Env: " + fields_of(request.env));
}

GetAnswer Environments::known_failure(const Entry& entry, const GetRequest& request) {
  log_(LogLevel::kInfo, "Runtime env already failed. Env: " + fields_of(request.env));
  return {false, on_node(options_.node_ip, entry.text)};
}

SetupLog Environments::setup_log(const GetRequest& request) const {
  return SetupLog(options_.log_dir, {options_.rotate_bytes, options_.rotate_count}, request.job,
                  request.log_files);
}

awaitable<GetAnswer> Environments::get(GetRequest request) {
  if (auto known = get_known(request)) co_return *known;
  EntryPtr entry = entry_of(request.env);
  count_use(*entry, request.source);
  if (entry->state == Entry::State::kMaking) {
    while (entry->state == Entry::State::kMaking) co_await entry->bell.wait(kForEver);
    if (entry->state == Entry::State::kMade) tell_known(request);
  } else {
    entry->state = Entry::State::kMaking;
    co_await make(entry, request);
    entry->bell.ring();
  }
  GetAnswer answer{entry->state == Entry::State::kMade, entry->text};
  if (!answer.ok) {
    answer.text = on_node(options_.node_ip, entry->text);
    take_back(*entry, request.source);
  }
  settle(request.env, *entry);
  co_return answer;
}

awaitable<void> Environments::make(EntryPtr entry, GetRequest request) {
  SetupLog log = setup_log(request);
  log_(LogLevel::kInfo, "Creating runtime env: " + fields_of(request.env));
  auto began = Clock::now();
  if (knobs_.sleep_first > seconds(0)) co_await sleep_for(io_, knobs_.sleep_first);
  Status made = co_await try_make(*entry, request, log);
  auto took = std::chrono::duration_cast<milliseconds>(Clock::now() - began);
  entry->creation_ms = took.count();
  if (made) {
    entry->state = Entry::State::kMade;
    for (const Uri& uri : entry->uris) log.info(words_after(uri, uris_.knows(uri)));
    count_use(*entry, kNotCounted);
    if (!entry->id.empty()) spawn(io_, measure(entry->uris, entry->id));
    log_(LogLevel::kInfo, "Successfully created runtime env: " + fields_of(request.env));
    log.info("runtime_env is ready after " + human_seconds(took.count() * 1000));
    co_return;
  }
  entry->passes = may_pass(made.error());
  entry->state = Entry::State::kFailed;
  entry->text = failure_text(made.error());
  entry->forget_failure_at = Clock::now() + knobs_.failed_for;
  log.write(LogLevel::kError, on_node(options_.node_ip, entry->text));
  log_(LogLevel::kError, "job " + request.job + ": " + entry->text);
}

awaitable<Status> Environments::try_make(Entry& entry, const GetRequest& request, SetupLog& log) {
  auto by = every_worker_.by();
  if (!by) co_return by.error();
  entry.every_worker = !by->empty();
  entry.word_counts = true;
  auto env = read_ray_env(request.env, installers::plugin_names(plugin_folders_));
  if (!env) co_return env.error();
  auto deadline = deadline_of(request.limit);
  std::set<std::string> plugins;
  Status found = co_await find_plugins(*env, &plugins, deadline, log);
  if (!found) co_return late_or(found.error(), request.limit);
  Status goes = check_image(*env, !plugins.empty());
  if (!goes) co_return goes;
  if (env->makes_conda) {
    auto with_ray = co_await executables_.with_ray(env->runtime_env, deadline);
    if (!with_ray) co_return late_or(with_ray.error(), request.limit);
    env->runtime_env = *with_ray;
  }
  // Before one is tried, with variables of the user's and outside of any sandbox.
  Status can = check_can_run(*env, RunBy{{}, {}, {}, !env->profilers.empty()}, entry.every_worker);
  if (!can) co_return can;
  auto run_by = co_await executables_.prepare(*env, deadline);
  if (!run_by) co_return late_or(run_by.error(), request.limit);
  Status there = plugins.empty() ? check_is_there(*env, *run_by) : Status();
  if (!there) co_return there;
  std::optional<UvRun> uv_run;
  if (run_by->forks && plugins.empty() && may_be_a_layer(*env, variables_))
    uv_run = understand_uv_run(*run_by->py_executable);
  can = uv_run ? Status() : check_can_run(*env, *run_by, entry.every_worker);
  if (!can) co_return can;
  ContextRequest context{*env,
                         *run_by,
                         "",
                         options_.runtime_env_dir,
                         options_.session_dir,
                         rtlaunch_,
                         knobs_.node.where(),
                         knobs_.pythonpath,
                         knobs_.path,
                         knobs_.python,
                         entry.every_worker,
                         run_by->forks,
                         knobs_.zygotes};
  if (!env->runtime_env.empty()) {
    if (entry.hold.empty()) {
      entry.hold = "ray-" + options_.node_id.substr(0, 16) + "-" + std::to_string(++holds_);
    }
    for (const Uri& uri : env->uris) {
      log.info(words_before(uri, uris_.knows(uri), knobs_.python));
    }
    if (gives_time_for_a_zygote(*env, *run_by)) early_zygotes_.start(request.job);
    auto layers = co_await make_layers(*env, entry.hold, deadline, log);
    if (!layers) co_return late_or(layers.error(), request.limit);
    context.id = layers->id;
    drivers_.warn(request.job, layers->warnings);
  }
  InImage in_image;
  if (env->has_image()) {
    auto looked = co_await images_.look(*env, context.id, request.job, deadline);
    if (!looked) co_return late_or(looked.error(), request.limit);
    in_image = std::move(*looked);
    context.in_image = &in_image;
    if (!env->java_jars.empty() && !in_image.java) {
      std::string text = "the image has no `java`: no worker of Java can start in it";
      log.write(LogLevel::kWarning, text);
      drivers_.warn(request.job, {text});
    }
  }
  Status places = make_mount_points(*env);
  if (!places) co_return places;
  if (uv_run) {
    Status synced = co_await sync_once(entry, *uv_run, *env, *run_by, context, deadline, log);
    if (!synced) co_return late_or(synced.error(), request.limit);
  }
  bool looked_into = run_by->forks || (!plugins.empty() && env->working_dir);
  if (looked_into && !context.id.empty()) {
    Status copied = co_await copy_files(*env, context.id, deadline);
    if (!copied) co_return late_or(copied.error(), request.limit);
  }
  entry.uris = env->uris;
  entry.id = context.id;
  entry.plugged = !plugins.empty();
  if (!plugins.empty()) {
    Status plugged = co_await plug_in(entry, request, *env, context, *run_by, deadline, log);
    if (!plugged) co_return late_or(plugged.error(), request.limit);
  }
  auto text = make_context(context);
  if (!text) co_return text.error();
  entry.text = *text;
  entry.word_counts = context.plain || context.id.empty();
  co_return Status();
}

// Of the fields that are none of Ray's own: those of its plugins; of others there is a warning.
awaitable<Status> Environments::find_plugins(const RayEnv& env, std::set<std::string>* plugins,
                                             Clock::time_point deadline, SetupLog& log) {
  if (env.others.empty()) co_return Status();
  std::set<std::string> known;
  if (bridge_.has_plugins()) {
    auto names = co_await bridge_.names(deadline);
    if (!names) co_return names.error();
    known = *names;
  }
  for (const std::string& field : env.others) {
    if (known.contains(field)) {
      plugins->insert(field);
    } else {
      log.write(LogLevel::kWarning, not_recognized(field));
    }
  }
  co_return Status();
}

awaitable<Bridge::Done> Environments::run_plugins(Bridge::Setup setup, Clock::time_point deadline,
                                                  SetupLog& log) {
  for (int attempt = 1;; ++attempt) {
    Bridge::Done done = co_await bridge_.setup(setup, deadline, log);
    for (const auto& [uri, bytes] : done.uris) {  // one that nobody uses in the end may go
      uris_.use(uri);
      if (bytes > 0) uris_.set_bytes(uri, bytes);
      uris_.unuse(uri);
    }
    bool again = done.error && done.again && attempt < knobs_.attempts &&
                 Clock::now() + knobs_.retry_after < deadline;
    if (!again) co_return done;
    log.write(LogLevel::kWarning, done.error->message() + ": it is tried again");
    co_await sleep_for(io_, knobs_.retry_after);
  }
}

// Another py_executable of theirs is looked at like one that the user wrote.
awaitable<Status> Environments::plug_in(Entry& entry, const GetRequest& request, RayEnv env,
                                        ContextRequest& context, RunBy& run_by,
                                        Clock::time_point deadline, SetupLog& log) {
  Bridge::Setup setup{request.env, context_for_plugins(context), ""};
  if (env.working_dir) setup.working_dir = place_of_working_dir(env, options_.runtime_env_dir);
  Bridge::Done done = co_await run_plugins(std::move(setup), deadline, log);
  if (done.error) co_return *done.error;
  for (const auto& [uri, bytes] : done.uris) entry.uris.push_back(uri);
  context.changed = done.context;
  auto executable = py_executable_in(done.context);
  if (executable == run_by.py_executable) co_return Status();
  RayEnv theirs;
  theirs.py_executable = executable;
  theirs.uris = env.uris;
  theirs.image_field = env.image_field;
  theirs.has_plugins = env.has_plugins;
  auto changed = co_await executables_.prepare(theirs, deadline);
  if (!changed) co_return changed.error();
  run_by.py_executable = changed->py_executable;
  run_by.forks = changed->forks;
  context.plain = run_by.forks;
  co_return check_can_run(theirs, run_by, entry.every_worker);
}

// An image has its own environments; and to a plugin of Ray's, which runs on the host, its Python
// and the files of a working_dir that only workers see are nothing that it could use.
Status Environments::check_image(const RayEnv& env, bool has_plugins) {
  if (!env.has_image()) return {};
  if (env.conda || env.makes_conda) {
    return make_error("conda", env.image_field,
                      "a conda environment can't be put into an image yet",
                      "leave one of them out");
  }
  if (!has_plugins || !env.working_dir) return {};
  return make_error(env.image_field, "working_dir",
                    "with a plugin of Ray's an image can't have one",
                    "leave the plugin's field or working_dir out");
}

// Of a Python that can't come with a layer or an image: else each start of a worker fails, and the
// task waits for ever.
Status Environments::check_is_there(const RayEnv& env, const RunBy& run_by) {
  bool of_node = env.py_executable && env.runtime_env.empty() && !env.has_image();
  if (!of_node || run_by.forks || !env.py_executable->starts_with("/")) return {};
  std::string path = env.py_executable->substr(0, env.py_executable->find(' '));
  if (::access(path.c_str(), X_OK) == 0) return {};
  return make_error("runtime_env", "py_executable", path + " isn't on this node, or no program",
                    "install it on every node, or correct the path");
}

// What starts Python as its child isn't shut in (executable.h): its files are copies then, and
// packages, which are mounted, can't be had.
Status Environments::check_can_run(const RayEnv& env, const RunBy& run_by, bool every_worker) {
  if (!run_by.forks) return {};
  const std::string& by = env.profilers.empty() ? "py_executable" : env.profilers.back().field;
  const char* cure = "let py_executable be Python itself, with or without options, or leave it out";
  if (every_worker) {
    return make_error("runtime_env", by,
                      "it starts Python as its child, and this node shuts in every worker", cure);
  }
  if (!env.has_packages() && !env.has_plugins && !env.has_image()) return {};
  std::string with = env.has_image()   ? "an image"
                     : env.has_plugins ? "a plugin"
                                       : "pip, uv or conda";
  return make_error("runtime_env", by,
                    "it starts Python as its child; with " + with + " that can't be", cure);
}

awaitable<Status> Environments::copy_files(const RayEnv& env, std::string id,
                                           Clock::time_point deadline) {
  std::vector<Maker::Copy> copies;
  std::string scratch = options_.runtime_env_dir + "/.copy-" + std::to_string(++holds_);
  std::vector<Uri> uris = env.uris;  // as the environment has them: jars behind modules
  std::stable_partition(uris.begin(), uris.end(),
                        [](const Uri& uri) { return uri.field != "java_jars"; });
  std::erase_if(uris, [](const Uri& uri) {  // of plugins and packages there are none
    return uri.field != "working_dir" && uri.field != "py_modules" && uri.field != "java_jars";
  });
  for (const Uri& uri : uris) {
    std::string option = uri.field == "working_dir" ? "--working-dir-at" : "--py-module-at";
    std::string folder = options_.runtime_env_dir + "/" + uri.directory;
    if (uri.directory.empty()) {  // used in place
      if (uri.field != "working_dir") copies.push_back({option, uri.uri.substr(8), ""});
      continue;
    }
    bool there = !copied_.insert(uri.directory).second;
    std::string place = scratch + "/" + std::to_string(copies.size());
    Status made = sys::make_dirs(place);
    if (!made) co_return made;
    copies.push_back({option, place, there ? "" : folder});
  }
  Status copied = co_await maker_.copy_out(std::move(id), copies, deadline);
  co_await maker_.remove_folder(scratch);
  if (!copied) {
    for (const Uri& uri : env.uris) copied_.erase(uri.directory);
  }
  co_return copied;
}

awaitable<Result<Maker::Made>> Environments::make_layers(const RayEnv& env, std::string hold,
                                                         Clock::time_point deadline,
                                                         SetupLog& log) {
  Maker::Order order{env.runtime_env, std::move(hold),
                     knobs_.allow_conflicts || env.allows_conflicts()};
  if (knobs_.fail_download) {
    for (const Uri& uri : env.uris) {
      if (uri.uri.rfind("gcs://", 0) == 0) co_return installers::package_gone(uri.uri);
    }
  }
  for (int attempt = 1;; ++attempt) {
    auto made = co_await maker_.make(order, deadline, log);
    if (made) co_return made;
    bool again = may_pass(made.error()) && attempt < knobs_.attempts &&
                 Clock::now() + knobs_.retry_after < deadline;
    if (!again) co_return made.error();
    log.write(LogLevel::kWarning, "this may pass: it is tried again");
    co_await sleep_for(io_, knobs_.retry_after);
  }
}

// What `uv run` would sync at each worker's start is a layer more, and Python is what starts: or
// all stays as it is.
awaitable<Status> Environments::sync_once(Entry& entry, const UvRun& run, RayEnv& env,
                                          RunBy& run_by, ContextRequest& context,
                                          Clock::time_point deadline, SetupLog& log) {
  std::string place = place_of_working_dir(env, options_.runtime_env_dir);
  auto answer = co_await maker_.ask(context.id, place, project_question(run), deadline);
  if (!answer) co_return answer.error();
  std::optional<UvProject> project;
  if (answer->status == 0) project = read_uv_project(run, answer->out);
  std::string files;
  if (project && !project->folders.empty()) {
    auto packed = co_await maker_.ask(context.id, place, files_question(*project), deadline);
    if (!packed) co_return packed.error();
    bool whole = packed->status == 0 && packed->out.size() <= kMostUvRunFiles;
    whole ? void(files = std::move(packed->out)) : project.reset();
  }
  if (!project) {
    log.info("uv run: no project whose lock could be a layer; each worker syncs by itself");
    co_return check_can_run(env, run_by, entry.every_worker);
  }
  std::string without = env.runtime_env;
  env.runtime_env = with_uv_run(without, uv_run_field(run, *project, files, place, variables_));
  auto layers = co_await make_layers(env, entry.hold, deadline, log);
  if (!layers && layers.error().reason.find(installers::kWritesIntoFolder) != std::string::npos) {
    log.info("uv run: " + layers.error().reason + "; each worker syncs by itself");
    env.runtime_env = without;
    co_return check_can_run(env, run_by, entry.every_worker);
  }
  if (!layers) co_return layers.error();
  context.id = layers->id;
  context.plain = context.zygotes = run_by.forks = false;
  run_by.py_executable = "python";
  co_return Status();
}

// Packages have to be fetched, and the workers' interpreter is Ray's.
bool Environments::gives_time_for_a_zygote(const RayEnv& env, const RunBy& run_by) const {
  bool has_one = knobs_.zygotes && !run_by.forks && !env.py_executable && !env.has_image() &&
                 !env.makes_conda && !env.conda;
  auto is_new = [this](const Uri& uri) {
    return (uri.field == "pip" || uri.field == "uv") && !uris_.knows(uri);
  };
  return has_one && std::any_of(env.uris.begin(), env.uris.end(), is_new);
}

// Beside everything else: nobody waits for it.
awaitable<void> Environments::measure(std::vector<Uri> uris, std::string id) {
  uint64_t bytes = co_await maker_.bytes_of(std::move(id));
  uris_.share_bytes(uris, bytes);
  forget_unused();
}

Status Environments::make_mount_points(const RayEnv& env) {
  for (const std::string& path : mount_points(env, options_.runtime_env_dir)) {
    TRY(sys::make_dirs(path));
  }
  return {};
}

Status Environments::remove(const std::string& env, const std::string& source) {
  if (!counts(source)) return {};
  auto found = entries_.find(env);
  if (found == entries_.end() || found->second->uses == 0) {
    return make_error("", "",
                      "Failed to decrement reference for runtime env for " + fields_of(env) +
                          " cannot decrement reference since the reference count is 0");
  }
  EntryPtr entry = found->second;
  take_back(*entry, source);
  settle(env, *entry);
  return {};
}

std::vector<EnvironmentState> Environments::states() const {
  std::vector<EnvironmentState> states;
  for (const auto& [env, entry] : entries_) {
    bool failed = entry->state == Entry::State::kFailed && Clock::now() < entry->forget_failure_at;
    if (entry->uses == 0 && !failed) continue;
    EnvironmentState state{env, entry->uses, std::nullopt, failed ? entry->text : "", std::nullopt};
    if (failed || entry->state == Entry::State::kMade) {
      state.made = !failed;
      state.creation_ms = entry->creation_ms;
    }
    states.push_back(std::move(state));
  }
  return states;
}

// A hold that can't be renewed because it isn't there: the layers may be gone, too.
awaitable<void> Environments::keep_holds() {
  for (;;) {
    co_await sleep_for(io_, knobs_.hold / 3);
    std::erase_if(entries_, [](const auto& one) {
      const Entry& entry = *one.second;
      return entry.uses == 0 && entry.state == Entry::State::kFailed &&
             entry.forget_failure_at < Clock::now();
    });
    std::vector<EntryPtr> held;
    for (const auto& [env, entry] : entries_) {
      if (entry->state == Entry::State::kMade && !entry->hold.empty()) held.push_back(entry);
    }
    for (const EntryPtr& entry : held) {
      Status renewed = co_await maker_.renew(entry->hold);
      if (renewed || may_pass(renewed.error())) continue;
      log_(LogLevel::kWarning, "hold " + entry->hold + " is lost: " + renewed.error().message());
      if (entry->state == Entry::State::kMade) entry->state = Entry::State::kNew;
    }
  }
}

}  // namespace rtlaunch::ray
