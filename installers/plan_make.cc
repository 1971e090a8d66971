// The build half of plan.h: what a missing field costs.
#include <chrono>

#include "installers/allowed_sources.h"
#include "installers/plan.h"
#include "installers/working_dir.h"

namespace rtlaunch::installers {
namespace {

Deadline deadline_of(const PlanRequest& request) {
  if (!request.env.config.setup_timeout_seconds) return Deadline::max();
  return std::chrono::steady_clock::now() +
         std::chrono::seconds(*request.env.config.setup_timeout_seconds);
}

}  // namespace

Status make_field(const PlanRequest& request, Plan& plan, size_t index, store::Store& store,
                  Progress& progress) {
  Field& field = plan.fields[index];
  if (!field.key) {
    return make_error(field.name, "", "the working_dir it is built from isn't there yet",
                      "make the working_dir first");
  }
  UniqueFd lock = TRY(store.lock(*field.key, [&] {
    progress.report({field.name, "wait", "somebody else makes the same", 0, 0});
  }));
  field.record = TRY(store.lookup(*field.key));
  if (field.record && TRY(store.acquire_all(field.record->layers))) return {};
  if (!field.source) {
    PackagesContext context = TRY(packages_context(request, plan, store));
    TRY(check_included(*request.env.packages, context, request.allowed));
    field.record = TRY(
        make_packages(*request.env.packages, *plan.python, context, *field.key, store, progress));
    return {};
  }
  field.record = TRY(make_source_layer(*field.source, *field.key, request.env.excludes, store,
                                       progress, deadline_of(request)));
  return {};
}

}  // namespace rtlaunch::installers
