// From a runtime env to the layers it needs, and which of them are there. Planning reads and never
// makes anything; it is all that a warm run does. Each field that has no record yet is made by
// make_field, in rtlaunch-build, one process a field.
//
//   Plan plan = TRY(make_plan(request, store));
//   if (!plan.complete()) ...        // make_field for each missing one, then plan again
//   auto leases = TRY(store.acquire_all(plan.layers()));
//
// The records may be somebody else's, a daemon's: then they are asked for all at once, and what
// planning remembers (interpreters, stat caches) stays in the planner's own store.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/allowed.h"
#include "config/runtime_env.h"
#include "installers/image.h"
#include "installers/pip.h"
#include "installers/plugin.h"
#include "installers/progress.h"
#include "installers/python.h"
#include "installers/source.h"
#include "installers/store/store.h"

namespace rtlaunch::installers {

struct PlanRequest {
  config::RuntimeEnv env;
  Environment variables;  // the caller's
  std::string cwd;        // the caller's
  std::string python;     // the interpreter that is wanted; "" to find it
  std::string tools;      // the folder with uv: for plugins, and to build
  // What will be run, as far as that is known: a hint at what it imports first; in no key.
  std::vector<std::string> command;
  bool allow_conflicts = false;
  std::vector<std::string> plugin_folders;  // the last is the administrator's
  config::Allowed
      allowed;  // by the policy; what is not makes planning fail, and nothing is fetched
};

// One layer recipe: an image, a working_dir, one py_module or jar, the packages, or what a plugin
// makes.
struct Field {
  std::string
      name;  // "image_uri", "working_dir", "py_modules[0]", "java_jars[0]", "pip", "uv", ...
  std::optional<Source> source;  // of a working_dir, py_module, jar
  std::optional<ImageRef> image;
  std::optional<Plugin> plugin;
  std::optional<store::Key> key;        // none: used in place, or one before it is to be made first
  std::optional<store::Record> record;  // what the store has for the key
  bool in_place() const { return source && source->kind == Source::Kind::kInPlace; }
  bool is_wheel() const { return source && source->format == Source::Format::kWheel; }
  bool is_packages() const { return !source && !image && !plugin; }
  bool missing() const { return !in_place() && !record; }
};

struct Plan {
  std::optional<Interpreter> python;   // when there are packages; a conda environment's own
  std::vector<Field> fields;           // in the order they can be made
  std::optional<store::Record> known;  // what is remembered of id(), once every field has a key
  bool complete() const;
  const Field* find(const std::string& name) const;
  std::vector<store::Digest> layers() const;  // of all records
  // The environment's name: digest over the fields' keys. env_vars change it not.
  store::Key id() const;
};

// Where records are, and the layers that they name: a store's own, or a daemon's.
class Records {
 public:
  virtual ~Records() = default;
  // Absolute path of the layers' store. A daemon's is known after the first lookup.
  virtual const std::string& store() const = 0;
  // One answer a key, nothing where there is no record.
  virtual Result<std::vector<std::optional<store::Record>>> lookup(
      const std::vector<store::Key>& keys) = 0;
};

// `own` is for what planning itself remembers.
Result<Plan> make_plan(const PlanRequest& request, const store::Store& own, Records& records);
Result<Plan> make_plan(const PlanRequest& request, const store::Store& store);

// Makes plan.fields[index] unless somebody else just did; takes its lock. Build half.
Status make_field(const PlanRequest& request, Plan& plan, size_t index, store::Store& store,
                  Progress& progress);

// The field's variables on top of the caller's, expanded one after the other as Ray's worker does.
Environment expanded_variables(const PlanRequest& request);
Environment expanded_variables(PlanRequest&& request);

// What pip or uv is asked for: the field's, the pip section of a conda environment, and what the
// wheels among py_modules require, as far as they are there. No lines: nothing.
config::Packages packages_of(const config::RuntimeEnv& env, const Plan& plan);

// What the packages are built with. `store` is the path of the store that holds the layers.
Result<PackagesContext> packages_context(const PlanRequest& request, const Plan& plan,
                                         const std::string& store);
Result<PackagesContext> packages_context(const PlanRequest& request, const Plan& plan,
                                         const store::Store& store);

}  // namespace rtlaunch::installers
