// The build half of plan.h: what a missing field costs.
#include <algorithm>
#include <chrono>

#include "installers/allowed_sources.h"
#include "installers/conda.h"
#include "installers/image_make.h"
#include "installers/image_packages.h"
#include "installers/plan.h"
#include "installers/requirement.h"
#include "installers/wheel_needs.h"
#include "installers/working_dir.h"

namespace rtlaunch::installers {
namespace {

Deadline deadline_of(const PlanRequest& request) {
  if (!request.env.config.setup_timeout_seconds) return Deadline::max();
  return std::chrono::steady_clock::now() +
         std::chrono::seconds(*request.env.config.setup_timeout_seconds);
}

CondaContext conda_context(const PlanRequest& request) {
  return {request.variables, request.cwd, request.tools, request.allowed, deadline_of(request)};
}

const std::string& value_of(const PlanRequest& request, const std::string& plugin) {
  const auto& plugins = request.env.plugins;
  return std::find_if(plugins.begin(), plugins.end(),
                      [&](const auto& one) { return one.first == plugin; })
      ->second;
}

// Nobody has written these lines: who did is part of the cause.
Error told(Error error, const Plan& plan) {
  for (const Field& field : plan.fields) {
    if (field.is_wheel() && field.record && !wheel_needs(*field.record).empty())
      error.reason += " (" + field.source->shown + " in py_modules has requirements, too)";
  }
  return error;
}

}  // namespace

Status make_field(const PlanRequest& request, Plan& plan, size_t index, store::Store& store,
                  Progress& progress) {
  Field& field = plan.fields[index];
  if (!field.key) {
    return make_error(field.name, "", "what it is built from isn't there yet",
                      "make the working_dir, or the image, first");
  }
  const Field* conda = plan.find("conda");
  if (field.name == "pip" && conda != nullptr) TRY(enter_conda(*conda->record, store));
  UniqueFd lock = TRY(store.lock(*field.key, [&] {
    progress.report({field.name, "wait", "somebody else makes the same", 0, 0});
  }));
  field.record = TRY(store.lookup(*field.key));
  if (field.record && TRY(store.acquire_all(field.record->layers))) return {};
  if (field.name == "conda") {
    CondaContext context = conda_context(request);
    field.record = TRY(make_conda(*request.env.conda, context, *field.key, store, progress));
    return {};
  }
  if (field.image) {
    field.record = TRY(make_image(*field.image, *field.key, expanded_variables(request), store,
                                  progress, deadline_of(request)));
    return {};
  }
  if (field.plugin) {
    field.record = TRY(make_plugin_layer(*field.plugin, value_of(request, field.name), *field.key,
                                         request.allowed, store, progress, deadline_of(request)));
    return {};
  }
  if (!field.source) {
    PackagesContext context = TRY(packages_context(request, plan, store));
    const config::Packages packages = with_variables(packages_of(request.env, plan), context);
    TRY(check_included(packages, context, request.allowed));
    if (const Field* image = plan.find("image_uri")) {
      field.record =
          TRY(make_image_packages(packages, *image->record, context, *field.key, store, progress));
      return {};
    }
    auto made = make_packages(packages, *plan.python, context, *field.key, store, progress);
    if (!made) return told(std::move(made.error()), plan);
    field.record = std::move(*made);
    return {};
  }
  field.record = TRY(make_source_layer(*field.source, *field.key, request.env.excludes, store,
                                       progress, deadline_of(request)));
  return {};
}

}  // namespace rtlaunch::installers
