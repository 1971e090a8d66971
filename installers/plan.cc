#include "installers/plan.h"

#include <algorithm>
#include <set>

#include "config/runtime_env.h"
#include "installers/allowed_sources.h"
#include "installers/conda.h"
#include "installers/requirement.h"
#include "installers/uv_run.h"
#include "installers/wheel_needs.h"

namespace rtlaunch::installers {
namespace {

class StoreRecords : public Records {
 public:
  explicit StoreRecords(const store::Store& store) : store_(store) {}
  const std::string& store() const override { return store_.path(); }
  Result<std::vector<std::optional<store::Record>>> lookup(
      const std::vector<store::Key>& keys) override {
    std::vector<std::optional<store::Record>> records;
    for (const store::Key& key : keys) records.push_back(TRY(store_.lookup(key)));
    return records;
  }

 private:
  const store::Store& store_;
};

Result<Field> plan_source(const std::string& name, const std::string& text, SourceUse use,
                          const PlanRequest& request, const store::Store& own) {
  Field field;
  field.name = name;
  field.source = TRY(classify_source(text, request.cwd, use));
  if (!field.in_place()) {
    field.key = TRY(source_key(*field.source, request.env.excludes, own));
  }
  return field;
}

Result<Field> plan_image(const PlanRequest& request, const store::Store& own) {
  Field field;
  field.name = "image_uri";
  field.image = TRY(parse_image_ref(request.env.image->uri, request.cwd));
  field.image->special_files = config::keeps_special_files(request.env.image->uri, request.allowed);
  field.key = TRY(image_key(*field.image, own));
  return field;
}

// Stands for the image's own Python, of which nothing is asked before its layers are there.
Interpreter python_of(const store::Record& image) {
  store::Hasher hash;
  hash.field("python of an image").number(1);
  for (const store::Digest& layer : image.layers) hash.field(layer.hex);
  Interpreter python;
  python.prefix = "/nonexistent";
  python.fingerprint = hash.hex();
  return python;
}

bool uses_working_dir(const config::Packages& packages) {
  for (const std::string& line : packages.lines) {
    if (line.find("RAY_RUNTIME_ENV_CREATE_WORKING_DIR") != std::string::npos) return true;
  }
  return false;
}

// Without a key when the working_dir it reads, or the image that it is for, has to be made first.
Result<Field> plan_packages(const PlanRequest& request, const Plan& plan, bool reads_working_dir,
                            Records& records) {
  PackagesContext context = TRY(packages_context(request, plan, records.store()));
  const config::Packages packages = with_variables(packages_of(request.env, plan), context);
  Field field;
  field.name = packages.tool == config::Packages::Tool::kPip ? "pip" : "uv";
  const Field* working_dir = plan.find("working_dir");
  const Field* image = plan.find("image_uri");
  if (reads_working_dir && working_dir != nullptr && working_dir->missing()) return field;
  if (image != nullptr && image->missing()) return field;
  Interpreter python = image != nullptr ? python_of(*image->record) : *plan.python;
  TRY(check_sources(packages, context, python, request.allowed));
  field.key = TRY(packages_key(packages, python, context));
  return field;
}

Status plan_plugins(const PlanRequest& request, Plan& plan) {
  for (const auto& [name, value] : request.env.plugins) {
    Field field;
    field.name = name;
    field.plugin = TRY(name == kUvRun ? uv_run_plugin(request.tools, value)
                                      : find_plugin(name, request.plugin_folders));
    field.key = plugin_key(*field.plugin, value);
    plan.fields.push_back(std::move(field));
  }
  return {};
}

bool all_named(const Plan& plan) {
  return std::all_of(plan.fields.begin(), plan.fields.end(),
                     [](const Field& field) { return field.in_place() || field.key; });
}

// All in one question: it may be a daemon that is asked.
Status look_up(Records& records, Plan& plan) {
  std::vector<store::Key> keys;
  std::vector<std::optional<store::Record>*> places;
  plan.known.reset();
  for (Field& field : plan.fields) {
    if (!field.key || field.record) continue;
    keys.push_back(*field.key);
    places.push_back(&field.record);
  }
  if (!plan.fields.empty() && all_named(plan)) {
    keys.push_back(plan.id());
    places.push_back(&plan.known);
  }
  if (keys.empty()) return {};
  auto found = TRY(records.lookup(keys));
  for (size_t i = 0; i < places.size(); ++i) *places[i] = std::move(found.at(i));
  return {};
}

// Its Python, and so all of its pip section, is known once it is made.
Status plan_conda(const PlanRequest& request, Records& records, Plan& plan) {
  Field field;
  field.name = "conda";
  field.key = TRY(conda_key(*request.env.conda, request.variables, conda_prefix(records.store())));
  plan.fields.push_back(std::move(field));
  TRY(look_up(records, plan));
  const auto& record = plan.fields.back().record;
  if (!record) return {};
  TRY(check_channels(*record, request.allowed));
  plan.python = TRY(conda_python(*record));
  return {};
}

Status plan_list(const std::vector<std::string>& texts, SourceUse use, const PlanRequest& request,
                 const store::Store& own, Plan& plan) {
  for (size_t i = 0; i < texts.size(); ++i) {
    std::string name = std::string(field_of(use)) + "[" + std::to_string(i) + "]";
    plan.fields.push_back(TRY(plan_source(name, texts[i], use, request, own)));
  }
  return {};
}

Status plan_sources(const PlanRequest& request, const store::Store& own, Plan& plan) {
  if (request.env.working_dir) {
    plan.fields.push_back(TRY(plan_source("working_dir", *request.env.working_dir,
                                          SourceUse::kWorkingDir, request, own)));
  }
  TRY(plan_list(request.env.py_modules, SourceUse::kPyModule, request, own, plan));
  return plan_list(request.env.java_jars, SourceUse::kJavaJar, request, own, plan);
}

}  // namespace

bool Plan::complete() const {
  for (const Field& field : fields) {
    if (field.missing()) return false;
  }
  return true;
}

const Field* Plan::find(const std::string& name) const {
  for (const Field& field : fields) {
    if (field.name == name) return &field;
  }
  return nullptr;
}

std::vector<store::Digest> Plan::layers() const {
  std::vector<store::Digest> digests;
  for (const Field& field : fields) {
    if (field.record) {
      digests.insert(digests.end(), field.record->layers.begin(), field.record->layers.end());
    }
  }
  return digests;
}

store::Key Plan::id() const {
  store::Hasher hash;
  hash.field("environment");
  for (const Field& field : fields) {
    hash.field(field.name).field(field.key ? field.key->hex : field.source->path);
  }
  return store::Key{hash.hex()};
}

config::Packages packages_of(const config::RuntimeEnv& env, const Plan& plan) {
  config::Packages packages;
  if (env.packages) packages = *env.packages;
  if (env.conda) {
    packages.tool = config::Packages::Tool::kPip;  // --pip and --uv come on top of it
    packages.lines.insert(packages.lines.begin(), env.conda->pip.begin(), env.conda->pip.end());
  }
  for (const Field& field : plan.fields) {
    if (!field.is_wheel() || !field.record) continue;
    std::vector<std::string> needs = wheel_needs(*field.record);
    packages.lines.insert(packages.lines.end(), needs.begin(), needs.end());
  }
  return packages;
}

namespace {

Environment with_env_vars(Environment variables, const PlanRequest& request) {
  for (const auto& [name, value] : request.env.env_vars) {
    variables[name] = config::expand_variables(value, variables);
  }
  return variables;
}

}  // namespace

Environment expanded_variables(const PlanRequest& request) {
  return with_env_vars(request.variables, request);
}

Environment expanded_variables(PlanRequest&& request) {
  return with_env_vars(std::move(request.variables), request);
}

namespace {

// Where packages come from may be said by env_vars, too: they are an install's variables.
bool is_for_installers(const std::string& name) {
  static const std::set<std::string> kOthers = {
      "HTTP_PROXY",     "HTTPS_PROXY", "ALL_PROXY",         "NO_PROXY",      "http_proxy",
      "https_proxy",    "all_proxy",   "no_proxy",          "SSL_CERT_FILE", "SSL_CERT_DIR",
      "CURL_CA_BUNDLE", "NETRC",       "REQUESTS_CA_BUNDLE"};
  return name.starts_with("PIP_") || name.starts_with("UV_") || kOthers.count(name) != 0;
}

}  // namespace

Result<PackagesContext> packages_context(const PlanRequest& request, const Plan& plan,
                                         const std::string& store) {
  PackagesContext context;
  context.environment = request.variables;
  Environment expanded;
  if (!request.env.env_vars.empty()) expanded = expanded_variables(request);
  for (const auto& [name, value] : request.env.env_vars) {
    context.env_vars.emplace_back(name, expanded[name]);
    if (is_for_installers(name)) context.environment[name] = expanded[name];
  }
  context.cwd = request.cwd;
  context.tools = request.tools;
  context.command = request.command;
  // What a conda environment's own author puts on top of it may replace parts of it; and no code of
  // its packages runs outside of a sandbox, as it would to plan with.
  context.allow_conflicts = request.allow_conflicts || request.env.conda;
  context.capture_only = request.env.conda.has_value();
  context.timeout_seconds = request.env.config.setup_timeout_seconds;
  const Field* working_dir = plan.find("working_dir");
  if (working_dir != nullptr && working_dir->in_place()) {
    // Used in place: its content has no digest of ours, so the path stands for it.
    context.working_dir = {working_dir->source->path, "in place: " + working_dir->source->path};
  } else if (working_dir != nullptr && working_dir->record) {
    const store::Digest& digest = working_dir->record->layers.front();
    context.working_dir = {store + "/" + store::Store::layer_name(digest), digest.hex};
  }
  return context;
}

Result<PackagesContext> packages_context(const PlanRequest& request, const Plan& plan,
                                         const store::Store& store) {
  return packages_context(request, plan, store.path());
}

namespace {

// What wheels require is known once they are there.
Status look_for_wheels(Records& records, Plan& plan) {
  bool some = std::any_of(plan.fields.begin(), plan.fields.end(),
                          [](const Field& field) { return field.is_wheel(); });
  return some ? look_up(records, plan) : Status();
}

Status plan_all_packages(const PlanRequest& request, const store::Store& own, Records& records,
                         Plan& plan) {
  TRY(look_for_wheels(records, plan));
  const config::Packages packages = packages_of(request.env, plan);
  if (packages.lines.empty()) return {};
  bool asked = request.env.packages || request.env.conda;
  if (!asked) TRY(config::check_field("pip", request.allowed));
  if (request.env.conda && plan.find("conda")->missing()) {
    plan.fields.push_back({});
    plan.fields.back().name = "pip";
    return {};
  }
  if (!request.env.conda && !request.env.image)
    plan.python = TRY(find_interpreter(request.python, request.variables, request.cwd, own));
  if (!plan.python && !request.env.image)
    return make_error("conda", "pip", "the environment has no Python for it");
  bool reads_working_dir = uses_working_dir(packages);
  if (reads_working_dir || request.env.image) TRY(look_up(records, plan));
  plan.fields.push_back(TRY(plan_packages(request, plan, reads_working_dir, records)));
  return {};
}

}  // namespace

Result<Plan> make_plan(const PlanRequest& request, const store::Store& own, Records& records) {
  TRY(config::check_fields(request.env, request.allowed));
  if (request.env.image && request.env.conda) {
    return make_error("conda", "image_uri", "a conda environment can't be put into an image yet",
                      "leave one of them out");
  }
  Plan plan;
  if (request.env.image) plan.fields.push_back(TRY(plan_image(request, own)));
  TRY(plan_sources(request, own, plan));
  if (request.env.conda) TRY(plan_conda(request, records, plan));
  TRY(plan_all_packages(request, own, records, plan));
  TRY(plan_plugins(request, plan));
  TRY(look_up(records, plan));
  return plan;
}

Result<Plan> make_plan(const PlanRequest& request, const store::Store& store) {
  StoreRecords records(store);
  return make_plan(request, store, records);
}

}  // namespace rtlaunch::installers
