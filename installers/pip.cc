#include "installers/pip.h"

#include <fcntl.h>

#include <algorithm>

#include "installers/capture.h"
#include "installers/compose.h"
#include "installers/conflicts.h"
#include "installers/requirement.h"
#include "installers/uv.h"
#include "installers/way_out.h"
#include "installers/zip.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

bool asks_for_nothing(const std::vector<Requirement>& requirements) {
  return std::none_of(requirements.begin(), requirements.end(), [](const Requirement& r) {
    bool says_how =
        r.kind == Requirement::Kind::kOption || r.kind == Requirement::Kind::kConstraint;
    return !says_how || r.option == "--requirement";  // a file that only the installer can find
  });
}

// uv leaves out of a wheel what leads out of it, and says nothing.
Status check_local_wheels(const std::vector<Requirement>& requirements) {
  for (const Requirement& r : requirements) {
    if (r.kind != Requirement::Kind::kPath || !r.path.ends_with(".whl")) continue;
    auto wheel = sys::open_at(AT_FDCWD, r.path, O_RDONLY | O_NONBLOCK);
    if (wheel) TRY(Zip::open(wheel->get(), sys::leaf_of(r.path)));
  }
  return {};
}

// The forwarders would refuse them; so it is said before anything is asked.
Status check_named(const Job& job, const Places& named) {
  for (const Place& place : named) {
    if (kind_of_host(place.host) == Reachable::kForbidden)
      return make_error(job.field, shown(place), "no build may reach this address",
                        "link-local and cloud metadata addresses hold no packages: name an index "
                        "that does");
  }
  return {};
}

Status lead_outside(const Job& job, Uv& uv) {
  if (asks_for_nothing(job.requirements)) {
    uv.set_way_out({});
    return {};
  }
  InstallCommand command = TRY(install_command(job.packages, job.context.cwd));
  WayOut way_out = way_out_of(job, &command);
  TRY(check_named(job, way_out.named));
  uv.set_way_out(std::move(way_out));
  return {};
}

Result<Made> make(const Job& job) {
  if (asks_for_nothing(job.requirements)) return Made{};
  TRY(check_local_wheels(job.requirements));
  TRY(refuse_pins(job.requirements, job.uv, job.context));
  if (auto made = TRY(compose(job))) return std::move(*made);
  return capture(job);
}

}  // namespace

Result<store::Record> make_packages(const config::Packages& asked, const Interpreter& python,
                                    const PackagesContext& context, const store::Key& key,
                                    store::Store& store, Progress& progress) {
  config::Packages packages = asked;
  packages.lines = TRY(with_included(asked.lines, context));
  std::vector<Requirement> requirements = TRY(parse_requirements(packages.lines, context));
  Uv uv = TRY(Uv::prepare(packages, python, requirements, context, store));
  std::string field = packages.tool == config::Packages::Tool::kPip ? "pip" : "uv";
  Job job{packages, python, context, key, store, progress, uv, requirements, field};
  TRY(lead_outside(job, uv));
  Made made = TRY(make(job));
  if (packages.check) TRY(check_consistency(made.packages, uv, python, store, field));
  store::Record record = to_record(job, made);
  if (!made.bytecode.empty()) record = with_bytecode(record, made.bytecode, made.bytecode_complete);
  TRY(store.record(key, record));
  return record;
}

}  // namespace rtlaunch::installers
