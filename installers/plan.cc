#include "installers/plan.h"

#include "config/runtime_env.h"

namespace rtlaunch::installers {
namespace {

Result<Field> plan_source(const std::string& name, const std::string& text, SourceUse use,
                          const PlanRequest& request, const store::Store& store) {
  Field field;
  field.name = name;
  field.source = TRY(classify_source(text, request.cwd, use));
  if (field.in_place()) return field;
  field.key = TRY(source_key(*field.source, request.env.excludes, store));
  field.record = TRY(store.lookup(*field.key));
  return field;
}

bool uses_working_dir(const config::Packages& packages) {
  for (const std::string& line : packages.lines) {
    if (line.find("RAY_RUNTIME_ENV_CREATE_WORKING_DIR") != std::string::npos) return true;
  }
  return false;
}

Result<Field> plan_packages(const PlanRequest& request, Plan& plan, const store::Store& store) {
  const config::Packages& packages = *request.env.packages;
  Field field;
  field.name = packages.tool == config::Packages::Tool::kPip ? "pip" : "uv";
  const Field* working_dir = plan.find("working_dir");
  bool must_wait = working_dir != nullptr && working_dir->missing() && uses_working_dir(packages);
  if (must_wait) return field;
  PackagesContext context = TRY(packages_context(request, plan, store));
  field.key = TRY(packages_key(packages, *plan.python, context));
  field.record = TRY(store.lookup(*field.key));
  return field;
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

Environment expanded_variables(const PlanRequest& request) {
  Environment variables = request.variables;
  for (const auto& [name, value] : request.env.env_vars) {
    variables[name] = config::expand_variables(value, variables);
  }
  return variables;
}

Result<PackagesContext> packages_context(const PlanRequest& request, const Plan& plan,
                                         const store::Store& store) {
  PackagesContext context;
  context.environment = request.variables;
  Environment expanded = expanded_variables(request);
  for (const auto& [name, value] : request.env.env_vars) {
    context.env_vars.emplace_back(name, expanded[name]);
  }
  context.cwd = request.cwd;
  context.tools = request.tools;
  context.allow_conflicts = request.allow_conflicts;
  context.timeout_seconds = request.env.config.setup_timeout_seconds;
  const Field* working_dir = plan.find("working_dir");
  if (working_dir != nullptr && working_dir->in_place()) {
    // Used in place: its content has no digest of ours, so the path stands for it.
    context.working_dir = {working_dir->source->path, "in place: " + working_dir->source->path};
  } else if (working_dir != nullptr && working_dir->record) {
    const store::Digest& digest = working_dir->record->layers.front();
    context.working_dir = {store.layer_path(digest), digest.hex};
  }
  return context;
}

Result<Plan> make_plan(const PlanRequest& request, const store::Store& store) {
  Plan plan;
  if (request.env.working_dir) {
    plan.fields.push_back(TRY(plan_source("working_dir", *request.env.working_dir,
                                          SourceUse::kWorkingDir, request, store)));
  }
  for (size_t i = 0; i < request.env.py_modules.size(); ++i) {
    plan.fields.push_back(
        TRY(plan_source("py_modules[" + std::to_string(i) + "]", request.env.py_modules[i],
                        SourceUse::kPyModule, request, store)));
  }
  if (request.env.packages && !request.env.packages->lines.empty()) {
    plan.python = TRY(find_interpreter(request.python, request.variables, request.cwd, store));
    plan.fields.push_back(TRY(plan_packages(request, plan, store)));
  }
  return plan;
}

}  // namespace rtlaunch::installers
