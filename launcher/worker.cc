#include "launcher/worker.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "config/controls.h"
#include "installers/conda.h"
#include "isolation/sys/files.h"
#include "launcher/raylet.h"

namespace rtlaunch {
namespace {

using installers::Environment;
using installers::Field;
using installers::Plan;
using installers::PlanRequest;
using isolation::Overlay;
using isolation::Spec;

bool is_directory(const std::string& path) {
  struct stat info;
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::string layer_path(const store::Digest& digest, const std::string& store) {
  return store + "/" + store::Store::layer_name(digest);
}

std::vector<std::string> layer_paths(const std::vector<store::Digest>& layers,
                                     const std::string& store) {
  std::vector<std::string> paths;
  for (const store::Digest& digest : layers) paths.push_back(layer_path(digest, store));
  return paths;
}

bool is_module(const Field& field) { return field.name.starts_with("py_modules["); }
bool is_jar(const Field& field) { return field.name.starts_with("java_jars["); }

// Where the fields are inside.
struct Places {
  std::string working_dir;           // "" when the env has none
  std::vector<std::string> modules;  // in the order of the fields
  std::vector<std::string> jars;     // the same
  std::string plugins;               // a folder each below
};

Error no_place(const std::string& option, const std::string& reason) {
  return make_error("command line", option, reason, "give a place for what is mounted, in order");
}

bool has_image(const Plan& plan) { return plan.find("image_uri") != nullptr; }

Result<std::string> working_dir_place(const RunOptions& options, const Plan& plan,
                                      const std::string& otherwise) {
  const Field* field = plan.find("working_dir");
  if (field == nullptr) {
    if (options.working_dir_at.empty()) return std::string();
    return no_place("--working-dir-at", "the environment has no working_dir");
  }
  if (field->in_place()) return field->source->path;
  if (!options.working_dir_at.empty()) return options.working_dir_at;
  bool own_place = field->source->kind == installers::Source::Kind::kDirectory && !has_image(plan);
  return own_place ? field->source->path : otherwise;
}

Result<Places> places_of(const RunOptions& options, bool shared, const Plan& plan,
                         const std::string& store) {
  bool image = has_image(plan);
  std::string modules = image ? kPyModulesInImage : shared ? store + kPyModulesInStore : kPyModules;
  std::string jars = image ? kJavaJarsInImage : shared ? store + kJavaJarsInStore : kJavaJars;
  Places places;
  places.plugins = image ? kPluginsInImage : shared ? store + kPluginsInStore : kPlugins;
  places.working_dir = TRY(working_dir_place(options, plan,
                                             image    ? kWorkingDirInImage
                                             : shared ? store + kWorkingDirInStore
                                                      : kWorkingDir));
  size_t number = 0;  // jars have their places behind the modules, as Ray's agent names them
  for (const Field& field : plan.fields) {
    if (!is_module(field) && !is_jar(field)) continue;
    std::vector<std::string>& list = is_jar(field) ? places.jars : places.modules;
    std::string place = (is_jar(field) ? jars : modules) + "/" + std::to_string(list.size());
    if (number < options.py_modules_at.size()) place = options.py_modules_at[number];
    list.push_back(field.in_place() ? field.source->path : place);
    ++number;
  }
  if (options.py_modules_at.empty() || options.py_modules_at.size() == number) return places;
  return no_place("--py-module-at", "there are " + std::to_string(options.py_modules_at.size()) +
                                        " for " + std::to_string(number) +
                                        " py_modules and java_jars");
}

// `/` is no mount point in a sandbox, and of /dev and /proc it has its own.
bool can_be_covered(const std::string& path) {
  return path != "/" && !sys::is_beneath(path, "/proc") &&
         (!sys::is_beneath(path, "/dev") || sys::is_beneath(path, "/dev/shm"));
}

// A directory of the host that may lie under a private one, /tmp say. What is writable is shown as
// such already.
void show(const std::string& path, Spec& spec) {
  if (!can_be_covered(path)) return;
  for (const std::string& writable : spec.writable) {
    if (sys::is_beneath(path, writable)) return;
  }
  spec.visible.push_back(path);
}

// The directory that the command is started from, unless it lies in what is mounted over it.
void show_cwd(const std::string& cwd, Spec& spec) {
  for (const Overlay& overlay : spec.overlays) {
    if (sys::is_beneath(cwd, overlay.target)) return;
  }
  show(cwd, spec);
}

void mount_working_dir(const RunOptions& options, bool shared, const Plan& plan,
                       const Places& places, const std::string& store, Spec& spec) {
  const Field* field = plan.find("working_dir");
  if (field == nullptr) return;
  if (field->in_place()) {
    spec.writable.push_back(places.working_dir);
    return;
  }
  Overlay overlay;
  overlay.target = places.working_dir;
  overlay.lowers = layer_paths(field->record->layers, store);
  overlay.writable = true;
  // Of each of Ray's workers a word about what it wrote would only be noise in the raylet's log.
  overlay.report = !shared || !options.keep.empty();
  overlay.owned = true;
  spec.overlays.push_back(std::move(overlay));
}

// In place of nothing, where its packages are for; what pip put on top of it belongs to the same
// stack.
Status mount_conda(const Plan& plan, const std::string& store, Spec& spec) {
  const Field* conda = plan.find("conda");
  if (conda == nullptr) return {};
  const Field* pip = plan.find("pip");
  for (const installers::PackagesMount& mount : TRY(installers::packages_mounts(*conda->record))) {
    Overlay overlay;
    overlay.target = mount.target;
    overlay.lowers = layer_paths(mount.layers, store);
    overlay.writable = true;
    auto above = pip == nullptr ? std::vector<installers::PackagesMount>()
                                : TRY(installers::packages_mounts(*pip->record));
    for (const installers::PackagesMount& one : above) {
      auto paths = layer_paths(one.layers, store);
      overlay.lowers.insert(overlay.lowers.begin(), paths.begin(), paths.end());
    }
    spec.overlays.push_back(std::move(overlay));
  }
  return {};
}

Status mount_packages(const Plan& plan, const std::string& store, Spec& spec) {
  if (plan.find("conda") != nullptr) return mount_conda(plan, store, spec);
  const Field* field = plan.find("pip") != nullptr ? plan.find("pip") : plan.find("uv");
  if (field == nullptr) return {};
  for (const installers::PackagesMount& mount : TRY(installers::packages_mounts(*field->record))) {
    Overlay overlay;
    overlay.target = mount.target;
    overlay.lowers = layer_paths(mount.layers, store);
    overlay.over_host = true;
    overlay.writable = true;
    spec.overlays.push_back(std::move(overlay));
  }
  return {};
}

void mount_modules(const Plan& plan, const Places& places, const std::string& store, Spec& spec) {
  auto module = places.modules.begin(), jar = places.jars.begin();
  for (const Field& field : plan.fields) {
    if (!is_module(field) && !is_jar(field)) continue;
    const std::string& target = is_jar(field) ? *jar++ : *module++;
    if (field.in_place()) {
      show(target, spec);
    } else {
      isolation::Bind bind{layer_path(field.record->layers.front(), store), target};
      bind.owned = true;
      spec.binds.push_back(std::move(bind));
    }
  }
}

// The image is the root. Of the host there is what names it in the network, and /sys to read.
void mount_image(const Plan& plan, const std::string& store, Spec& spec) {
  Overlay overlay;
  overlay.target = "/";
  // Packages for its own Python lie above it, in the same root.
  const Field* packages = plan.find("pip") != nullptr ? plan.find("pip") : plan.find("uv");
  if (packages != nullptr) overlay.lowers = layer_paths(packages->record->layers, store);
  for (std::string& layer : layer_paths(plan.find("image_uri")->record->layers, store)) {
    bool twice =
        std::find(overlay.lowers.begin(), overlay.lowers.end(), layer) != overlay.lowers.end();
    if (!twice) overlay.lowers.push_back(std::move(layer));
  }
  overlay.writable = true;
  overlay.owned = true;
  spec.overlays.push_back(std::move(overlay));
  for (const char* file : {"/etc/resolv.conf", "/etc/hosts", "/sys"}) {
    spec.binds.push_back({file, file, /*writable=*/false, /*optional=*/true});
  }
}

std::string place_of_plugin(const Field& field, const Places& places) {
  return places.plugins + "/" + field.name;
}

// Its layer, at its own place and at those that it has named; what it puts before the command.
Status mount_plugins(const Plan& plan, const Places& places, const std::string& store, Spec& spec) {
  std::vector<std::string> prefix;
  for (const Field& field : plan.fields) {
    if (!field.plugin) continue;
    installers::PluginLaunch launch = TRY(installers::plugin_launch(*field.record));
    std::string place = place_of_plugin(field, places);
    std::vector<std::string> targets = launch.at;
    targets.push_back(place);
    for (const std::string& target : targets) {
      if (!can_be_covered(target)) {
        return make_error("plugin " + field.name, target, "can't be covered by its layer",
                          "have the plugin name another directory in `at`");
      }
      isolation::Bind bind{layer_path(field.record->layers.front(), store), target};
      bind.owned = true;
      spec.binds.push_back(std::move(bind));
    }
    for (const std::string& word : launch.prefix)
      prefix.push_back(installers::with_layer(word, place));
  }
  spec.argv.insert(spec.argv.begin(), prefix.begin(), prefix.end());
  return {};
}

// In the order of the fields; each may name what is there already.
Status add_plugins_variables(const Plan& plan, const Places& places, Environment& variables) {
  for (const Field& field : plan.fields) {
    if (!field.plugin) continue;
    installers::PluginLaunch launch = TRY(installers::plugin_launch(*field.record));
    for (const auto& [name, value] : launch.env) {
      std::string text = installers::with_layer(value, place_of_plugin(field, places));
      variables[name] = config::expand_variables(text, variables);
    }
  }
  return {};
}

// A virtualenv inside the working directory is excluded from its layer, but needed: it comes back
// at its place, as a mount of its own.
void keep_interpreter(const PlanRequest& request, const Plan& plan, const Places& places,
                      Spec& spec) {
  const std::string& working_dir = places.working_dir;
  if (working_dir.empty() || plan.find("working_dir")->in_place()) return;
  std::vector<std::string> prefixes;
  if (plan.python) {
    prefixes = plan.python->mounts;
  } else if (auto found = request.variables.find("VIRTUAL_ENV"); found != request.variables.end()) {
    prefixes.push_back(found->second);
  }
  for (const std::string& prefix : prefixes) {
    if (!sys::is_beneath(prefix, working_dir) || prefix == working_dir || !is_directory(prefix))
      continue;
    spec.overlays.front().mkdirs.push_back(prefix.substr(working_dir.size() + 1));
    bool mounted = std::any_of(spec.overlays.begin(), spec.overlays.end(),
                               [&](const Overlay& overlay) { return overlay.target == prefix; });
    if (!mounted) spec.binds.push_back({prefix, prefix, false, false});
  }
}

// Each list is searched from the left: what is put first wins.
void prepend(Environment& variables, const std::string& name, const std::string& entry) {
  std::string& value = variables[name];
  value = value.empty() ? entry : entry + ":" + value;
}

bool has_entry(const std::string& list, const std::string& entry) {
  return (":" + list + ":").find(":" + entry + ":") != std::string::npos;
}

// Whoever composed the list himself, as Ray's agent does, knows better where they belong.
void set_python_path(const Places& places, Environment& variables) {
  std::vector<std::string> entries = places.modules;
  if (!places.working_dir.empty()) entries.insert(entries.begin(), places.working_dir);
  auto found = variables.find("PYTHONPATH");
  std::string given = found == variables.end() ? "" : found->second;
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    if (!has_entry(given, *entry)) prepend(variables, "PYTHONPATH", *entry);
  }
}

// Behind the jars comes what a JVM would have without the list: the caller's, or where it starts.
void set_class_path(const Places& places, Environment& variables) {
  if (places.jars.empty()) return;
  std::string& list = variables.try_emplace("CLASSPATH", ".").first->second;
  for (auto jar = places.jars.rbegin(); jar != places.jars.rend(); ++jar)
    list = *jar + "/*:" + *jar + (list.empty() ? "" : ":" + list);
}

// The scripts that the packages bring must be found, as in an activated environment.
void set_path(const Plan& plan, Environment& variables) {
  if (!plan.python) return;
  std::string scripts = sys::absolute_path(plan.python->scheme.scripts, plan.python->mount());
  if (!has_entry(variables["PATH"], scripts)) prepend(variables, "PATH", scripts);
}

// As activating it sets them; the runtime env's own come after these.
PlanRequest with_conda_variables(PlanRequest request, const Plan& plan) {
  const Field* conda = plan.find("conda");
  if (conda == nullptr) return request;
  auto mounts = installers::packages_mounts(*conda->record);
  if (!mounts || mounts->empty()) return request;
  const std::string& prefix = mounts->front().target;
  for (const auto& [name, value] : installers::conda_variables(*conda->record))
    request.variables[name] = value;
  for (const char* name : {"PYTHONHOME", "VIRTUAL_ENV"}) request.variables.erase(name);
  request.variables["CONDA_PREFIX"] = request.variables["CONDA_DEFAULT_ENV"] = prefix;
  request.variables["CONDA_SHLVL"] = "1";
  prepend(request.variables, "PATH", prefix + "/bin");
  if (request.env.conda)
    for (const auto& [name, value] : request.env.conda->variables) request.variables[name] = value;
  return request;
}

// Of the caller's variables only those that the policy names; what a loader heeds is never among
// them.
PlanRequest with_allowed_variables(PlanRequest request, const std::vector<std::string>& allowed) {
  std::erase_if(request.variables, [&](const auto& variable) {
    const std::string& name = variable.first;
    bool fine = std::any_of(allowed.begin(), allowed.end(), [&](const std::string& pattern) {
      return config::matches(pattern, name);
    });
    return !fine || name.starts_with("LD_");
  });
  return request;
}

Result<std::vector<std::string>> worker_environment(const Shape& shape, const PlanRequest& request,
                                                    const Plan& plan, const Places& places,
                                                    const std::string& cwd) {
  PlanRequest allowed =
      shape.environment ? with_allowed_variables(request, *shape.environment) : request;
  Environment variables =
      installers::expanded_variables(with_conda_variables(std::move(allowed), plan));
  TRY(add_plugins_variables(plan, places, variables));
  set_python_path(places, variables);
  set_class_path(places, variables);
  set_path(plan, variables);
  if (shape.shared) name_raylet(variables);
  variables["PWD"] = cwd;
  std::vector<std::string> list;
  for (const auto& [name, value] : variables) list.push_back(name + "=" + value);
  return list;
}

std::string home_of(const Environment& variables) {
  auto home = variables.find("HOME");
  if (home == variables.end() || home->second.empty() || home->second[0] != '/') return "";
  auto real = sys::real_path(home->second);
  return real && *real != "/" && is_directory(*real) ? *real : "";
}

void hide(const RunOptions& options, std::vector<std::string> hidden, Spec& spec) {
  spec.hidden = std::move(hidden);
  spec.hidden.insert(spec.hidden.end(), options.hidden.begin(), options.hidden.end());
  for (std::string& other : other_sessions(options.session)) spec.hidden.push_back(other);
}

void bind(const RunOptions& options, Spec& spec) {
  for (const auto& [source, target] : options.binds) spec.binds.push_back({source, target});
}

// What of the host is there, and how.
void take_shape(const Shape& shape, const PlanRequest& request, Spec& spec) {
  if (shape.shared) {
    spec.root = isolation::Root::kShared;
    spec.same_pid = true;
    spec.pid1_shown_as = shown_as_raylet(request.variables);
    // With a terminal its keys go to our group, and a shell wants to be in it.
    spec.new_session = !::isatty(STDIN_FILENO);
    return;
  }
  std::string home = home_of(request.variables);
  if (shape.home && !home.empty()) spec.writable.push_back(home);
}

}  // namespace

namespace {

// A command in an image begins with the image's variables, as in any container; what the terminal
// can do is the host's to say.
PlanRequest with_variables_of(const installers::ImageFacts& image, const Shape& shape,
                              PlanRequest request) {
  Environment variables = {{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
                           {"HOME", image.home}};
  if (auto term = request.variables.find("TERM"); term != request.variables.end()) {
    variables.insert(*term);
  }
  for (const std::string& variable : image.env) {
    size_t equals = variable.find('=');
    if (equals == std::string::npos || equals == 0) continue;
    variables[variable.substr(0, equals)] = variable.substr(equals + 1);
  }
  if (shape.environment) request = with_allowed_variables(std::move(request), *shape.environment);
  if (shape.shared) keep_rays_variables(request.variables, variables);
  request.variables = std::move(variables);
  return request;
}

Result<std::vector<std::string>> command_in(const installers::ImageFacts& image,
                                            const RunOptions& options) {
  if (!options.command.empty()) return options.command;
  std::vector<std::string> command = image.entrypoint;
  command.insert(command.end(), image.command.begin(), image.command.end());
  if (!command.empty()) return command;
  return make_error("command line", "run", "no command, and the image has none of its own",
                    "write what to run at the end: rtlaunch run --image URI -- COMMAND");
}

Result<Spec> spec_in_image(const RunOptions& options, const Shape& shape,
                           const PlanRequest& request, const Plan& plan, const std::string& store,
                           std::vector<std::string> hidden) {
  const Field& field = *plan.find("image_uri");
  installers::ImageFacts image = TRY(installers::image_facts(*field.record));
  Places places = TRY(places_of(options, shape.shared, plan, store));
  Shape without_bounds = shape;  // of the caller's variables hardly any are there
  without_bounds.environment.reset();
  Spec spec;
  spec.argv = TRY(command_in(image, options));
  spec.cwd = places.working_dir.empty() ? image.working_dir : places.working_dir;
  spec.env = TRY(worker_environment(without_bounds, with_variables_of(image, shape, request), plan,
                                    places, spec.cwd));
  bool root = ::geteuid() == 0;
  spec.keep_caps = root;
  if (shape.shared) {
    take_shape(shape, request, spec);
    show_session(options.session, spec);
  } else if (root && image.uid != 0) {
    spec.user = isolation::User{image.uid, image.gid, {}};
  }
  spec.upper_bytes = options.upper_bytes;
  hide(options, std::move(hidden), spec);
  mount_image(plan, store, spec);
  mount_working_dir(options, shape.shared, plan, places, store, spec);
  mount_modules(plan, places, store, spec);
  TRY(mount_plugins(plan, places, store, spec));
  bind(options, spec);
  return spec;
}

}  // namespace

Result<Spec> worker_spec(const RunOptions& options, const Shape& shape, const PlanRequest& request,
                         const Plan& plan, const std::string& store,
                         std::vector<std::string> hidden) {
  if (has_image(plan)) {
    return spec_in_image(options, shape, request, plan, store, std::move(hidden));
  }
  Places places = TRY(places_of(options, shape.shared, plan, store));
  Spec spec;
  spec.argv = options.command;
  spec.cwd = places.working_dir.empty() ? request.cwd : places.working_dir;
  spec.env = TRY(worker_environment(shape, request, plan, places, spec.cwd));
  spec.keep_caps = ::geteuid() == 0;
  spec.upper_bytes = options.upper_bytes;
  take_shape(shape, request, spec);
  hide(options, std::move(hidden), spec);
  mount_working_dir(options, shape.shared, plan, places, store, spec);
  TRY(mount_packages(plan, store, spec));
  show_cwd(request.cwd, spec);
  mount_modules(plan, places, store, spec);
  TRY(mount_plugins(plan, places, store, spec));
  bind(options, spec);
  keep_interpreter(request, plan, places, spec);
  // Parents before what lies in them, else the parent's mount would cover it.
  std::stable_sort(
      spec.overlays.begin(), spec.overlays.end(),
      [](const Overlay& a, const Overlay& b) { return a.target.size() < b.target.size(); });
  return spec;
}

}  // namespace rtlaunch
