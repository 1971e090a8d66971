#include <fcntl.h>

#include "installers/conda.h"
#include "installers/pip.h"
#include "isolation/enter.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {

Status enter_conda(const store::Record& record, store::Store& store) {
  auto mounts = TRY(packages_mounts(record));
  if (mounts.size() != 1) return make_error("conda", record.name, "has nothing to be mounted");
  std::vector<std::string> lowers;
  for (const store::Digest& digest : mounts[0].layers) lowers.push_back(store.layer_path(digest));
  // With a caller his uv and his compilers have to get there: the store lets through who can name
  // what he looks for, as for uv's own folder.
  if (sys::acting_for() != nullptr) (void)TRY(store.uv_home());
  sys::AsRoot root;
  TRY(sys::make_dirs_at(store.dir(), "conda", 0700));
  store::Staging work = TRY(store.stage());
  return isolation::enter_overlay(mounts[0].target, lowers, work.tree(),
                                  sys::acting_for() != nullptr);
}

}  // namespace rtlaunch::installers
