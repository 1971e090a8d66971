#include "installers/pip.h"

#include "installers/capture.h"
#include "installers/compose.h"
#include "installers/conflicts.h"
#include "installers/requirement.h"
#include "installers/uv.h"

namespace rtlaunch::installers {
namespace {

bool asks_for_nothing(const std::vector<Requirement>& requirements) {
  for (const Requirement& r : requirements)
    if (r.kind != Requirement::Kind::kOption && r.kind != Requirement::Kind::kConstraint)
      return false;
  return true;
}

Result<Made> make(const Job& job) {
  if (asks_for_nothing(job.requirements)) return Made{};
  TRY(refuse_pins(job.requirements, job.uv, job.context));
  if (auto made = TRY(compose(job))) return std::move(*made);
  return capture(job);
}

}  // namespace

Result<store::Record> make_packages(const config::Packages& packages, const Interpreter& python,
                                    const PackagesContext& context, const store::Key& key,
                                    store::Store& store, Progress& progress) {
  std::vector<Requirement> requirements = TRY(parse_requirements(packages.lines, context));
  Uv uv = TRY(Uv::prepare(packages, python, requirements, context, store));
  std::string field = packages.tool == config::Packages::Tool::kPip ? "pip" : "uv";
  Job job{packages, python, context, key, store, progress, uv, requirements, field};
  Made made = TRY(make(job));
  if (packages.check) TRY(check_consistency(made.packages, uv, python, store, field));
  store::Record record = to_record(job, made);
  if (!made.bytecode.empty()) record = with_bytecode(record, made.bytecode, made.bytecode_complete);
  TRY(store.record(key, record));
  return record;
}

}  // namespace rtlaunch::installers
